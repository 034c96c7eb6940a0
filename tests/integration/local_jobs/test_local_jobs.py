# SPDX-License-Identifier: Apache-2.0
"""What the small batch system promises, tried with real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from firstkit.adapters.schedulers import local_jobs

FOREVER = "echo up >up\nsleep 600 & wait\n"
STUBBORN = "trap '' TERM\necho up >up\nwhile :; do sleep 600 & wait; done\n"


def gone(session: int) -> bool:
    return not local_jobs.session_members(session)


def supervisor_gone(batch: Any, number: str) -> Callable[[], bool]:
    return lambda: not local_jobs.alive(batch.record(number), "supervisor")


def test_a_job_runs_in_a_session_of_its_own_with_its_output_beside_the_script(batch: Any) -> None:
    number = batch.submit("echo $$ >pid\necho out\necho err >&2\nread line && echo got $line\nexit 4\n")
    line = batch.until(number, "ENDED")
    assert (line["code"], line["why"]) == (4, None)
    assert (batch.folder / "a" / "start.sh.out").read_text() == "out\nerr\n"
    assert (batch.folder / "a" / "start.sh.out").stat().st_mode & 0o777 == 0o600
    assert batch.record(number)["session"] == int(batch.wait_for("a/pid"))


def test_a_job_knows_its_number_and_inherits_no_descriptor(batch: Any) -> None:
    batch.submit("ls /proc/self/fd | wc -l >fds\necho $FIRST_SCHEDULER_ID >number\n")
    assert batch.wait_for("a/number") == "1"
    assert int(batch.wait_for("a/fds")) <= 4  # the three, and the listing's own


def test_walltime_is_told_and_ends_the_job_with_term(batch: Any) -> None:
    number = batch.submit("trap 'echo term >term; exit 9' TERM\nsleep 600 & wait\n", walltime_s=4.0)
    assert 0 < batch.list()[number]["left_s"] <= 4.0
    line = batch.until(number, "ENDED")
    assert (line["code"], line["why"]) == (9, "TIMEOUT")
    assert batch.wait_for("a/term") == "term"


def test_a_job_that_ignores_term_is_killed_with_all_of_its_session(batch: Any) -> None:
    number = batch.submit(STUBBORN, walltime_s=0.5, kill_wait_s=0.3)
    session = batch.record(number)["session"]
    assert batch.until(number, "ENDED")["why"] == "TIMEOUT"
    assert gone(session)


def test_nothing_of_a_job_outlives_it_not_even_in_a_process_group_of_its_own(batch: Any) -> None:
    number = batch.submit("set -m\nsleep 600 &\nnohup sleep 600 &\n(sleep 600 &)\nexit 0\n")
    session = batch.record(number)["session"]
    assert batch.until(number, "ENDED")["code"] == 0
    assert gone(session)


def test_a_cancelled_job_ends_and_says_so(batch: Any) -> None:
    number = batch.submit(FOREVER)
    batch.wait_for("a/up")
    batch.cancel(number, number, "99")
    assert batch.until(number, "ENDED")["why"] == "CANCELLED"
    batch.cancel(number)


def test_a_job_goes_on_without_its_supervisor_and_can_be_cancelled(batch: Any) -> None:
    number = batch.submit(STUBBORN, kill_wait_s=0.2)
    batch.wait_for("a/up")
    os.kill(batch.record(number)["supervisor"], signal.SIGKILL)
    wait_until(supervisor_gone(batch, number))
    assert batch.list()[number]["state"] == "RUNNING"
    session = batch.record(number)["session"]
    batch.cancel(number)
    assert batch.list()[number]["state"] == "RUNNING", "it ignores TERM"

    def cancelled_again() -> bool:
        batch.cancel(number)
        return batch.list()[number]["state"] == "ENDED"

    wait_until(cancelled_again)
    assert gone(session)
    assert batch.list()[number]["why"] == "LOST"


def test_the_walltime_of_a_job_without_supervisor_is_kept_by_those_who_look(batch: Any) -> None:
    number = batch.submit(FOREVER, walltime_s=600, kill_wait_s=0.2)
    os.kill(batch.record(number)["supervisor"], signal.SIGKILL)
    wait_until(supervisor_gone(batch, number))
    batch.rewrite(number, walltime_s=0.01)
    assert batch.until(number, "ENDED")["why"] == "LOST"


def test_after_a_restart_of_the_machine_its_jobs_are_lost_and_remembered_for_a_while(batch: Any) -> None:
    number = batch.submit(FOREVER)
    record = batch.record(number)
    os.kill(record["supervisor"], signal.SIGKILL)
    local_jobs.end_session(record["session"])
    batch.rewrite(number, boot="another", pid=os.getpid(), pid_start=local_jobs.start_time(os.getpid()))
    for _ in range(2):
        assert batch.list()[number] == {
            "id": number, "name": "first-x-a", "state": "ENDED", "code": None, "why": "LOST",
        }  # fmt: skip


def test_a_pid_that_belongs_to_another_process_by_now_is_not_taken_for_the_job(batch: Any) -> None:
    number = batch.submit(FOREVER)
    record = batch.record(number)
    os.kill(record["supervisor"], signal.SIGKILL)
    local_jobs.end_session(record["session"])
    bystander = subprocess.Popen(["/bin/sleep", "600"])
    try:
        batch.rewrite(number, pid=bystander.pid, session=bystander.pid, supervisor=bystander.pid)
        batch.cancel(number)
        assert batch.list()[number]["state"] == "ENDED"
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
        batch.rewrite(number, session=None)


def test_a_submission_that_was_killed_halfway_is_a_lost_job_and_not_one_that_starts_for_ever(batch: Any) -> None:
    number = batch.submit("exit 0\n")
    batch.until(number, "ENDED")
    halfway = {key: value for key, value in batch.record(number).items() if key not in {
        "pid", "pid_start", "session", "supervisor", "supervisor_start", "started_at", "ended_at", "code", "why",
    }}  # fmt: skip
    path = batch.folder / ".jobs" / "7.json"
    path.write_text(json.dumps(halfway | {"id": "7", "submitter": 2**22 + 1}))
    assert batch.list()["7"]["why"] == "LOST"
    assert batch.submit("exit 0\n") == "8", "a number is never used twice"


ORPHAN = """
import json, os, sys
from firstkit.adapters.schedulers import local_jobs
path, job = sys.argv[1], json.loads(sys.argv[2])
ready, started = os.pipe()
os.close(ready)
local_jobs.supervise(path, job, started)
"""


def test_a_job_whose_submitter_died_first_runs_and_its_end_is_written_down(batch: Any) -> None:
    job = {
        "id": "1",
        "name": "first-x-a",
        "boot": local_jobs.boot_id(),
        "walltime_s": 0.0,
        "kill_wait_s": 5.0,
        "script": batch.script("echo ran >ran\nexit 4\n"),
        "submitter": os.getpid(),
        "submitter_start": None,
    }
    path = f"{local_jobs.state_dir(str(batch.folder))}/1.json"
    local_jobs.write(path, job)
    subprocess.run([sys.executable, "-c", ORPHAN, path, json.dumps(job)], check=True, timeout=30)
    assert batch.wait_for("a/ran") == "ran"
    assert (batch.record("1")["code"], batch.record("1")["why"]) == (4, None)


def test_ended_jobs_are_forgotten_after_ten_minutes(batch: Any) -> None:
    number = batch.submit("exit 0\n")
    batch.until(number, "ENDED")
    batch.rewrite(number, ended_at=batch.record(number)["ended_at"] - local_jobs.REMEMBER_S - 1)
    assert batch.list() == {}
    assert batch.submit("exit 0\n") == "2"


def test_fifty_jobs_at_once_have_numbers_of_their_own_and_all_end(batch: Any) -> None:
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda index: batch.submit("exit 0\n", name=f"n{index}"), range(50)))
    assert sorted(map(int, numbers)) == list(range(1, 51))
    wait_until(lambda: all(line["state"] == "ENDED" for line in batch.list().values()))
    assert {line["code"] for line in batch.list().values()} == {0}


def test_a_script_that_is_not_there_is_refused_and_leaves_nothing(batch: Any) -> None:
    done = batch.call("submit", str(batch.folder), "first-x-a", "0", "/nowhere/start.sh")
    assert done.returncode == 1
    assert "No such file or directory: '/nowhere'" in done.stderr
    assert batch.list() == {}


def test_nonsense_is_misuse(batch: Any) -> None:
    assert batch.call("dance", str(batch.folder)).returncode == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("allowed: only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_on_a_full_disk_nothing_is_started(small_disk: Path, batch: Any) -> None:
    batch.folder = small_disk
    script = batch.script(FOREVER)
    (small_disk / ".jobs").mkdir()
    fill(small_disk)
    done = batch.call("submit", str(small_disk), "first-x-a", "0", script)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    (small_disk / "filling").unlink()
    assert batch.list() == {}
    assert not (small_disk / "a" / "up").exists()
    assert not list((small_disk / ".jobs").glob("*.new"))


def test_the_end_of_a_job_is_written_down_when_the_disk_has_room_again(small_disk: Path, batch: Any) -> None:
    batch.folder = small_disk
    number = batch.submit("trap 'exit 7' TERM\necho up >up\nsleep 600 & wait\n")
    batch.wait_for("a/up")
    fill(small_disk)
    pid = batch.record(number)["pid"]
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: local_jobs.start_time(pid) is None)
    assert batch.list()[number]["state"] == "ENDING"
    (small_disk / "filling").unlink()
    assert batch.until(number, "ENDED")["code"] == 7


def fill(folder: Path) -> None:
    with (folder / "filling").open("wb", buffering=0) as handle:
        try:
            while True:
                handle.write(b"x" * 1024)
        except OSError:
            return


def wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_program_runs_without_site_packages() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", local_jobs.__file__, "nothing"], capture_output=True, text=True, check=False
    )
    assert done.stderr == "unknown verb nothing\n"
