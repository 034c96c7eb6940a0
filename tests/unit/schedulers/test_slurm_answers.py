# SPDX-License-Identifier: Apache-2.0
"""What Slurm prints, read: transcripts of 22.05.8 unless a test names another version."""

import pytest

from firstkit.adapters.schedulers.slurm_answers import (
    ENDS,
    PHASES,
    read_accounting,
    read_listing,
    read_rehearsal,
    read_submission,
    read_windows,
)
from firstkit.adapters.schedulers.slurm_nodes import expand
from firstkit.core.reasons import HEALING, Reason
from firstkit.ports.rehearsal import Rehearsed
from firstkit.ports.runner import Done, Refused, Unknown
from firstkit.ports.scheduler import Accepted, JobPhase, Observation, Rejected, SeenJob, Unsure, Window

TAGS = "first-abcdefgh-"
TAG = "first-abcdefgh-j-000000000001"
END = "end-of-listing 1795574043\n"


def done(out: str = "", err: str = "", code: int = 0) -> Done:
    return Done(code=code, out=out.encode(), err=err.encode())


def listed(*lines: str) -> Observation:
    return read_listing(done("".join(f"{line}\n" for line in lines) + END), tags=TAGS)


def one(line: str) -> SeenJob:
    observation = listed(line)
    assert observation.complete
    (job,) = observation.jobs
    return job


# --------------------------------------------------------------------------------------------------------- submitting


@pytest.mark.parametrize(("out", "number"), [("17\n", "17"), ("17;alpha\n", "17")])
def test_the_number_of_a_job_is_read_also_where_clusters_are_federated(out: str, number: str) -> None:
    assert read_submission(done(out)) == Accepted(scheduler_id=number)


def test_a_warning_beside_the_number_does_no_harm() -> None:
    said = "sbatch: warning: can't honor --ntasks-per-node set to 1\n"
    assert read_submission(done("17\n", said)) == Accepted(scheduler_id="17")


CLOCK = done("1795575893\n")


@pytest.mark.parametrize(
    ("start", "starts_in_s"), [("1795576193", 300.0), ("1795575800", 0.0), ("2026-11-25T03:04:53", None)]
)
def test_a_dry_run_tells_the_start_by_the_clusters_own_clock(start: str, starts_in_s: float | None) -> None:
    said = f"sbatch: Job 7 to start at {start} using 1 processors on nodes q1 in partition gpu\n"
    expected = "using 1 processors on nodes q1 in partition gpu"
    assert read_rehearsal([done("", said), CLOCK]) == Rehearsed(accepted=True, detail=expected, starts_in_s=starts_in_s)
    assert read_rehearsal([done("", said), Unknown(detail="lost")]).starts_in_s is None


def test_a_dry_run_keeps_the_words_of_a_refusal() -> None:
    said = "sbatch: error: invalid partition specified: nosuch\nallocation failure: Invalid partition name specified\n"
    refused = read_rehearsal([done("", said, 1), CLOCK])
    assert refused == Rehearsed(
        accepted=False, detail="invalid partition specified: nosuch; Invalid partition name specified"
    )


@pytest.mark.parametrize(
    "answer",
    [
        Unknown(detail="timed out"),
        Refused(detail="no route"),
        done("", "allocation failure: Unable to contact slurm controller (connect failure)\n", 1),
        done("", "allocation failure: Socket timed out on send/recv operation\n", 1),
        done("17\n"),
        done(),
    ],
)
def test_a_dry_run_that_was_not_answered_says_neither(answer: Done | Refused | Unknown) -> None:
    rehearsed = read_rehearsal([answer, CLOCK])
    assert rehearsed.accepted is None
    assert rehearsed.detail


B = "sbatch: error: Batch job submission failed: "
REFUSED = {
    "invalid-partition": f"sbatch: error: invalid partition specified: nosuch\n{B}Invalid partition name specified\n",
    "account": f"{B}Invalid account or account/partition combination specified\n",
    "qos": f"{B}Invalid qos specification\n",
    "too-long": f"{B}Requested time limit is invalid (missing or exceeds some limit)\n",
    "nodes": f"{B}Node count specification invalid\n",
    "cpus": f"{B}More processors requested than permitted\n",
    "gpus": f"{B}Requested node configuration is not available\n",
    "gres": f"{B}Invalid generic resource (gres) specification\n",
    "memory": f"sbatch: error: Memory specification can not be satisfied\n{B}Requested node configuration is not "
    "available\n",
    "group": f"{B}User's group not permitted to use this partition\n",
    "reservation": f"{B}Requested reservation is invalid\n",
    "node": f"{B}Invalid node name specified\n",
    "feature": f"{B}Invalid feature specification\n",
    "qos-wall": "sbatch: error: QOSMaxWallDurationPerJobLimit\n"
    f"{B}Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)\n",
    "plugin": f"sbatch: error: Please name a project with --account\n{B}Unspecified error\n",
}


