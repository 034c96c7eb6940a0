# SPDX-License-Identifier: Apache-2.0
"""The simulated PBS behaves as recorded from OpenPBS 23.06.06: exit codes, texts, states, outages, signals."""

import json
import subprocess
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from firstkit.testing.simulated_pbs.mom import members
from firstkit.testing.simulated_pbs.site import SimulatedPbs, simulated_pbs

pytestmark = pytest.mark.timeout(120)
PATIENCE_S = 30.0
LISTING = ("qstat", "-f", "-F", "json")


@pytest.fixture(scope="module")
def site() -> Generator[SimulatedPbs]:
    with simulated_pbs(kill_delay_s=5.0) as running:  # so long that a trap surely runs before
        yield running


def until(what: Callable[[], Any]) -> Any:
    """Ask until the answer is yes."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        answer = what()
        if answer:
            return answer
        time.sleep(0.02)
    raise AssertionError("it did not come to pass")


def submitted(site: SimulatedPbs, *options: str, stdin: str = "") -> str:
    done = site.run("qsub", *options, stdin=stdin)
    assert done.returncode == 0, done
    return done.stdout.strip()


def in_state(site: SimulatedPbs, number: str, letter: str) -> dict[str, Any]:
    """Wait until a job is in a state."""

    def there() -> dict[str, Any] | None:
        job = site.job(number)
        return job if job.get("job_state") == letter else None

    return until(there)


def job_script(folder: Path, body: str) -> str:
    """Write a script that says `begun` in its folder once its traps are set."""
    path = folder / "job.sh"
    path.write_text(f"#!/bin/bash\ncd {folder}\n{body}\n")
    path.chmod(0o700)
    return str(path)


# --------------------------------------------------------------------------------------------- exit codes, as recorded
@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("-q", "nosuch", "--", "/bin/true"), 170, "qsub: Unknown queue"),
        (("-q", "closed", "--", "/bin/true"), 173, "qsub: Queue is not enabled"),
        (
            ("-q", "closing", "-l", "walltime=03:00:00", "--", "/bin/true"),
            188,
            "qsub: Job violates queue and/or server resource limits",
        ),
        (("-l", "select=1:nosuch=1", "--", "/bin/true"), 187, "qsub: Unknown resource: nosuch"),
        (
            ("-l", "walltime=soon", "--", "/bin/true"),
            166,
            "qsub: Illegal attribute or resource value Resource_List.walltime",
        ),
        (("-N", "bad name!", "--", "/bin/true"), 2, "qsub: illegal -N value"),
        (("/nowhere/job.sh",), 1, "qsub: script file:: No such file or directory"),
    ],
)
def test_what_qsub_refuses(site: SimulatedPbs, options: tuple[str, ...], code: int, words: str) -> None:
    queues = {
        "closed": {"enabled": False, "started": True},
        "closing": {"enabled": True, "started": True, "max_walltime_s": 7200},
    }
    site.control(queues=queues)
    done = site.run("qsub", *options)
    assert (done.returncode, done.stdout, done.stderr.splitlines()[0]) == (code, "", words)


def test_unknown_and_ended_jobs(site: SimulatedPbs) -> None:
    for command in (LISTING, ("qdel",), ("qsig", "-s", "TERM")):
        done = site.run(*command, "99999.pbs1")
        assert (done.returncode, done.stderr) == (153, f"{command[0]}: Unknown Job Id 99999.pbs1\n")
    number = submitted(site, "--", "/bin/true")
    in_state(site, number, "F")
    done = site.run(*LISTING, number)
    words = f"qstat: {number} Job has finished, use -x or -H to obtain historical job information\n"
    assert (done.returncode, done.stderr) == (35, words)
    assert "Jobs" not in json.loads(done.stdout)
    done = site.run("qdel", number)
    assert (done.returncode, done.stderr) == (35, f"qdel: Job has finished {number}\n")


def test_with_two_ids_on_the_line_only_the_first_is_printed(site: SimulatedPbs) -> None:
    first, second = (submitted(site, "--", "/bin/sleep", "60") for _ in range(2))
    assert list(json.loads(site.run(*LISTING, first, second).stdout)["Jobs"]) == [first]
    assert {first, second} <= set(json.loads(site.run(*LISTING).stdout)["Jobs"])
    assert site.run("qdel", first, second).returncode == 0


def test_variables_lose_their_quotes_and_their_form(site: SimulatedPbs) -> None:
    number = submitted(site, "-v", "A=007,B=1e5,C=true,FK_TAG=i7", "--", "/bin/true")
    taken = site.job(number)["Variable_List"]
    assert (taken["A"], taken["B"], taken["C"], taken["FK_TAG"]) == (7, 100000, True, "i7")


def test_moments_are_written_in_the_zone_of_whoever_asks(site: SimulatedPbs) -> None:
    number = submitted(site, "--", "/bin/true")
    in_state(site, number, "F")
    told: list[int] = []
    for zone in ("UTC0", "America/Chicago"):
        program = ["env", f"TZ={zone}", site.commands / "qstat", "-x", "-f", "-F", "json", number]
        out = subprocess.run(program, capture_output=True, text=True, check=True).stdout
        told.append(int(json.loads(out)["Jobs"][number]["stime"].split()[3][:2]))
    assert told[0] != told[1]


def test_history_that_is_not_kept_is_said_with_exit_code_nought() -> None:
    with simulated_pbs(history=False) as site:
        done = site.run("qstat", "-x", "-f", "-F", "json", "99999.pbs1")
        assert (done.returncode, "Jobs" in json.loads(done.stdout)) == (0, False)
        assert done.stderr == "qstat: PBS is not configured to maintain job history 99999.pbs1\n"


def test_nodes_selections_alterations_and_reservations(site: SimulatedPbs) -> None:
    number = submitted(site, "-N", "mine", "-l", "walltime=01:00:00", "--", "/bin/sleep", "60")
    in_state(site, number, "R")
    assert site.run("qselect", "-N", "mine").stdout.split() == [number]
    assert site.run("qalter", "-l", "walltime=00:30:00", number).returncode == 0
    longer = site.run("qalter", "-l", "walltime=02:00:00", number)
    assert (longer.returncode, longer.stderr) == (159, f"qalter: Unauthorized Request  {number}\n")
    node = json.loads(site.run("pbsnodes", "-F", "json", "-a").stdout)["nodes"]["pbs1"]
    assert (node["state"], number in node["jobs"]) == ("free", True)
    unknown = json.loads(site.run("pbsnodes", "-F", "json", "x").stdout)["nodes"]["x"]
    assert unknown == {"Error": "Unknown node "}
    assert site.run("qdel", number).returncode == 0


def test_a_job_that_would_cross_a_reservation_waits_until_it_is_shorter(site: SimulatedPbs) -> None:
    start = time.time() + 3600.0
    one = {"name": "maint1", "start": start, "end": start + 3600, "queue": "M38"}
    site.control(reservations={"M38.pbs1": one | {"select": "host=pbs1:ncpus=32", "nodes": "(pbs1:ncpus=32)"}})
    try:
        number = submitted(site, "-l", "walltime=02:00:00", "--", "/bin/sleep", "60")
        assert in_state(site, number, "Q")["comment"].endswith("would conflict with reservation or top job")
        told = site.run("pbs_rstat", "-f").stdout.splitlines()
        assert told[0] == "Resv ID: M38.pbs1"
        assert {"Reserve_Name = maint1", "reserve_duration = 3600", "queue = M38"} <= set(told)
        assert site.run("qalter", "-l", "walltime=00:30:00", number).returncode == 0
        in_state(site, number, "R")
        assert site.run("qdel", number).returncode == 0
    finally:
        site.control(reservations={"M38.pbs1": one | {"start": 0.0, "end": 0.0, "select": "", "nodes": ""}})


def test_why_jobs_wait(site: SimulatedPbs) -> None:
    site.control(queues={"stopped": {"enabled": True, "started": False}})
    waiting = {
        submitted(site, "-q", "stopped", "--", "/bin/true"): "Not Running: Queue not started.",
        submitted(site, "-l", "select=1:ngpus=99", "--", "/bin/true"): "Can Never Run: Insufficient amount of "
        "resource: ngpus (R: 99 A: 8 T: 8)",
    }
    for number, comment in waiting.items():
        assert in_state(site, number, "Q")["comment"] == comment
        assert site.run("qdel", number).returncode == 0
        ended = in_state(site, number, "F")
        assert (ended["substate"], "Exit_status" in ended) == (91, False)


# --------------------------------------------------------------------------------------------------- ends and signals
def test_ends_and_their_exit_statuses(site: SimulatedPbs) -> None:
    ends = {
        submitted(site, "--", "/bin/true"): (0, 92, "and finished"),
        submitted(site, "--", "/bin/sh", "-c", "exit 3"): (3, 93, "and failed"),
        submitted(site, "--", "/bin/sh", "-c", "kill -SEGV $$"): (267, 93, "and failed"),
        submitted(site, "-l", "walltime=00:00:01", "--", "/bin/sleep", "60"): (
            -29,
            93,
            "and exceeded resource walltime",
        ),
    }
    for number, (status, substate, words) in ends.items():
        job = in_state(site, number, "F")
        assert (job["Exit_status"], job["substate"]) == (status, substate)
        assert job["comment"].endswith(words)


def test_the_end_of_a_walltime_is_written_into_the_jobs_output(site: SimulatedPbs, tmp_path: Path) -> None:
    output = tmp_path / "pbs.out"
    number = submitted(site, "-j", "oe", "-o", str(output), "-l", "walltime=00:00:01", "--", "/bin/sleep", "60")
    in_state(site, number, "F")
    assert output.read_text().startswith("=>> PBS: job killed: walltime 1 exceeded limit 1")


def test_qdel_sends_term_to_every_process_and_kill_later(site: SimulatedPbs, tmp_path: Path) -> None:
    body = "trap 'echo TERM >>heard' TERM\n(trap 'echo TERM >>child' TERM; touch begun; while :; do sleep 0.05; done) &"
    number = submitted(site, "--", job_script(tmp_path, f"{body}\nwhile :; do sleep 0.05; done"))
    until((tmp_path / "begun").exists)
    session = in_state(site, number, "R")["session_id"]
    assert site.run("qdel", number).returncode == 0
    job = in_state(site, number, "F")
    assert (job["Exit_status"], job["substate"]) == (265, 91)
    assert "and terminated by" in job["comment"]
    assert (tmp_path / "heard").read_text() == (tmp_path / "child").read_text() == "TERM\n"
    assert members(session) == []


@pytest.mark.parametrize("name", ["TERM", "USR1"])
def test_a_signal_kills_the_login_shell_of_a_script_and_the_job_with_it(
    site: SimulatedPbs, tmp_path: Path, name: str
) -> None:
    body = f"trap 'echo heard >>heard' {name}\ntouch begun\nwhile :; do sleep 0.05; done"
    number = submitted(site, stdin=f"cd {tmp_path}\n{body}\n")
    until((tmp_path / "begun").exists)
    assert site.run("qsig", "-s", f"SIG{name}", number).returncode == 0
    job = in_state(site, number, "F")
    assert job["Exit_status"] == {"TERM": 271, "USR1": 266}[name]


def test_a_signal_reaches_an_executable_which_lives_on_and_ends_in_its_own_way(
    site: SimulatedPbs, tmp_path: Path
) -> None:
    body = "trap 'touch heard' USR1\ntrap 'exit 7' TERM\ntouch begun\nwhile :; do sleep 0.05; done"
    number = submitted(site, "--", job_script(tmp_path, body))
    until((tmp_path / "begun").exists)
    assert site.run("qsig", "-s", "SIGUSR1", number).returncode == 0
    until((tmp_path / "heard").exists)
    assert site.job(number)["job_state"] == "R"
    assert site.run("qsig", "-s", "SIGTERM", number).returncode == 0
    job = in_state(site, number, "F")
    assert (job["Exit_status"], job["substate"]) == (7, 93)


# --------------------------------------------------------------------------------------------------- what goes wrong
def test_a_server_that_is_down_refuses_each_command_in_its_own_way_and_jobs_go_on(tmp_path: Path) -> None:
    with simulated_pbs() as site:
        number = submitted(site, "--", job_script(tmp_path, "touch begun\nwhile [ ! -e go ]; do sleep 0.05; done"))
        until((tmp_path / "begun").exists)
        site.kill_server()
        down = site.run(*LISTING)
        assert down.returncode == 255
        assert down.stderr == "Connection refused\nqstat: cannot connect to server pbs1 (errno=15010)\n"
        assert set(json.loads(down.stdout)) == {"timestamp", "pbs_version", "pbs_server"}
        assert site.run("qsub", "--", "/bin/true").returncode == 162
        assert site.run("qdel", number).returncode == 162
        assert site.run("pbs_rstat", "-f").returncode == 162
        assert site.run("pbsnodes", "-a").returncode == 1
        site.start_server()
        assert site.job(number)["job_state"] == "R"
        (tmp_path / "go").touch()
        assert in_state(site, number, "F")["Exit_status"] == 0


def test_a_hung_server_blocks_without_end_and_does_later_what_was_asked() -> None:
    with simulated_pbs() as site:
        with pytest.raises(subprocess.TimeoutExpired), site.hung():
            site.run("qsub", "-N", "late", "--", "/bin/sleep", "60", timeout_s=0.5)

        def late() -> list[str]:
            return site.run("qselect", "-N", "late").stdout.split()

        (number,) = until(late)
        in_state(site, number, "R")


def test_a_lost_nodes_processes_run_on_while_the_job_is_first_running_and_then_queued_again(tmp_path: Path) -> None:
    with simulated_pbs(node_fail_requeue_s=0.5) as site:
        number = submitted(site, "--", job_script(tmp_path, "touch begun\nexec sleep 60"))
        kept = submitted(site, "-r", "n", "--", "/bin/sleep", "60")
        until((tmp_path / "begun").exists)
        session = in_state(site, number, "R")["session_id"]
        in_state(site, kept, "R")
        site.lose_node()
        assert site.job(number)["job_state"] in {"R", "Q"}
        job = in_state(site, number, "Q")
        assert (job["Exit_status"], job["substate"]) == (-20, 10)
        assert in_state(site, kept, "F")["Exit_status"] == -20
        assert members(session), "its processes run on"
        node = json.loads(site.run("pbsnodes", "-F", "json", "-a").stdout)["nodes"]["pbs1"]
        assert (node["state"], node["comment"]) == ("down", "node down: communication closed")
        site.start_node()
        assert in_state(site, number, "R")["run_count"] == 2
