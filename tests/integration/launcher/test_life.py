# SPDX-License-Identifier: Apache-2.0
"""What a job goes through, with the launcher's archive run by a real Python and engines that misbehave."""

import http.client
import json
import os
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import pytest


def ask(address: dict[str, Any], path: str) -> int:
    """Ask an engine at the address that status gives."""
    connection = http.client.HTTPConnection("localhost", address.get("port", 0), timeout=10)
    if address["kind"] == "unix":
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(address["path"])
    try:
        connection.request("GET", path)
        with connection.getresponse() as answer:
            answer.read()
            return answer.status
    finally:
        connection.close()


def test_an_engine_becomes_ready_serves_and_ends_when_asked(node: Any) -> None:
    job = node.launch(node.engine("WellBehavedEngine"))
    ready = job.until("READY")
    assert ready["progress"] == {"fraction": 1.0, "text": "ready"}
    assert ready["load_s"] > 0
    assert ready["connections"] is None
    assert ask(ready["address"], "/health") == 200
    assert job.end() == 0
    assert job.status()["state"] == "ENDED"
    assert job.instance() | {"state_for_s": 0} == ready | {
        "state": "ENDED",
        "reason": "CANCELLED",
        "detail": "SIGTERM from outside",
        "state_for_s": 0,
        "address": None,
        "exit": {"code": 0, "signal": None, "log_tail": ["Loading shards: 50% Completed", "asked to end"]},
    }
    assert job.exit("i-a") == job.exit()
    assert job.exit()["reason"] == "CANCELLED"
    assert not Path(ready["address"]["path"]).exists()


def test_the_status_says_which_start_of_which_job_it_is_and_counts_up(node: Any) -> None:
    job = node.launch(node.engine("WellBehavedEngine"), env={"SLURM_JOB_ID": "4711"}, walltime_s=3600)
    job.until("READY")
    first = job.status()
    job.end()
    last = job.status()
    assert (first["schema"], first["job"], first["scheduler_id"]) == (1, "j-test", "4711")
    assert (first["host"], first["pid"]) == (socket.gethostname(), job.process.pid)
    assert f"launcher-{first['launcher']}.pyz" == node.archive.name
    assert last["seq"] > first["seq"]
    assert last["uptime_s"] > first["uptime_s"]
    assert 3500 < last["time_left_s"] < first["time_left_s"] <= 3600


def test_only_the_owner_can_read_what_a_job_writes(node: Any) -> None:
    job = node.launch(node.engine("WellBehavedEngine"))
    job.until("READY")
    for also in ({"status.json", "home", "cache"}, {"exit.json"}):
        written = [path for path in job.run_dir.rglob("*") if path.name not in ("job.json", "control.key")]
        assert {"claim", "engine.log", "launcher.log"} | also <= {path.name for path in written}
        assert [path for path in written if stat.S_IMODE(path.lstat().st_mode) & 0o077] == []
        job.end()


def test_of_what_an_engine_kept_for_itself_nothing_stays(node: Any) -> None:
    job = node.launch(node.engine("WellBehavedEngine"))
    job.until("READY")
    for name in ("home", "cache", "work"):
        (job.run_dir / "i-a" / name / "prompts").mkdir(mode=0o500)
    job.end()
    assert sorted(path.name for path in (job.run_dir / "i-a").iterdir()) == ["engine.log", "exit.json"]


def test_a_second_start_ends_at_once_and_touches_nothing(node: Any) -> None:
    job = node.launch(node.engine("WellBehavedEngine"))
    job.until("READY")
    before = (job.run_dir / "status.json").read_bytes()
    second = node.start(job.run_dir, job.job)
    assert second.wait() == 1
    assert second.process.stderr.read().startswith(b"first: DUPLICATE")
    assert (job.run_dir / "status.json").read_bytes() == before
    assert json.loads((job.run_dir / "claim").read_text())["pid"] == job.process.pid
    assert ask(job.instance()["address"], "/health") == 200


