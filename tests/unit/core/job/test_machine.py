# SPDX-License-Identifier: Apache-2.0
"""The job machine, pair by pair."""

from dataclasses import replace
from itertools import product

import pytest

from firstkit.core.job.machine import TRANSITIONS, JobEvent, JobEventKind, step
from firstkit.core.job.record import Job, JobState
from firstkit.core.reasons import ENDS, Reason
from firstkit.testing.records import T0, make_job

S, K = JobState, JobEventKind
PAIRS = list(product(JobState, JobEventKind))
ORDER = list(JobState)


def job_in(state: JobState, **fields: object) -> Job:
    reason = {S.ENDED: Reason.SCALED_IN, S.ENDING: Reason.BOOTING}.get(state, Reason.DEMAND)
    return make_job(**{"state": state, "reason": reason, **fields})


def event(kind: JobEventKind, **fields: object) -> JobEvent:
    return JobEvent(**{"kind": kind, "at": T0 + 5, **fields})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("state", "kind"), PAIRS)
def test_a_pair_of_the_table_leads_where_it_says_and_any_other_changes_nothing(
    state: JobState, kind: JobEventKind
) -> None:
    before = job_in(state)
    after = step(before, event(kind, detail="words", scheduler_id="7", reason=Reason.CANCELLED))
    target = TRANSITIONS.get((state, kind))
    if target is None:
        assert after is before
    else:
        assert after.state is target
        assert after.state_at == (before.state_at if target is state else T0 + 5)


@pytest.mark.parametrize("kind", JobEventKind)
def test_ended_is_final(kind: JobEventKind) -> None:
    before = job_in(S.ENDED)
    assert step(before, event(kind)) is before


def test_no_event_leads_back() -> None:
    wrong = [pair for pair, target in TRANSITIONS.items() if ORDER.index(target) < ORDER.index(pair[0])]
    assert not wrong


def test_every_live_state_can_end_without_firstkit_asking() -> None:
    for state in (S.SUBMITTING, S.QUEUED, S.RUNNING, S.ENDING):
        assert TRANSITIONS[state, K.SEEN_ENDED] is S.ENDED
        assert TRANSITIONS[state, K.CONFIRMED_ABSENT] is S.ENDED


@pytest.mark.parametrize(("state", "kind"), PAIRS)
def test_replaying_an_event_changes_nothing(state: JobState, kind: JobEventKind) -> None:
    told = event(kind, detail="words", scheduler_id="7", reason=Reason.PREEMPTED, ends_at=T0 + 100)
    once = step(job_in(state), told)
    again = step(once, told)
    if once.state is state or TRANSITIONS.get((once.state, kind), once.state) is once.state:
        assert again == once


def test_a_submission_that_is_accepted_waits_with_its_id() -> None:
    job = step(job_in(S.SUBMITTING, absent_since=T0), event(K.ACCEPTED, scheduler_id="42"))
    assert (job.state, job.scheduler_id, job.reason, job.absent_since) == (S.QUEUED, "42", Reason.JOB_WAITS, None)


def test_an_answer_that_comes_after_the_launcher_reported_still_gives_the_id() -> None:
    job = step(job_in(S.SUBMITTING), event(K.REPORTED_RUNNING))
    job = step(job, event(K.ACCEPTED, scheduler_id="42"))
    assert (job.state, job.scheduler_id) == (S.RUNNING, "42")


def test_the_first_id_is_kept() -> None:
    job = step(job_in(S.QUEUED, scheduler_id="42"), event(K.SEEN_RUNNING, scheduler_id="43"))
    assert job.scheduler_id == "42"


def test_firstkits_own_wish_is_the_reason_whatever_the_scheduler_says() -> None:
    job = step(job_in(S.RUNNING), event(K.END_ASKED, reason=Reason.SCALED_IN))
    job = step(job, event(K.REPORTED_ENDED, reason=Reason.CANCELLED, detail="TERM from outside"))
    job = step(job, event(K.SEEN_ENDED, reason=Reason.WALLTIME))
    assert (job.state, job.reason) == (S.ENDED, Reason.SCALED_IN)


def test_the_launchers_reason_is_kept_over_the_schedulers_later_one() -> None:
    job = step(job_in(S.RUNNING), event(K.REPORTED_ENDED, reason=Reason.OUT_OF_MEMORY, detail="CUDA out of memory"))
    job = step(job, event(K.SEEN_ENDED, reason=Reason.CANCELLED, detail="exit code 1"))
    assert (job.reason, job.detail) == (Reason.OUT_OF_MEMORY, "CUDA out of memory")


