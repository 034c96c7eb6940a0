# SPDX-License-Identifier: Apache-2.0
"""The commands against a whole installation, with a real engine."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from installation import Installation, environment

pytestmark = [pytest.mark.llamacpp, pytest.mark.slow, pytest.mark.timeout(120)]
MODEL = "SmolLM2-135M-Instruct"


@pytest.fixture(scope="module")
def first(demo: Installation) -> Any:
    """Run a command as somebody who has said nothing but where the state folder is."""

    def call(*arguments: str, stdin: str = "", code: int = 0, **env: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "firstkit.apps.cli", *arguments],
            env=environment() | {"FIRST_DATA": str(demo.data)} | env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == code, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout if code == 0 else done.stderr

    return call


def test_models_show_what_is_hot(first: Any) -> None:
    (model,) = json.loads(first("models", "--json"))
    assert (model["id"], model["first"]["state"], model["context_length"]) == (MODEL, "hot", 2048)
    header, row = first("models").splitlines()
    assert header.split()[:3] == ["MODEL", "ALIASES", "STATE"]
    assert row.startswith(f"{MODEL}  smollm2")
    assert "  hot " in row


def test_a_hot_model_need_not_be_waited_for(first: Any) -> None:
    assert first("wait", "smollm2") == f"{MODEL} is hot\n"


def test_why_is_one_sentence(first: Any) -> None:
    assert re.fullmatch(rf"{MODEL} is hot at laptop for .*\.\n", first("why", "smollm2"))
    assert "READY" in first("why", "smollm2", "--events")


def test_an_answer_streams_to_a_pipe(first: Any) -> None:
    assert first("chat", "smollm2", "Say hello.", "--max-tokens", "16").strip()
    assert first("chat", "smollm2", "--max-tokens", "16", stdin="Say hello.").strip()


def test_a_mistyped_model_names_the_right_one(first: Any) -> None:
    assert "smollm2" in first("chat", "smolm2", "hi", code=1)
    assert "smollm2" in first("wait", "smolm2", code=1)


def test_a_request_is_found_and_explained(first: Any, demo: Installation) -> None:
    body = {"model": "smollm2", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
    status, headers, _ = demo.request("POST", "/v1/chat/completions", body)
    assert status == 200
    request = headers["x-request-id"]

    def explained() -> str:
        done = demo.first("explain", request, "--data", str(demo.data))
        return done.stdout

    text = demo.until(explained)
    assert headers["x-first-instance"] in text
    assert "answered whole" in text


def test_the_fleet_is_listed(first: Any, demo: Installation) -> None:
    demo.until(lambda: len(demo.instances()) == len(demo.jobs()) == 1 and demo.ready_instances(MODEL))
    (instance,) = json.loads(first("instances", "--json"))
    assert (instance["state"], instance["cluster"]) == ("READY", "laptop")
    (job,) = json.loads(first("jobs", "--json"))
    assert job["id"] == instance["job"]
    (cluster,) = json.loads(first("clusters", "--json"))
    assert (cluster["name"], cluster["stopped"]) == ("laptop", False)
    (deployment,) = json.loads(first("deployments", "--json"))
    assert deployment["instances"] == {"READY": 1}
    assert "listening on unix" in first("deploy", "logs", instance["id"])


def test_a_key_is_made_used_and_revoked(first: Any, demo: Installation, tmp_path: Path) -> None:
    file = tmp_path / "ada.key"
    first("keys", "create", "ada", "--model", "smollm2", "--rpm", "100", "--out", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    key = file.read_text().strip()
    assert key.startswith("fk-")
    demo.until(lambda: demo.request("GET", "/v1/models", key=key)[0] == 200)
    me = json.loads(first("whoami", "--json", "--key-file", str(file)))
    assert (me["name"], me["models"], me["roles"], me["requests_per_minute"]) == ("ada", [MODEL], ["user"], 100)
    assert "operators" in first("jobs", "--url", demo.base_url, "--key-file", str(file), code=1)
    assert key not in first("keys", "list")
    first("keys", "revoke", "ada")
    demo.until(lambda: demo.request("GET", "/v1/models", key=key)[0] == 401)
    assert "no valid key" in first("keys", "revoke", "ada", code=1)


def test_a_file_is_compared_and_applied(first: Any, demo: Installation, tmp_path: Path) -> None:
    file = tmp_path / "new.yaml"
    text = first("deploy", "revisions", "--show", "current")
    file.write_text(text.replace("aliases: [smollm2]", "aliases: [smollm2, tiny]"))
    assert "tiny" in first("deploy", "diff", str(file))
    assert "is applied" in first("deploy", "apply", str(file))
    assert "applied already" in first("deploy", "apply", str(file))
    demo.until(lambda: demo.request("GET", "/v1/models/tiny")[0] == 200)
    file.write_text(text.replace("aliases:", "alliases:"))
    assert "did you mean `aliases`?" in first("deploy", "apply", str(file), code=1)


def test_a_maintenance_is_announced_to_users_and_taken_back(first: Any, demo: Installation) -> None:
    said = first("maintenance", "laptop", "--in", "2d", "--for", "4h", "--note", "new racks")
    assert said.startswith("Announced: maintenance laptop from 20")
    demo.until(lambda: "new racks" in first("clusters"))
    assert "new racks" in first("deploy", "overrides")
    assert "taken back" in first("maintenance", "laptop", "--undo")
    assert "announced here" in first("maintenance", "laptop", "--undo", code=1)
    assert "--for" in first("maintenance", "laptop", "--in", "2d", code=2)


def test_a_cluster_is_stopped_and_resumed(first: Any, demo: Installation) -> None:
    (before,) = demo.until(lambda: demo.ready_instances(MODEL))
    assert "is stopped" in first("stop", "laptop", "--note", "test")
    try:
        demo.until(lambda: not demo.jobs())
        demo.until(lambda: demo.models()[MODEL]["held"])
        assert "first resume" in first("why", "smollm2")
        assert "CLUSTER_STOPPED" in first("wait", "smollm2", code=1)
        (ended,) = (row for row in json.loads(first("instances", "--ended", "--json")) if row["id"] == before)
        assert ended["reason"] == "CLUSTER_STOPPED"
    finally:
        assert "takes jobs again" in first("resume", "laptop")
    assert "not stopped" in first("resume", "laptop", code=1)
    demo.until(lambda: not demo.models()[MODEL]["held"])
    assert first("wait", "smollm2", "--timeout", "60s") == f"{MODEL} is hot\n"


def test_jobs_are_cancelled_without_asking_the_service(first: Any, demo: Installation) -> None:
    demo.until(lambda: len(demo.jobs()) == 1 and demo.ready_instances(MODEL))
    (job,) = demo.jobs()
    assert job["id"] in first("stop", "laptop", "--direct")
    demo.until(lambda: all(one["id"] != job["id"] for one in demo.jobs()))
    demo.until(lambda: demo.ready_instances(MODEL))


def test_what_would_be_submitted_is_shown_with_secrets_masked(first: Any) -> None:
    parts = json.loads(first("deploy", "render", "smollm2-laptop", "--json"))
    script = next(text for name, text in parts.items() if name.endswith("start.sh"))
    assert "exec" in script
    job = json.loads(next(text for name, text in parts.items() if name.endswith("job.json")))
    assert job["instances"][0]["engine"]["kind"] == "llamacpp"
    assert any(name.endswith("control.key") for name in parts["put beside them"].splitlines())


def test_the_doctor_finds_everything_in_order(first: Any, demo: Installation) -> None:
    checks = json.loads(first("doctor", "--json"))
    assert {check["state"] for check in checks} <= {"ok", "warn", "skip"}
    assert any(check["check"] == "laptop: test job" and check["state"] == "ok" for check in checks)
    assert any(check["check"] == "laptop: link" and check["state"] == "ok" for check in checks)
    demo.until(lambda: len(demo.jobs()) == 1)


def test_load_is_measured(first: Any) -> None:
    result = json.loads(first("bench", "smollm2", "-c", "2", "-n", "4", "--max-tokens", "8", "--json"))
    assert (result["sent"], result["complete"], result["errors"]) == (4, 4, {})
    assert result["output_tokens_from"] == "usage"
    assert 0 < result["ttft_s"]["p50"] <= result["latency_s"]["p50"]


@pytest.fixture
def watching(demo: Installation) -> Generator[subprocess.Popen[str]]:
    """Follow the instances as somebody does who pipes them."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "firstkit.apps.cli", "instances", "--watch", "--data", str(demo.data)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        yield process
        process.terminate()