@pytest.mark.parametrize("said", REFUSED.values(), ids=REFUSED)
def test_what_waiting_cannot_heal_is_refused_in_slurms_own_words(said: str) -> None:
    answer = read_submission(done(err=said, code=1))
    assert isinstance(answer, Rejected)
    assert answer.reason is Reason.SUBMIT_REJECTED
    for line in said.splitlines():
        assert line.removeprefix("sbatch: error: ") in answer.detail


@pytest.mark.parametrize(
    "said", ["sbatch: error: Invalid --time specification\n", "sbatch: unrecognized option '--wrong'\n"]
)
def test_what_the_client_itself_refuses_is_refused_for_good(said: str) -> None:
    answer = read_submission(done(err=said, code=255))
    assert isinstance(answer, Rejected)
    assert answer.reason is Reason.SUBMIT_REJECTED


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{B}Job violates accounting/QOS policy (job submit limit)\n",
            Reason.SITE_LIMIT,
        ),
        (f"sbatch: error: AssocMaxSubmitJobLimit\n{B}Job violates accounting/QOS policy\n", Reason.SITE_LIMIT),
        (f"{B}Requested partition configuration not available now\n", Reason.SUBMIT_FAILED),
        (f"{B}Required node not available (down, drained or reserved)\n", Reason.SUBMIT_FAILED),
        (f"{B}Slurm temporarily unable to accept job, sleeping and retrying\n", Reason.SUBMIT_FAILED),
        ("sbatch: fatal: Could not establish a configuration source\n", Reason.SUBMIT_FAILED),
    ],
)
def test_what_passes_by_itself_is_tried_again(said: str, reason: Reason) -> None:
    answer = read_submission(done(err=said, code=1))
    assert isinstance(answer, Rejected)
    assert answer.reason is reason
    assert reason in HEALING


@pytest.mark.parametrize(
    "said",
    [
        f"{B}Unable to contact slurm controller (connect failure)\n",
        f"{B}Socket timed out on send/recv operation\n",
        f"{B}Zero Bytes were transmitted or received\n",
        f"{B}Slurm backup controller in standby mode\n",
        f"{B}Unexpected message received\n",
        f"{B}Connection reset by peer\n",
        f"{B}Protocol authentication error\n",
    ],
)
def test_a_request_that_got_lost_is_not_refused_since_a_hung_controller_runs_it_later(said: str) -> None:
    assert isinstance(read_submission(done(err=said, code=1)), Unsure)


def test_a_submission_that_was_cut_short_is_not_sure() -> None:
    assert isinstance(read_submission(Unknown(detail="sbatch did not end within 60 s")), Unsure)
    assert isinstance(read_submission(done(code=-9)), Unsure)
    assert isinstance(read_submission(done(code=137)), Unsure)
    assert isinstance(read_submission(done("")), Unsure)
    assert isinstance(read_submission(done("slurm says hello\n")), Unsure)


def test_a_command_that_never_ran_may_be_tried_again() -> None:
    answer = read_submission(Refused(detail="sbatch: No such file or directory"))
    assert answer == Rejected(detail="sbatch: No such file or directory", reason=Reason.SUBMIT_FAILED)


# ------------------------------------------------------------------------------------------------------------ listing


