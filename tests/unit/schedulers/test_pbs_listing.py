# SPDX-License-Identifier: Apache-2.0
"""What the PBS dialect reads of listings; transcripts of OpenPBS 23.06.06 lie in tests/fixtures/schedulers."""

import json
from pathlib import Path
from typing import Any

import pytest

from firstkit.adapters.schedulers.pbs import PbsScheduler
from firstkit.core.reasons import Reason
from firstkit.ports.runner import Done, Refused, Result, Unknown
from firstkit.ports.scheduler import JobPhase, Observation, SeenJob
from firstkit.testing.records import make_cluster

RECORDED = Path(__file__).parents[2] / "fixtures" / "schedulers" / "openpbs-23.06.06"
TIMESTAMP = 1795556404  # Tue Nov 24 21:40:04 2026 UTC
WHO = Done(code=0, out=b"fktest\n", err=b"")


def scheduler() -> PbsScheduler:
    return PbsScheduler(make_cluster(run_dir="/run"), installation="abcdefgh")


def recorded(name: str) -> bytes:
    return (RECORDED / name).read_bytes()


def look(out: bytes, *, code: int = 0, err: bytes = b"", who: Result = WHO) -> Observation:
    return scheduler().parse([who, Done(code=code, out=out, err=err)])


def listed(number: int, out: bytes = b"") -> SeenJob:
    """Read one job of the recorded listing."""
    return next(job for job in look(out or recorded("qstat-live.json")).jobs if job.scheduler_id == f"{number}.pbs1")


def ended(number: int) -> SeenJob:
    """Read one job of the recorded history."""
    told = scheduler().parse_recalled([Done(code=0, out=recorded("qstat-history.json"), err=b"")])
    return next(job for job in told if job.scheduler_id == f"{number}.pbs1")


def document(**attributes: Any) -> bytes:
    """Write a listing of one job of ours."""
    job = {"Job_Name": "first-abcdefgh-j-000000000001", "Job_Owner": "fktest@pbs1", "job_state": "R", **attributes}
    jobs = {"timestamp": TIMESTAMP, "pbs_version": "23.06.06", "pbs_server": "pbs1", "Jobs": {"1.pbs1": job}}
    return json.dumps(jobs, indent="\t", separators=(",", ":\t")).encode()


def test_the_recorded_listing_is_whole_and_shows_our_jobs_alone() -> None:
    seen = look(recorded("qstat-live.json"))
    assert (seen.complete, seen.detail) == (True, "")
    assert [job.scheduler_id for job in seen.jobs] == [f"{number}.pbs1" for number in (18, 19, 20, 22, 24, 31)]
    assert all(job.tag.startswith("first-abcdefgh-j-") for job in seen.jobs)


def test_a_running_jobs_time_left_is_exact_though_the_nodes_tell_the_used_walltime_late() -> None:
    """Of its 5 minutes one has gone from 21:39:04 to the listing at 21:40:04; 43 seconds are said to be used."""
    job = listed(18)
    assert (job.phase, job.time_left_s, job.reason, job.detail) == (JobPhase.RUNNING, 240.0, None, "")


@pytest.mark.parametrize(
    ("stime", "used", "left"),
    [
        ("Tue Nov 24 21:39:04 2026", None, 240.0),  # right after the start nothing is said to be used
        ("Tue Nov 24 15:39:04 2026", "00:00:43", 257.0),  # the zone was not ours after all
        ("Tue Nov 24 21:39:04 2026", "00:03:00", 120.0),  # the clocks of two machines differ
        ("Tue Nov 24 21:45:00 2026", None, 300.0),  # nothing is lost by a clock that is ahead
        ("nonsense", "00:01:00", 240.0),
        ("nonsense", None, None),
        ("nonsense", "a while", None),
    ],
)
def test_time_left_without_or_against_the_listings_moments(stime: str, used: str | None, left: float | None) -> None:
    resources_used = {} if used is None else {"resources_used": {"walltime": used}}
    out = document(stime=stime, Resource_List={"walltime": "00:05:00"}, **resources_used)
    assert look(out).jobs[0].time_left_s == left


def test_a_job_without_walltime_has_no_time_left_to_tell() -> None:
    assert look(document(stime="Tue Nov 24 21:39:04 2026", Resource_List={"ncpus": 1})).jobs[0].time_left_s is None


def test_a_suspended_job_keeps_its_place_and_its_time() -> None:
    out = document(
        job_state="S",
        stime="Tue Nov 24 19:40:04 2026",
        Resource_List={"walltime": "01:00:00"},
        resources_used={"walltime": "00:10:00"},
    )
    job = look(out).jobs[0]
    assert (job.phase, job.time_left_s) == (JobPhase.RUNNING, 3000.0)
    assert job.detail.startswith("suspended")


def test_why_a_job_waits_is_kept_in_the_schedulers_own_words() -> None:
    assert listed(19).detail == "Not Running: User has reached queue gpu running job limit."
    assert listed(20).detail == "held (u)"
    assert listed(22).detail == "held: it depends on after:21.pbs1@pbs1"
    assert {listed(number).phase for number in (19, 20, 22, 24)} == {JobPhase.WAITING}