def test_a_new_instance_is_watched_from_its_plan_to_its_readiness(
    watching: subprocess.Popen[str], first: Any, demo: Installation
) -> None:
    assert watching.stdout is not None
    (before,) = demo.until(lambda: demo.ready_instances(MODEL))
    while before not in watching.stdout.readline():  # it watches from now on
        assert watching.poll() is None
    first("deploy", "drain", before)
    seen: list[str] = []
    for line in watching.stdout:
        name, _, state, *_ = line.split()
        if name != before:
            seen.append(state)
        if state == "READY" and name != before:
            break
    assert {"PLANNED", "LOADING"} & set(seen)
    first("deploy", "drain", before, "--undo")


@pytest.mark.parametrize("agent", ["claude", "codex", "opencode", "aider", "continue"])
def test_an_agents_settings_hold_no_key_and_are_written_once(
    first: Any, demo: Installation, tmp_path: Path, agent: str
) -> None:
    first("agent", "configure", agent, "--home", str(tmp_path))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    texts = {path: path.read_text() for path in files}
    assert not any(demo.key in text for text in texts.values())
    assert any(f"http://127.0.0.1:{demo.port}" in text for text in texts.values())
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
    first("agent", "configure", agent, "--home", str(tmp_path))
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == texts
    printed = first("agent", "configure", agent, "--home", str(tmp_path / "none"), "--print")
    assert MODEL in printed
    assert not (tmp_path / "none").exists()


def test_a_settings_file_that_is_a_link_stays_one(first: Any, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles" / "opencode.json"
    real.parent.mkdir()
    real.write_text('{"theme": "dark"}')
    real.chmod(0o644)
    link = tmp_path / ".config" / "opencode" / "opencode.json"
    link.parent.mkdir(parents=True)
    link.symlink_to(real)
    first("agent", "configure", "opencode", "--home", str(tmp_path))
    assert link.is_symlink()
    assert json.loads(real.read_text())["theme"] == "dark"
    assert os.stat(real).st_mode & 0o777 == 0o644  # noqa: PTH116