def test_a_listing_is_read_with_its_times_as_durations() -> None:
    observation = listed(
        f"1|{TAG}|FAILED|768|1:59|1795573956||NonZeroExitCode",
        "5|first-abcdefgh-j-000000000004|PENDING|0|3:00|1795574220||Resources",
        "2|first-abcdefgh-j-000000000002|RUNNING|0|1-02:57:01|1795574040|c[1,3]|None",
    )
    assert observation == Observation(
        complete=True,
        jobs=(
            SeenJob(scheduler_id="1", tag=TAG, phase=JobPhase.ENDED, detail="exit code 3"),
            SeenJob(
                scheduler_id="5",
                tag="first-abcdefgh-j-000000000004",
                phase=JobPhase.WAITING,
                detail="Resources",
                starts_in_s=177.0,
            ),
            SeenJob(
                scheduler_id="2",
                tag="first-abcdefgh-j-000000000002",
                phase=JobPhase.RUNNING,
                time_left_s=97021.0,
                nodes=frozenset({"c1", "c3"}),
            ),
        ),
    )


@pytest.mark.parametrize("start", ["N/A", "", "Unknown"])
def test_no_estimate_is_none(start: str) -> None:
    assert one(f"5|{TAG}|PENDING|0|3:00|{start}||JobHeldUser").starts_in_s is None


def test_an_estimate_that_has_passed_is_now() -> None:
    assert one(f"5|{TAG}|PENDING|0|3:00|1795570000||Priority").starts_in_s == 0.0


@pytest.mark.parametrize("left", ["UNLIMITED", "INVALID", "NOT_SET", "", "-0:05"])
def test_a_time_left_that_is_none_is_none(left: str) -> None:
    assert one(f"5|{TAG}|RUNNING|0|{left}|1795570000||None").time_left_s is None


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        ("PENDING", JobPhase.WAITING),
        ("CONFIGURING", JobPhase.WAITING),
        ("RUNNING", JobPhase.RUNNING),
        ("SIGNALING", JobPhase.RUNNING),
        ("SUSPENDED", JobPhase.RUNNING),
        ("COMPLETING", JobPhase.ENDING),
        ("STAGE_OUT", JobPhase.ENDING),
        ("REVOKED", JobPhase.UNKNOWN),
        ("NEW_IN_SLURM_99", JobPhase.UNKNOWN),
        ("", JobPhase.UNKNOWN),
    ],
)
def test_states_become_phases_and_one_that_nobody_knows_is_no_event(state: str, phase: JobPhase) -> None:
    assert one(f"5|{TAG}|{state}|0|3:00|N/A||None").phase is phase


@pytest.mark.parametrize(("state", "reason"), ENDS.items())
def test_ends_have_their_reason(state: str, reason: Reason) -> None:
    seen = one(f"5|{TAG}|{state}|0|3:00|N/A||None")
    assert (seen.phase, seen.reason) == (JobPhase.ENDED, reason)


@pytest.mark.parametrize(
    ("code", "reason", "detail"),
    [
        ("0", "None", "exit code 0"),
        ("768", "NonZeroExitCode", "exit code 3"),
        ("32512", "NonZeroExitCode", "exit code 127"),
        ("11", "JobLaunchFailure", "signal 11"),
        ("3:0", "NonZeroExitCode", "exit code 3"),
        ("0:9", "None", "signal 9"),
        ("", "None", ""),
        ("what", "None", "exit code what"),
    ],
)
def test_how_a_process_ended_is_read_in_either_form(code: str, reason: str, detail: str) -> None:
    seen = one(f"5|{TAG}|{'COMPLETED' if code == '0' else 'FAILED'}|{code}|3:00|N/A||{reason}")
    assert (seen.reason, seen.detail) == (None, detail)


WAITS = (
    "None",
    "Resources",
    "Priority",
    "Dependency",
    "BeginTime",
    "JobHeldUser",
    "JobHeldAdmin",
    "PartitionDown",
    "PartitionNodeLimit",
    "QOSMaxJobsPerUserLimit",
    "QOSMaxGRESPerUser",
    "QOSGrpNodeLimit",
    "AssocGrpCpuLimit",
    "AssocGrpCPUMinutesLimit",
    "AssocMaxJobsLimit",
)


@pytest.mark.parametrize(
    "reason", [*WAITS, "ReqNodeNotAvail, UnavailableNodes:c[1-4]", "ReqNodeNotAvail, Reserved for maintenance"]
)
def test_what_a_job_waits_for_is_kept_in_slurms_words(reason: str) -> None:
    seen = one(f"5|{TAG}|PENDING|0|3:00|N/A||{reason}")
    assert (seen.phase, seen.reason) == (JobPhase.WAITING, None)
    assert seen.detail == ("" if reason == "None" else reason)