def test_an_end_that_is_seen_before_its_reason_is_known_gets_the_reason_that_is_told_later() -> None:
    job = step(job_in(S.RUNNING, reason=Reason.BOOTING), event(K.SEEN_ENDING))
    assert job.state is S.ENDING
    assert job.reason not in ENDS
    told = step(job, event(K.REPORTED_ENDED, reason=Reason.ENGINE_EXIT, detail="exit code 3"))
    assert (told.state, told.reason) == (S.ENDING, Reason.ENGINE_EXIT)
    assert step(told, event(K.SEEN_ENDED, reason=Reason.CANCELLED)).reason is Reason.ENGINE_EXIT
    assert step(job, event(K.SEEN_ENDED, reason=Reason.NODE_FAILURE)).reason is Reason.NODE_FAILURE


def test_an_end_that_nobody_explains_is_a_lost_job_and_not_a_cancelled_one() -> None:
    job = step(step(job_in(S.RUNNING), event(K.SEEN_ENDING)), event(K.SEEN_ENDED))
    assert job.reason is Reason.JOB_LOST


def test_a_job_that_is_unwanted_while_it_is_submitted_goes_on_being_unwanted() -> None:
    job = step(job_in(S.SUBMITTING), event(K.END_ASKED, reason=Reason.IDLE))
    assert (job.state, job.ending_for) == (S.SUBMITTING, Reason.IDLE)
    job = step(job, event(K.SEEN_RUNNING, scheduler_id="1"))
    assert (job.state, job.ending_for) == (S.RUNNING, Reason.IDLE)


def test_being_seen_takes_back_an_absence_in_every_state() -> None:
    for state, kind in product((S.SUBMITTING, S.QUEUED, S.RUNNING, S.ENDING), (K.SEEN_WAITING, K.SEEN_RUNNING)):
        job = step(job_in(state, absent_since=T0), event(kind))
        assert (job.absent_since, job.seen_at) == (None, T0 + 5), (state, kind)


def test_a_stale_listing_that_says_waiting_does_not_take_a_running_job_back() -> None:
    job = step(job_in(S.RUNNING), event(K.SEEN_WAITING, starts_at=T0 + 50))
    assert (job.state, job.starts_at) == (S.RUNNING, None)


def test_the_schedulers_word_about_the_end_counts_and_the_launchers_only_before_it() -> None:
    job = step(job_in(S.QUEUED), event(K.REPORTED_RUNNING, ends_at=T0 + 100))
    assert job.ends_at == T0 + 100
    job = step(job, event(K.SEEN_RUNNING, ends_at=T0 + 90))
    job = step(job, event(K.REPORTED_RUNNING, ends_at=T0 + 100))
    assert job.ends_at == T0 + 90


def test_a_running_job_boots_until_its_launcher_reports() -> None:
    job = step(job_in(S.QUEUED), event(K.SEEN_RUNNING))
    assert job.reason is Reason.BOOTING
    job = step(job, event(K.REPORTED_RUNNING))
    assert job.reason is Reason.STARTED
    assert step(job, event(K.SEEN_RUNNING)).reason is Reason.STARTED
    assert step(job_in(S.QUEUED), event(K.REPORTED_RUNNING)).reason is Reason.STARTED


def test_the_wish_for_an_end_is_kept_by_its_first_reason() -> None:
    job = step(job_in(S.SUBMITTING), event(K.END_ASKED, reason=Reason.IDLE))
    job = step(job, event(K.END_ASKED, reason=Reason.REMOVED))
    assert job.ending_for is Reason.IDLE


def test_a_planned_job_that_is_unwanted_ends_without_a_scheduler() -> None:
    job = step(job_in(S.PLANNED), event(K.END_ASKED, reason=Reason.REMOVED))
    assert (job.state, job.reason, job.ended_at) == (S.ENDED, Reason.REMOVED, T0 + 5)


def test_times_of_the_stations_are_kept() -> None:
    job = step(job_in(S.PLANNED), event(K.SUBMIT_BEGUN, at=T0 + 1))
    job = step(job, event(K.SEEN_RUNNING, at=T0 + 9))
    job = step(job, event(K.SEEN_ENDED, at=T0 + 20))
    assert (job.submitted_at, job.running_at, job.ended_at) == (T0 + 1, T0 + 9, T0 + 20)
    assert replace(job, state=S.ENDED) == job
