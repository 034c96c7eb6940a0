# SPDX-License-Identifier: Apache-2.0
"""Every part killed while requests run: what is cut says so, everything else goes on, and all of it comes back."""

import json
import os
import signal
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from installation import Installation, installation, processes_naming
from paced import Stream, asks, config, paced

pytestmark = pytest.mark.timeout(120)

LONG = "tokens=30 every=0.1"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Generator[Installation]:
    folder = tmp_path_factory.mktemp("crashes")
    deployments = {
        "steady": paced("steady"),
        "pair": paced("pair", min=2, max=2),
        "failing": paced("failing", min=0, arguments=("--unless", str(folder / "cat"))),
    }
    gateway = {"hold_head": "300ms", "comment_every": "300ms"}
    with installation(folder, config=config(deployments=deployments, gateway=gateway)) as it:
        it.wait_hot("steady", "pair")
        yield it


@pytest.fixture(autouse=True)
def _recovered(running: Installation) -> None:
    """Begin with everything up, and with the crashes of other tests forgiven."""
    running.wait_answering()
    for deployment in ("steady", "pair"):
        status, _, body = running.admin("PUT", f"/api/v1/overrides/release/{deployment}", {})
        assert status == 200, body
    running.until(lambda: len(running.ready_instances("steady")) == 1 and len(running.ready_instances("pair")) == 2)


def ask(running: Installation, model: str, text: str = "tokens=1") -> tuple[int, dict[str, str], bytes]:
    return running.request("POST", "/v1/chat/completions", asks(text, model=model))


def ready(running: Installation) -> set[str]:
    """List what serves, of the models that are always kept."""
    return {*running.ready_instances("steady"), *running.ready_instances("pair")}


def begun(running: Installation, model: str, text: str = LONG) -> Stream:
    stream = Stream(running, asks(text, model=model, stream=True))
    stream.wait_for(b"w0 ")
    return stream


# ------------------------------------------------------------------------------------------------------ the engine


def test_a_killed_engine_ends_its_streams_with_an_error_event_and_another_takes_its_place(
    running: Installation,
) -> None:
    stream = begun(running, "steady")
    instance = stream.headers["x-first-instance"]
    killed_at = time.monotonic()
    os.kill(running.engine_pid(instance), signal.SIGKILL)
    error = stream.assert_cut_with_an_error()
    print(f"\nstream ended {1000 * (stream.over_at - killed_at):.0f} ms after the engine was killed")
    assert error["message"]
    status, headers, _ = ask(running, "steady")  # waits for the new one
    print(f"next answer after {time.monotonic() - killed_at:.1f} s")
    assert status == 200
    assert headers["x-first-instance"] != instance


def test_a_killed_engine_gets_no_further_request_while_another_serves(running: Installation) -> None:
    stream = begun(running, "pair", "tokens=100 every=0.1")
    instance = stream.headers["x-first-instance"]
    killed_at = time.monotonic()
    os.kill(running.engine_pid(instance), signal.SIGKILL)
    for _ in range(20):
        status, headers, body = ask(running, "pair")
        assert status == 200, body
        assert headers["x-first-instance"] != instance
    print(f"\n20 requests answered by the other within {1000 * (time.monotonic() - killed_at):.0f} ms of the kill")
    stream.assert_cut_with_an_error()
    running.until(lambda: (instance, "ENDED") in {(one["id"], one["state"]) for one in running.instances(ended=True)})


def test_a_request_that_kills_its_engines_is_not_tried_for_ever(running: Installation) -> None:
    body = asks("tokens=3 die=0", model="pair")
    status, _, answer = running.request("POST", "/v1/chat/completions", body)
    assert status >= 500, answer  # every instance that is tried dies of it
    assert json.loads(answer)["error"]["message"]


def test_a_killed_launcher_takes_everything_of_its_job_along_and_the_job_is_replaced(running: Installation) -> None:
    stream = begun(running, "steady", "tokens=100 every=0.1")
    instance = stream.headers["x-first-instance"]
    view = next(one for one in running.instances() if one["id"] == instance)
    engine = running.engine_pid(instance)
    killed_at = time.monotonic()
    os.kill(running.launcher_pid(view["job"]), signal.SIGKILL)
    stream.assert_cut_with_an_error()
    print(f"\nstream ended {1000 * (stream.over_at - killed_at):.0f} ms after the launcher was killed")
    folder = str(running.data / "clusters" / "here" / view["job"])
    running.until(lambda: not processes_naming(folder))
    running.until(lambda: not Path(f"/proc/{engine}").exists())
    status, headers, _ = ask(running, "steady")
    assert status == 200
    assert headers["x-first-instance"] != instance
    running.until(lambda: view["job"] not in {job["id"] for job in running.jobs()})