@pytest.mark.parametrize(
    "reason",
    [
        "PartitionTimeLimit",
        "QOSMaxWallDurationPerJobLimit",
        "AssocMaxNodePerJobLimit",
        "QOSMaxGRESPerJob",
        "QOSMinGRES",
        "BadConstraints",
        "DependencyNeverSatisfied",
        "launch failed requeued held",
    ],
)
def test_a_job_that_waits_in_vain_says_so(reason: str) -> None:
    seen = one(f"5|{TAG}|PENDING|0|3:00|N/A||{reason}")
    assert (seen.phase, seen.reason, seen.detail) == (JobPhase.WAITING, Reason.SUBMIT_REJECTED, reason)


def test_a_refused_submission_that_slurm_keeps_as_a_failed_job_is_a_refusal() -> None:
    seen = one(f"7|{TAG}|FAILED|1|10:00|1795574040||BadConstraints")
    assert (seen.phase, seen.reason) == (JobPhase.ENDED, Reason.SUBMIT_REJECTED)


def test_jobs_of_others_and_of_other_installations_are_left_out() -> None:
    observation = listed(
        "5|interactive|RUNNING|0|3:00|N/A||None",
        "6|first-zzzzzzzz-j-000000000001|RUNNING|0|3:00|N/A||None",
        "7|first-abcdefgh-something|RUNNING|0|3:00|N/A||None",
        "8_[2-3%2]|array|PENDING|0|3:00|N/A||JobArrayTaskLimit",
        "23+0|het|RUNNING|0|3:00|N/A||None",
    )
    assert (observation.complete, observation.jobs) == (True, ())


def test_free_text_with_bars_and_newlines_in_it_spoils_no_other_line() -> None:
    observation = listed(
        "6|a|b",
        "c|d|PENDING|0|3:00|N/A||JobHeldUser",
        f"2|{TAG}|RUNNING|0|2:57|1795574040||one|two",
        "three",
    )
    (job,) = observation.jobs
    assert (job.scheduler_id, job.phase, job.time_left_s) == ("2", JobPhase.RUNNING, 177.0)


def test_a_line_that_comes_twice_is_one_job() -> None:
    line = f"2|{TAG}|RUNNING|0|2:57|1795574040||None"
    assert len(listed(line, line).jobs) == 1


def test_an_empty_queue_is_told_from_a_dead_controller() -> None:
    assert listed() == Observation(complete=True)
    said = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
    dead = read_listing(done(err=said, code=1), tags=TAGS)
    assert (dead.complete, dead.jobs) == (False, ())
    assert "Unable to contact slurm controller" in dead.detail


def test_a_hung_controller_is_no_observation() -> None:
    said = "slurm_load_jobs error: Socket timed out on send/recv operation\n"
    assert not read_listing(done(err=said, code=1), tags=TAGS).complete
    unknown = read_listing(Unknown(detail="sh did not end within 60 s"), tags=TAGS)
    assert unknown == Observation(complete=False, detail="sh did not end within 60 s")


def test_a_listing_that_broke_off_proves_no_absence() -> None:
    line = f"2|{TAG}|RUNNING|0|2:57|1795574040||None\n"
    whole = line + END
    assert read_listing(done(whole), tags=TAGS).complete
    for cut in range(len(whole)):
        observation = read_listing(done(whole[:cut]), tags=TAGS)
        assert not observation.complete
        assert len(observation.jobs) == (1 if cut >= len(line) else 0)


def test_every_state_that_ends_is_known_with_or_without_a_reason() -> None:
    ended = {state for state, phase in PHASES.items() if phase is JobPhase.ENDED}
    assert ended - set(ENDS) == {"COMPLETED", "FAILED"}


# --------------------------------------------------------------------------------------------------------- accounting


def test_ends_are_read_from_accounting_and_from_the_file_of_completed_jobs() -> None:
    out = (
        f"1|{TAG}|FAILED|3:0\n"
        "2|first-abcdefgh-j-000000000002|CANCELLED by 1000|0:0\n"
        "3|first-abcdefgh-j-000000000003|NODE_FAIL|1:0\n"
        "3.batch|batch|CANCELLED|0:15\n"
        "4|somebody|COMPLETED|0:0\n"
    )
    assert read_accounting(done(out), tags=TAGS) == (
        SeenJob(scheduler_id="1", tag=TAG, phase=JobPhase.ENDED, detail="exit code 3"),
        SeenJob(
            scheduler_id="2",
            tag="first-abcdefgh-j-000000000002",
            phase=JobPhase.ENDED,
            reason=Reason.CANCELLED,
        ),
        SeenJob(
            scheduler_id="3",
            tag="first-abcdefgh-j-000000000003",
            phase=JobPhase.ENDED,
            reason=Reason.NODE_FAILURE,
        ),
    )


