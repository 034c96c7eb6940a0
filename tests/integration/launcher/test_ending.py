# SPDX-License-Identifier: Apache-2.0
"""How a job ends: signals, deadlines, the fence, and what must not be left of it."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest


def engine_of(node: Any, kind: str) -> int:
    """Find the pid of an engine double, apart from its children."""
    return min(pid for pid in node.bearers(kind) if os.getsid(pid) == pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_request_from_outside_ends_the_job(node: Any, number: signal.Signals) -> None:
    job = node.launch(node.engine("WellBehavedEngine"))
    job.until("READY")
    assert job.end(number) == 0
    assert job.exit()["reason"] == "CANCELLED"


def test_a_request_that_comes_before_the_engine_has_loaded_is_not_lost(node: Any) -> None:
    job = node.launch(node.engine("NeverReadyEngine"))
    node.eventually((job.run_dir / "claim").exists)
    assert job.end() == 0
    assert job.exit()["reason"] == "CANCELLED"


def test_a_closed_terminal_ends_nothing(node: Any) -> None:
    job = node.launch(node.engine("WellBehavedEngine"))
    job.until("READY")
    job.process.send_signal(signal.SIGHUP)
    job.desire(1, i_a={"want": "serve"})
    node.eventually(lambda: "desired 1" in job.log())
    assert job.instance()["state"] == "READY"


def test_an_engine_deaf_to_term_is_killed_after_its_grace(node: Any) -> None:
    job = node.launch(node.engine("TermIgnoringEngine", stop_grace_s=0.5))
    job.until("READY")
    assert job.end() == 0
    assert (job.exit("i-a")["reason"], job.exit("i-a")["signal"]) == ("CANCELLED", 9)
    assert "ignored" in job.exit("i-a")["log_tail"]


def test_a_second_term_kills_at_once(node: Any) -> None:
    job = node.launch(node.engine("TermIgnoringEngine", stop_grace_s=1000))
    job.until("READY")
    job.process.send_signal(signal.SIGTERM)
    job.until("DRAINING")
    log = job.run_dir / "i-a" / "engine.log"
    node.eventually(lambda: "ignored" in log.read_text())
    node.eventually(lambda: job.process.send_signal(signal.SIGTERM) or job.process.poll() is not None)
    assert job.process.returncode == 0
    assert job.exit("i-a")["signal"] == 9
    assert "killing" in job.log()


def test_a_term_sent_twice_within_a_moment_is_one(node: Any) -> None:
    job = node.launch(node.engine("WellBehavedEngine"))
    job.until("READY")
    job.process.send_signal(signal.SIGTERM)
    assert job.end() == 0
    assert "killing" not in job.log()


def test_the_job_ends_itself_before_its_walltime(node: Any) -> None:
    job = node.launch(node.engine("WellBehavedEngine"), walltime_s=7.0, margin_s=1.0)
    job.until("READY")
    assert job.wait() == 0
    assert (job.exit()["reason"], job.status()["reason"]) == ("WALLTIME", "WALLTIME")
    assert job.status()["time_left_s"] < 1.5


def test_a_term_near_the_end_warns_and_what_drains_then_ends_when_it_is_not_wanted_any_more(node: Any) -> None:
    job = node.launch(node.engine("WellBehavedEngine"), walltime_s=1000, margin_s=950)
    job.until("READY")
    job.process.send_signal(signal.SIGTERM)
    assert job.until("DRAINING")["reason"] == "WALLTIME"
    job.desire(1, stop_job=True)
    assert job.wait() == 0
    assert job.exit()["reason"] == "WALLTIME"


def test_a_cancellation_after_a_warning_ends_the_job(node: Any) -> None:
    job = node.launch(node.engine("WellBehavedEngine"), walltime_s=1000, margin_s=950)
    job.until("READY")
    job.process.send_signal(signal.SIGTERM)
    job.until("DRAINING")
    assert job.end() == 0
    assert job.exit()["reason"] == "WALLTIME"


def test_a_scheduler_that_signals_every_process_does_not_make_it_a_crash(node: Any) -> None:
    job = node.launch(node.engine("WellBehavedEngine"))
    job.until("READY")
    os.kill(engine_of(node, "WellBehavedEngine"), signal.SIGTERM)
    assert job.end() == 0
    assert job.exit("i-a")["reason"] == "CANCELLED"


@pytest.mark.parametrize("kind", ["ForkingEngine", "HidingEngine"])
def test_nothing_is_left_of_an_engine_that_forks(node: Any, kind: str) -> None:
    job = node.launch(node.engine(kind, env={"RUN": "{dir}"}))
    job.until("READY")
    if kind == "HidingEngine":
        assert node.eventually(lambda: node.bearers("hidden-from-the-launcher"))
    else:
        node.eventually(lambda: len(node.bearers("FIRST_INSTANCE=i-a")) == 4)
    assert job.end() == 0
    assert node.bearers("FIRST_INSTANCE=i-a") == []
    assert node.bearers("hidden-from-the-launcher") == []


def test_nothing_is_left_when_a_forking_engine_dies_by_itself(node: Any) -> None:
    job = node.launch(node.engine("ForkingEngine"), node.engine("WellBehavedEngine", name="i-b"))
    job.until("READY")
    job.until("READY", 1)
    os.kill(engine_of(node, "ForkingEngine"), signal.SIGKILL)
    job.until("ENDED")
    assert node.bearers("FIRST_INSTANCE=i-a") == []
    assert job.instance(1)["state"] == "READY"


def test_a_launcher_killed_outright_takes_everything_with_it(node: Any) -> None:
    job = node.launch(node.engine("ForkingEngine"), run="/".join(["a-rather-long-name"] * 8))
    short = Path(job.until("READY")["address"]["path"]).parent
    node.eventually(lambda: len(node.bearers("FIRST_INSTANCE=i-a")) == 4)
    os.killpg(job.process.pid, signal.SIGKILL)
    assert job.wait() == -9
    node.eventually(lambda: not node.bearers("FIRST_INSTANCE=i-a"))
    node.eventually(lambda: not short.exists())


def test_a_guard_that_is_killed_is_not_missed(node: Any) -> None:
    job = node.launch(node.engine("WellBehavedEngine"))
    job.until("READY")
    launchers = [pid for pid in node.bearers(str(job.run_dir / "job.json")) if pid != job.process.pid]
    [guard] = [pid for pid in launchers if b"job.json" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(guard, signal.SIGKILL)
    node.eventually(lambda: guard not in node.bearers("job.json"))
    assert job.end() == 0


def test_a_job_that_nobody_looks_after_ends_itself(node: Any) -> None:
    job = node.launch(node.engine("WellBehavedEngine"), fence_s=2.5)
    assert job.wait() == 1
    assert (job.exit()["reason"], job.exit("i-a")["reason"]) == ("UNSUPERVISED", "UNSUPERVISED")


def test_answers_that_are_refusals_do_not_count_as_being_looked_after(node: Any, control_server: Any) -> None:
    """As when an address has become somebody else's, or the service is up without its store."""
    control_server.answer_with = 503
    control = {"urls": [f"http://127.0.0.1:{control_server.port}"], "token_file": "control.key", "hold_s": 25}
    job = node.launch(node.engine("WellBehavedEngine"), control=control, fence_s=2.5)
    assert job.wait() == 1
    assert job.exit()["reason"] == "UNSUPERVISED"
    assert "answers 503" in job.log()