def test_a_job_that_can_never_run_is_given_back_as_refused() -> None:
    job = listed(24)
    assert (job.phase, job.reason) == (JobPhase.WAITING, Reason.SUBMIT_REJECTED)
    assert job.detail == "Can Never Run: Insufficient amount of resource: ngpus (R: 99 A: 8 T: 8)"


def test_the_schedulers_estimate_of_a_start_becomes_a_duration() -> None:
    out = document(job_state="Q", estimated={"start_time": "Tue Nov 24 22:40:04 2026"})
    assert look(out).jobs[0].starts_in_s == 3600.0
    for nothing in ("UNKNOWN", "Tue Nov 24 21:00:00 2026", ""):
        assert look(document(job_state="Q", estimated={"start_time": nothing})).jobs[0].starts_in_s is None


def test_a_job_queued_again_after_its_node_was_lost_is_over() -> None:
    job = listed(31)
    assert (job.phase, job.reason) == (JobPhase.ENDING, Reason.NODE_FAILURE)
    assert "queued it again" in job.detail


@pytest.mark.parametrize(
    ("status", "comment", "phase", "reason"),
    [
        (-20, "", JobPhase.ENDING, Reason.NODE_FAILURE),
        (-14, "", JobPhase.ENDING, Reason.NODE_FAILURE),
        (-11, "", JobPhase.ENDING, None),
        (271, "Not Running: Job was preempted", JobPhase.ENDING, Reason.PREEMPTED),
        (0, "", JobPhase.ENDING, None),
        (-3, "", JobPhase.WAITING, None),  # the node could not start it: nothing of it ever ran
        (-16, "", JobPhase.WAITING, None),
    ],
)
def test_only_a_job_that_ran_is_over_when_it_is_queued_again(
    status: int, comment: str, phase: JobPhase, reason: Reason | None
) -> None:
    job = look(document(job_state="Q", Exit_status=status, comment=comment, run_count=1)).jobs[0]
    assert (job.phase, job.reason) == (phase, reason)


@pytest.mark.parametrize(
    ("letter", "phase"),
    [
        *((letter, JobPhase.WAITING) for letter in "QHWT"),
        *((letter, JobPhase.RUNNING) for letter in "RSU"),
        ("E", JobPhase.ENDING),
        ("F", JobPhase.ENDED),
        *((letter, JobPhase.UNKNOWN) for letter in ("B", "M", "X", "Z", "", "Running", "r", 7, None, [])),
    ],
)
def test_letters_that_are_not_known_are_no_event(letter: Any, phase: JobPhase) -> None:
    assert look(document(job_state=letter)).jobs[0].phase is phase


@pytest.mark.parametrize(
    ("number", "reason", "detail"),
    [
        (27, None, "exit code 0"),
        (28, None, "exit code 3"),
        (29, None, "exit code 139"),
        (30, Reason.WALLTIME, "and exceeded resource walltime"),
        (32, Reason.CANCELLED, "and terminated by fktest@pbs1"),
        (33, Reason.CANCELLED, "and terminated"),
        (34, Reason.CANCELLED, "Not Running: Queue not started. and terminated by fktest@pbs1"),
    ],
)
def test_recorded_ends(number: int, reason: Reason | None, detail: str) -> None:
    job = ended(number)
    assert (job.phase, job.reason) == (JobPhase.ENDED, reason)
    assert job.detail.endswith(detail)


def test_a_job_deleted_for_another_was_preempted() -> None:
    out = document(job_state="F", substate=91, Exit_status=271, comment="Job run at … and deleted by preemption")
    assert look(out).jobs[0].reason is Reason.PREEMPTED


def test_a_job_that_never_ran_since_what_it_depends_on_is_unknown_has_ended_for_no_known_reason() -> None:
    assert (ended(35).phase, ended(35).reason) == (JobPhase.ENDED, None)


@pytest.mark.parametrize(
    ("status", "reason", "detail"),
    [
        (-27, Reason.OUT_OF_MEMORY, "PBS's exit status -27"),
        (-26, Reason.OUT_OF_MEMORY, "PBS's exit status -26"),
        (-20, Reason.NODE_FAILURE, "PBS's exit status -20"),
        (-4, Reason.NODE_FAILURE, "PBS's exit status -4"),
        (-2, Reason.NODE_UNFIT, "PBS's exit status -2"),
        (-99, None, "PBS's exit status -99"),
        (265, None, "killed by signal 9"),
        (271, None, "killed by signal 15"),
    ],
)
def test_exit_statuses_that_are_pbss_own(status: int, reason: Reason | None, detail: str) -> None:
    job = look(document(job_state="F", substate=93, Exit_status=status)).jobs[0]
    assert (job.reason, job.detail) == (reason, detail)