def test_an_engine_that_always_fails_is_held_with_its_reason_until_an_operator_releases_it(
    running: Installation, tmp_path: Path
) -> None:
    cat = running.data.parent / "cat"
    cat.touch()
    try:
        status, headers, body = ask(running, "failing")
        assert status == 503, body
        error = json.loads(body)["error"]
        assert "ended by itself with code 3" in error["message"], error
        assert "first why failing" in error["message"]
        assert "retry-after" not in headers
        running.until(lambda: running.models()["failing"]["held"])
        shown = running.models()["failing"]
        assert "ended by itself with code 3" in shown["detail"], shown
        assert shown["notices"]
        why = running.first("why", "failing")
        assert why.returncode == 0, why.stderr
        assert "ended by itself with code 3" in why.stdout
        failed = next(one for one in running.instances(ended=True) if one["model"] == "failing")
        logs = running.first("deploy", "logs", failed["id"])
        assert "the cat has eaten the weights" in logs.stdout, logs
        stream = Stream(running, asks("tokens=1", model="failing", stream=True))
        stream.end()
        assert stream.status == 503
        started = len([one for one in running.instances(ended=True) if one["model"] == "failing"])
        assert started == 2
    finally:
        cat.unlink()
    released = running.first("deploy", "release", "failing")
    assert released.returncode == 0, released.stderr
    running.until(lambda: not running.models()["failing"]["held"])
    status, _, body = ask(running, "failing")
    assert status == 200, body


# --------------------------------------------------------------------------------------------------- our own parts


def test_a_killed_controller_cuts_nothing_and_adopts_what_runs(running: Installation) -> None:
    before = ready(running)
    streams = [begun(running, model) for model in ("steady", "pair", "pair")]
    old = running.part_pid("controller")
    taken_over = running.log("controller").count("took_over")
    os.kill(old, signal.SIGKILL)
    for _ in range(10):
        assert ask(running, "steady")[0] == 200
    for stream in streams:
        stream.assert_whole(30)
    running.until(lambda: running.part_pids("controller") not in ([], [old]))
    running.until(lambda: running.log("controller").count("took_over") > taken_over)
    running.until(lambda: running.models()["steady"]["state"] == "hot")
    assert ready(running) == before
    stream = begun(running, "steady")
    stream.assert_whole(30)
    assert stream.headers["x-first-instance"] in before


def test_a_killed_api_cuts_no_stream_and_comes_back(running: Installation) -> None:
    before = ready(running)
    streams = [begun(running, model) for model in ("steady", "pair")]
    os.kill(running.part_pid("api"), signal.SIGKILL)
    for _ in range(10):
        assert ask(running, "pair")[0] == 200
    running.wait_answering()
    for stream in streams:
        stream.assert_whole(30)
    assert ready(running) == before


def test_a_killed_gateway_comes_back_by_itself_and_no_finished_request_is_lost(running: Installation) -> None:
    created = running.first("keys", "create", "bookkeeper", "--json")
    assert created.returncode == 0, created.stderr
    key = json.loads(created.stdout)["key"]

    def spend(tokens: int) -> None:
        body = asks(f"tokens={tokens}", model="steady")
        status, _, answer = running.request("POST", "/v1/chat/completions", body, key=key)
        assert status == 200, answer

    def counted() -> list[tuple[int, int]]:
        rows = json.loads(running.request("GET", "/api/v1/usage", key=key)[2])["data"]
        return [(row["requests"], row["output_tokens"]) for row in rows]

    before = ready(running)
    for _ in range(20):
        spend(5)
    os.kill(running.part_pid("gateway"), signal.SIGKILL)
    began = time.monotonic()
    running.wait_answering()
    spend(1)
    print(f"\nthe gateway answers {time.monotonic() - began:.1f} s after its end")
    running.until(lambda: counted() == [(21, 101)], within_s=60)
    assert ready(running) == before


def test_streams_of_a_killed_gateway_are_seen_as_broken(running: Installation) -> None:
    stream = begun(running, "steady", "tokens=100 every=0.1")
    os.kill(running.part_pid("gateway"), signal.SIGKILL)
    stream.end()
    assert stream.broken is not None
    assert b"[DONE]" not in stream.data