def test_a_job_that_was_frozen_beyond_its_time_ends_when_it_wakes(node: Any) -> None:
    """As on a node that hung: the scheduler has given it up, and may have given its place to another."""
    job = node.launch(node.engine("WellBehavedEngine"), walltime_s=33.0, margin_s=30)
    node.eventually((job.run_dir / "status.json").exists)
    job.process.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + 3.0
    node.eventually(lambda: time.monotonic() > deadline)
    job.process.send_signal(signal.SIGCONT)
    assert job.wait() == 0
    assert job.exit()["reason"] == "WALLTIME"


def test_desired_by_file_drains_first_and_stops_in_time(node: Any) -> None:
    job = node.launch(node.engine("WellBehavedEngine"))
    job.until("READY")
    job.desire(1, i_a={"want": "drain"})
    draining = job.until("DRAINING")
    assert draining["reason"] == "SCALED_IN"
    assert draining["address"]["kind"] == "unix"
    job.desire(2, i_a={"want": "drain", "within_s": 0.2})
    assert job.wait() == 0
    assert job.exit()["reason"] == "SCALED_IN"


def test_an_older_desired_and_a_broken_one_change_nothing(node: Any) -> None:
    job = node.launch(node.engine("WellBehavedEngine"))
    job.until("READY")
    job.desire(5, i_a={"want": "serve"})
    node.eventually(lambda: "desired 5" in job.log())
    job.desire(4, i_a={"want": "stop"})
    node.eventually(lambda: "desired 4 from desired.json is older than 5" in job.log())
    job.desire(6, schema=7, i_a={"want": "stop"})
    node.eventually(lambda: "schema must be 0 or 1" in (job.status()["detail"] or ""))
    assert job.instance()["state"] == "READY"
    job.desire(7, stop_job=True)
    assert job.wait() == 0
    assert job.exit()["reason"] == "SCALED_IN"


def test_a_drain_stops_an_engine_that_is_still_loading(node: Any) -> None:
    job = node.launch(node.engine("NeverReadyEngine"))
    node.eventually(lambda: job.instance()["state"] == "LOADING")
    job.desire(1, i_a={"want": "drain", "within_s": 100})
    assert job.wait() == 0
    assert job.exit("i-a")["reason"] == "SCALED_IN"


def test_a_status_file_that_cannot_be_written_stops_nothing(node: Any, control_server: Any) -> None:
    job = node.launch(
        node.engine("WellBehavedEngine"),
        control={"urls": [f"http://127.0.0.1:{control_server.port}"], "token_file": "control.key", "beat_s": 0.1},
    )
    control_server.until("READY")
    (job.run_dir / "status.json").unlink()
    (job.run_dir / "status.json").mkdir()
    (job.run_dir / "status.json" / "in-the-way").touch()
    node.eventually(lambda: control_server.last()["detail"] == "status.json cannot be written: Is a directory")
    assert control_server.last()["instances"][0]["state"] == "READY"
    (job.run_dir / "status.json" / "in-the-way").unlink()
    (job.run_dir / "status.json").rmdir()
    node.eventually(lambda: control_server.last()["detail"] is None)
    assert job.status()["state"] == "RUNNING"
