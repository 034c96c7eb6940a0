# SPDX-License-Identifier: Apache-2.0
"""Which jobs the scheduler is told to cancel, and how often."""

from firstkit.core.job.record import Job, JobState
from firstkit.core.reasons import Reason
from firstkit.services.lifecycle import CANCEL_AGAIN_S, Lifecycle
from firstkit.services.world import World
from firstkit.testing.records import T0, make_job

PATIENCE_S = 60.0


def lifecycle(job: Job) -> Lifecycle:
    return Lifecycle(
        World(jobs=[job], instances=[], starts=[]),
        engines={},
        random=bytes,
        read_key=str,
        journal=lambda event, **facts: None,
        drain_s=60.0,
    )


def test_a_job_whose_launcher_has_ended_but_which_stays_with_the_scheduler_is_cancelled_until_it_goes() -> None:
    one = lifecycle(make_job(state=JobState.ENDING, reason=Reason.ENGINE_EXIT, state_at=T0, scheduler_id="7"))
    assert one.due_cancels(patience_s=PATIENCE_S, now=T0 + PATIENCE_S) == []
    assert one.due_cancels(patience_s=PATIENCE_S, now=T0 + PATIENCE_S + 1) == [("local", "7")]
    assert one.due_cancels(patience_s=PATIENCE_S, now=T0 + PATIENCE_S + 2) == []
    assert one.due_cancels(patience_s=PATIENCE_S, now=T0 + PATIENCE_S + 1 + CANCEL_AGAIN_S) == [("local", "7")]


def test_a_job_that_shall_end_is_cancelled_at_once() -> None:
    one = lifecycle(make_job(state=JobState.RUNNING, ending_for=Reason.SCALED_IN, scheduler_id="7"))
    assert one.due_cancels(patience_s=PATIENCE_S, now=T0) == [("local", "7")]


def test_a_job_that_runs_or_has_no_number_yet_is_not_cancelled() -> None:
    for job in (
        make_job(state=JobState.RUNNING, state_at=T0, scheduler_id="7"),
        make_job(state=JobState.ENDING, state_at=T0),
    ):
        assert lifecycle(job).due_cancels(patience_s=PATIENCE_S, now=T0 + 10 * PATIENCE_S) == []