# ----------------------------------------------------------------------------------------------- what proves no absence
def test_an_empty_queue_and_a_server_that_is_down_print_the_same_and_the_exit_code_tells_them_apart() -> None:
    empty = recorded("qstat-empty.json")
    assert look(empty) == Observation(complete=True)
    down = look(empty, code=255, err=b"Connection refused\nqstat: cannot connect to server pbs1 (errno=15010)\n")
    assert (down.complete, down.jobs) == (False, ())
    assert down.detail == "Connection refused; qstat: cannot connect to server pbs1 (errno=15010)"
    failed = look(empty, code=255, err=b"auth: Unable to authenticate connection (pbs1:15001)\nqstat: cannot connect\n")
    assert not failed.complete


def test_an_empty_listing_with_a_complaint_is_not_believed_though_the_exit_code_is_nought() -> None:
    words = b"qstat: PBS is not configured to maintain job history 99999.pbs1\n"
    assert not look(recorded("qstat-empty.json"), err=words).complete
    assert look(recorded("qstat-live.json"), err=b"warning: a failover server answers\n").complete


def test_a_hung_server_is_no_observation() -> None:
    assert scheduler().parse([WHO, Unknown(detail="env did not end within 60 s")]) == Observation(
        complete=False, detail="env did not end within 60 s"
    )
    assert not scheduler().parse([Refused(detail="no route"), Refused(detail="not tried")]).complete
    assert not scheduler().parse([]).complete


def test_a_listing_is_read_only_when_it_is_known_who_we_are() -> None:
    assert not look(recorded("qstat-empty.json"), who=Done(code=1, out=b"", err=b"id: cannot find name")).complete
    assert look(recorded("qstat-live.json"), who=Done(code=0, out=b"somebody\n", err=b"")).jobs == ()


def test_a_job_of_another_account_with_a_name_like_ours_is_not_ours() -> None:
    assert look(document(Job_Owner="mallory@pbs1")).jobs == ()


@pytest.mark.parametrize("name", ["qstat-live.json", "qstat-empty.json"])
def test_a_listing_cut_off_anywhere_proves_no_absence(name: str) -> None:
    told = recorded(name).rstrip()
    whole = {job.scheduler_id: job for job in look(told).jobs}
    for cut in range(0, len(told), 7):
        seen = look(told[:cut])
        assert not seen.complete, told[:cut][-80:]
        for job in seen.jobs:
            assert job.phase is whole[job.scheduler_id].phase


@pytest.mark.parametrize("out", [b"", b"null", b"[]", b"{}", b'{"Jobs":{}}', b"qstat: something", b"\xff\xfe{", b"0"])
def test_what_is_no_listing_proves_nothing(out: bytes) -> None:
    assert not look(out).complete


def test_a_variable_of_somebody_elses_job_that_is_no_json_does_not_hide_ours() -> None:
    broken = recorded("qstat-live.json").replace(b'"A":\t7', b'"A":\t007')
    assert broken.count(b"007") > 1
    seen = look(broken)
    assert seen.complete
    assert {job.scheduler_id: job.phase for job in seen.jobs} == {
        f"{number}.pbs1": JobPhase.UNKNOWN for number in (18, 19, 20, 22, 24, 31)
    }, "they are there, and nothing else is known of them"
    foreign = recorded("qstat-live.json").split(b'"26.pbs1"')
    foreign[1] = foreign[1].replace(b'"A":\t7', b'"A":\t"say "hi"\n', 1)
    assert look(b'"26.pbs1"'.join(foreign)).jobs == look(recorded("qstat-live.json")).jobs


def test_older_versions_indent_with_blanks() -> None:
    live = json.loads(recorded("qstat-live.json"))
    older = json.dumps(live, indent=4)
    assert look(older.encode()).jobs == look(recorded("qstat-live.json")).jobs
    broken = older.replace('"A": 7', '"A": 007').encode()
    assert len(look(broken).jobs) == 6
    assert not look(broken[: len(broken) // 2]).complete


# -------------------------------------------------------------------------------------------------- the second source
def test_the_history_is_asked_one_job_at_a_time_in_utc_and_only_about_known_numbers() -> None:
    """With two ids on the line a version prints only the first (OpenPBS's issue 2672)."""
    commands = scheduler().recall({"j-1": "18.pbs1", "j-2": "", "j-3": "19.pbs1"})
    asked = ("env", "TZ=UTC0", "qstat", "-x", "-f", "-F", "json")
    assert [command.argv for command in commands] == [(*asked, "18.pbs1"), (*asked, "19.pbs1")]


@pytest.mark.parametrize(
    "result",
    [
        Unknown(detail="timed out"),
        Refused(detail="no route"),
        Done(code=153, out=b"", err=b"qstat: Unknown Job Id 99999.pbs1\n"),
        Done(code=0, out=b"", err=b"qstat: PBS is not configured to maintain job history 18.pbs1\n"),
    ],
)
def test_a_history_that_tells_nothing_proves_nothing(result: Result) -> None:
    told = result
    if isinstance(result, Done):
        told = Done(code=result.code, out=recorded("qstat-empty.json"), err=result.err)
    assert scheduler().parse_recalled([told]) == ()


def test_what_the_history_says_to_live_is_left_to_the_listing() -> None:
    live = Done(code=0, out=recorded("qstat-live.json"), err=b"")
    assert scheduler().parse_recalled([live]) == ()