def test_accounting_that_shows_a_job_as_running_or_queued_again_ends_nothing() -> None:
    out = f"1|{TAG}|RUNNING|0:0\n2|first-abcdefgh-j-000000000002|NODE_FAIL|0:0\n"
    out += "2|first-abcdefgh-j-000000000002|PENDING|0:0\n3|first-abcdefgh-j-000000000003|REQUEUED|0:0\n"
    assert read_accounting(done(out), tags=TAGS) == ()


@pytest.mark.parametrize(
    "result",
    [
        done(err="Slurm accounting storage is disabled\n", code=1),
        done(err="sacct: error: Problem talking to the database: Connection refused\n", code=1),
        done(),
        Unknown(detail="sacct did not end within 60 s"),
        Refused(detail="sacct: No such file or directory"),
    ],
    ids=["disabled", "down", "nothing", "hung", "missing"],
)
def test_accounting_that_says_nothing_proves_nothing(result: Done | Unknown | Refused) -> None:
    assert read_accounting(result, tags=TAGS) == ()


# ------------------------------------------------------------------------------------------------------- reservations

MAINTENANCE = (
    "ReservationName=maint1 StartTime=1795574643 EndTime=1795578243 Duration=01:00:00 Nodes=c[1-3] NodeCnt=3 "
    "CoreCnt=48 Features=(null) PartitionName=(null) Flags=MAINT,IGNORE_JOBS,SPEC_NODES,ALL_NODES TRES=cpu=48 "
    "Users=root Groups=(null) Accounts=(null) Licenses=(null) State=INACTIVE BurstBuffer=(null) Watts=n/a\n"
)
OURS = (
    "ReservationName=ours StartTime=1795574043 EndTime=1795577643 Duration=01:00:00 Nodes=c[1,3] NodeCnt=2 CoreCnt=32 "
    "Features=(null) PartitionName=(null) Flags=SPEC_NODES TRES=cpu=32 Users=root Accounts=(null) State=ACTIVE\n"
)
LICENCE = (
    "ReservationName=lic StartTime=1795574043 EndTime=1795577643 Duration=01:00:00 Nodes=(null) NodeCnt=0 CoreCnt=0 "
    "Flags=ANY_NODES Users=root Licenses=matlab:4 State=ACTIVE\n"
)


def test_reservations_are_read_relative_to_their_listing() -> None:
    assert read_windows(done(MAINTENANCE + OURS + LICENCE + END)) == (
        Window(name="maint1", starts_in_s=600.0, ends_in_s=4200.0, nodes=None, jobs=False),
        Window(name="ours", starts_in_s=0.0, ends_in_s=3600.0, nodes=frozenset({"c1", "c3"}), jobs=True),
    )


def test_no_reservations_are_told_from_no_answer() -> None:
    assert read_windows(done("No reservations in the system\n" + END)) == ()
    said = "slurm_load_reservations error: Unable to contact slurm controller (connect failure)\n"
    assert read_windows(done(err=said, code=1)) is None
    assert read_windows(Unknown(detail="sh did not end within 60 s")) is None
    assert read_windows(done(MAINTENANCE)) is None, "it broke off"
    assert read_windows(done(MAINTENANCE.replace("1795574643", "2026-11-24T22:00:07") + END)) is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ""),
        ("c1", "c1"),
        ("c[1-3]", "c1 c2 c3"),
        ("c[01-03,7],gpu5", "c01 c02 c03 c7 gpu5"),
        ("r[1-2]n[1-2]-ib", "r1n1-ib r1n2-ib r2n1-ib r2n2-ib"),
        ("c[1-", ""),
        ("c[1-999999999]", ""),
    ],
)
def test_lists_of_nodes_are_written_out(text: str, names: str) -> None:
    assert expand(text) == frozenset(names.split())