def test_loading_is_told_from_the_log_until_time_is_up(node: Any) -> None:
    job = node.launch(node.engine("NeverReadyEngine", start_timeout_s=6))
    node.eventually(lambda: job.instance().get("progress") == {"fraction": 0.4, "text": "loading weights"})
    assert job.instance()["address"] is None
    assert job.wait() == 1
    assert job.exit("i-a")["reason"] == "NEVER_READY"
    assert job.exit()["detail"] == "not ready after 6 s: /health answers 503"


def test_an_engine_that_serves_another_model_never_becomes_ready(node: Any) -> None:
    job = node.launch(node.engine("MisnamedEngine", start_timeout_s=5))
    assert job.wait() == 1
    assert job.exit()["detail"] == "not ready after 5 s: /v1/models lists something-else, not demo"


def test_a_crash_is_explained_by_the_log(node: Any) -> None:
    job = node.launch(node.engine("CrashingEngine"))
    assert job.wait() == 1
    assert job.exit() == {
        "schema": 1,
        "reason": "OUT_OF_MEMORY",
        "detail": "the engine ended by itself with code 1",
        "code": 1,
        "signal": None,
        "log_tail": [
            "torch.OutOfMemoryError: tried to allocate 80 GiB",
            "Engine core initialization failed. See root cause above.",
        ],
    }


def test_exit_code_0_is_no_end_that_anybody_wanted(node: Any) -> None:
    job = node.launch(node.engine("VanishingEngine"))
    job.until("READY")
    assert job.wait() == 1
    assert (job.exit()["reason"], job.exit()["code"]) == ("ENGINE_EXIT", 0)


def test_a_killed_engine_is_reported_with_its_signal(node: Any) -> None:
    job = node.launch(node.engine("WellBehavedEngine"))
    job.until("READY")
    [engine] = [pid for pid in node.bearers("WellBehavedEngine") if pid in node.bearers("FIRST_INSTANCE=i-a")]
    os.kill(engine, signal.SIGKILL)
    assert job.wait() == 1
    assert (job.exit()["reason"], job.exit()["signal"]) == ("ENGINE_EXIT", 9)


def test_an_engine_that_lets_everybody_in_is_not_let_near_anybody(node: Any) -> None:
    job = node.launch(node.engine("UnguardedEngine", loopback=True, key="engine-key-123"))
    assert job.wait() == 1
    assert job.exit()["reason"] == "ENGINE_UNGUARDED"
    assert "/v1/models answered 200" in job.exit()["detail"]


def test_an_engine_on_loopback_is_asked_with_its_own_key(node: Any) -> None:
    job = node.launch(node.engine("WellBehavedEngine", loopback=True, key="engine-key-123"))
    address = job.until("READY")["address"]
    assert (address["kind"], address["host"]) == ("tcp", "127.0.0.1")
    assert ask(address, "/v1/models") == 401
    assert job.end() == 0


def test_missing_weights_are_named_before_anything_starts(node: Any, tmp_path: Path) -> None:
    job = node.launch(node.engine("WellBehavedEngine", files=[str(tmp_path / "x.gguf")]))
    assert job.wait() == 1
    assert job.exit("i-a")["reason"] == "WEIGHTS_MISSING"
    assert job.exit()["detail"] == f"{tmp_path}/x.gguf: No such file or directory"
    assert not (job.run_dir / "i-a" / "engine.log").exists()


def test_a_program_that_does_not_exist_is_named(node: Any) -> None:
    job = node.launch(node.engine("WellBehavedEngine", argv=["no-such-engine", "{socket}"]))
    assert job.wait() == 1
    assert (job.exit()["reason"], job.exit()["detail"]) == (
        "SETUP_FAILED",
        "no-such-engine: No such file or directory",
    )


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        ({"schema": 3}, "schema must be 0 or 1"),
        ({"instances": []}, "instances must name at least one instance"),
        ({"door": {"kind": "window"}}, "door.kind must be one of local, direct, reverse, not 'window'"),
    ],
)
def test_a_job_that_cannot_be_followed_is_refused_in_one_sentence(node: Any, broken: Any, complaint: str) -> None:
    job = (
        node.launch(**({"instances_": None} | broken))
        if "instances" in broken
        else node.launch(node.engine("WellBehavedEngine"), **broken)
    )
    assert job.wait() == 1
    assert job.exit()["reason"] == "SETUP_FAILED"
    assert complaint in job.exit()["detail"]
    assert job.process.stderr.read().count(b"\n") == 1


def test_one_instance_may_end_while_the_other_serves(node: Any) -> None:
    job = node.launch(node.engine("CrashingEngine"), node.engine("WellBehavedEngine", name="i-b"))
    job.until("ENDED", 0)
    ready = job.until("READY", 1)
    assert ask(ready["address"], "/health") == 200
    job.desire(1, i_b={"want": "stop"})
    assert job.wait() == 1
    assert job.exit("i-b")["reason"] == "SCALED_IN"
    assert job.exit()["reason"] == "OUT_OF_MEMORY"


def test_an_engine_gets_a_clean_environment_an_empty_folder_and_no_descriptor_of_ours(node: Any) -> None:
    seen = {"SLURM_JOB_ID": "1", "CUDA_VISIBLE_DEVICES": "0,1", "LC_ALL": "C", "OMP_NUM_THREADS": "2"}
    unseen = {"AWS_SECRET": "canary", "HTTPS_PROXY": "http://canary", "PYTHONPATH": "/canary", "SLURM_JWT": "canary"}
    job = node.launch(
        node.engine("IndiscreetEngine", env={"OWN": "{dir}/x {not_ours}", "HF_HUB_OFFLINE": "0"}), env=seen | unseen
    )
    job.wait()
    folder = job.run_dir / "i-a"
    told, descriptors, working, _ = (folder / "engine.log").read_text().splitlines()
    environment = json.loads(told)
    tmp = Path(environment.pop("TMPDIR"))
    assert len(environment.pop("FIRST_MARK")) == 16
    assert environment == seen | {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "HF_HUB_OFFLINE": "0",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OWN": f"{folder}/x {{not_ours}}",
        "FIRST_INSTANCE": "i-a",
    }
    assert len(str(tmp)) <= 60
    assert descriptors == "descriptors ['0', '1', '2', '3']"  # 3: the listing itself
    assert working == f"working in {folder / 'work'} which holds []"


def test_secrets_are_struck_out_of_logs_and_reports(node: Any) -> None:
    job = node.launch(
        node.engine("IndiscreetEngine", loopback=True, key="engine-key-123"),
        control={"urls": ["http://127.0.0.1:9"], "token_file": "control.key"},
    )
    job.wait()
    assert "the key is ***" in job.exit("i-a")["log_tail"]
    kept = {"job.json", "control.key", "engine.key"}
    for path in job.run_dir.rglob("*"):
        if path.is_file() and path.name not in kept:
            assert b"engine-key-123" not in path.read_bytes(), path
            assert node.token.encode() not in path.read_bytes(), path


def test_long_paths_are_shortened_and_nothing_of_that_is_left(node: Any) -> None:
    job = node.launch(node.engine("WellBehavedEngine"), run="/".join(["a-rather-long-name"] * 8))
    address = job.until("READY")["address"]
    assert len(address["path"]) <= 100
    assert ask(address, "/health") == 200
    assert job.end() == 0
    assert not Path(address["path"]).parent.exists()


def test_a_talkative_engine_fills_no_disk(node: Any) -> None:
    job = node.launch(node.engine("TalkativeEngine"))
    job.until("READY")
    job.end()
    log = job.run_dir / "i-a" / "engine.log"
    old = log.with_name("engine.log.1")
    assert log.stat().st_size <= 8 * 1024 * 1024
    assert old.stat().st_size <= 8 * 1024 * 1024
    lines = (old.read_text() + log.read_text()).splitlines()
    assert lines[-2:] == ["the last line", "asked to end"]
    numbers = [int(line[:6]) for line in lines[:-2]]
    assert numbers == list(range(numbers[0], 20_000))
