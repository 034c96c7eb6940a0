# SPDX-License-Identifier: Apache-2.0
"""The job machine: one table says which event leads from which state to which, `step` applies it.

Illegal or late events change nothing. Law 1: there is no event for "we don't know"; a caller that learnt nothing
sends nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from firstkit.core.job.record import Job, JobState
from firstkit.core.reasons import ENDS, Reason


class JobEventKind(StrEnum):
    """What can happen to a job."""

    SUBMIT_BEGUN = "submit begun"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    SEEN_WAITING = "seen waiting"
    SEEN_RUNNING = "seen running"
    SEEN_ENDING = "seen ending"
    SEEN_ENDED = "seen ended"
    REPORTED_RUNNING = "launcher reported"
    REPORTED_ENDED = "launcher reported its end"
    CONFIRMED_ABSENT = "confirmed absent"
    END_ASKED = "end asked"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """One observation or wish. `at` is the store's time; durations were already added to it by the caller."""

    kind: JobEventKind
    at: float
    reason: Reason | None = None
    detail: str = ""
    scheduler_id: str = ""
    ends_at: float | None = None
    starts_at: float | None = None
    nodes: tuple[str, ...] = ()


_S, _K = JobState, JobEventKind

TRANSITIONS: Mapping[tuple[JobState, JobEventKind], JobState] = {
    (_S.PLANNED, _K.SUBMIT_BEGUN): _S.SUBMITTING,
    (_S.PLANNED, _K.REJECTED): _S.ENDED,
    (_S.PLANNED, _K.END_ASKED): _S.ENDED,
    (_S.SUBMITTING, _K.ACCEPTED): _S.QUEUED,
    (_S.SUBMITTING, _K.REJECTED): _S.ENDED,
    (_S.SUBMITTING, _K.SEEN_WAITING): _S.QUEUED,
    (_S.SUBMITTING, _K.SEEN_RUNNING): _S.RUNNING,
    (_S.SUBMITTING, _K.SEEN_ENDING): _S.ENDING,
    (_S.SUBMITTING, _K.SEEN_ENDED): _S.ENDED,
    (_S.SUBMITTING, _K.REPORTED_RUNNING): _S.RUNNING,
    (_S.SUBMITTING, _K.REPORTED_ENDED): _S.ENDING,
    (_S.SUBMITTING, _K.CONFIRMED_ABSENT): _S.ENDED,
    (_S.SUBMITTING, _K.END_ASKED): _S.SUBMITTING,
    (_S.QUEUED, _K.ACCEPTED): _S.QUEUED,
    (_S.QUEUED, _K.SEEN_WAITING): _S.QUEUED,
    (_S.QUEUED, _K.SEEN_RUNNING): _S.RUNNING,
    (_S.QUEUED, _K.SEEN_ENDING): _S.ENDING,
    (_S.QUEUED, _K.SEEN_ENDED): _S.ENDED,
    (_S.QUEUED, _K.REPORTED_RUNNING): _S.RUNNING,
    (_S.QUEUED, _K.REPORTED_ENDED): _S.ENDING,
    (_S.QUEUED, _K.CONFIRMED_ABSENT): _S.ENDED,
    (_S.QUEUED, _K.END_ASKED): _S.ENDING,
    (_S.RUNNING, _K.ACCEPTED): _S.RUNNING,
    (_S.RUNNING, _K.SEEN_WAITING): _S.RUNNING,
    (_S.RUNNING, _K.SEEN_RUNNING): _S.RUNNING,
    (_S.RUNNING, _K.SEEN_ENDING): _S.ENDING,
    (_S.RUNNING, _K.SEEN_ENDED): _S.ENDED,
    (_S.RUNNING, _K.REPORTED_RUNNING): _S.RUNNING,
    (_S.RUNNING, _K.REPORTED_ENDED): _S.ENDING,
    (_S.RUNNING, _K.CONFIRMED_ABSENT): _S.ENDED,
    (_S.RUNNING, _K.END_ASKED): _S.ENDING,
    (_S.ENDING, _K.ACCEPTED): _S.ENDING,
    (_S.ENDING, _K.SEEN_WAITING): _S.ENDING,
    (_S.ENDING, _K.SEEN_RUNNING): _S.ENDING,
    (_S.ENDING, _K.SEEN_ENDING): _S.ENDING,
    (_S.ENDING, _K.REPORTED_ENDED): _S.ENDING,
    (_S.ENDING, _K.SEEN_ENDED): _S.ENDED,
    (_S.ENDING, _K.CONFIRMED_ABSENT): _S.ENDED,
}
"""Everything that may happen; a pair that is missing changes nothing.

A pair that stays in its state still tells facts: that the scheduler knows the job, its id, when it ends.
"""

_SEEN = frozenset({_K.SEEN_WAITING, _K.SEEN_RUNNING, _K.SEEN_ENDING, _K.SEEN_ENDED})


def step(job: Job, event: JobEvent) -> Job:
    """Apply one event. What has to be done about a job is found by level, from its record: see `services.lifecycle`.

    Replaying an event changes nothing but `seen_at`. The first reason of an end is kept: a launcher's WALLTIME is not
    overwritten by the scheduler's later CANCELLED. That a job is ending for a reason that nobody has told yet leaves
    the reason open until somebody does; none is made up.
    """
    target = TRANSITIONS.get((job.state, event.kind))
    if target is None:
        return job
    changed = replace(job, **_facts(job, event))
    if target is not job.state:
        changed = replace(changed, state=target, state_at=event.at, **_entering(changed, target, event))
    elif target is JobState.RUNNING and event.kind is _K.REPORTED_RUNNING:
        changed = replace(changed, reason=Reason.STARTED)
    elif target is JobState.ENDING:
        changed = replace(changed, reason=_end_reason(changed, event) or changed.reason)
    return changed


def _facts(job: Job, event: JobEvent) -> dict[str, object]:
    """Collect what the event tells whatever the state becomes."""
    facts: dict[str, object] = {}
    if event.scheduler_id and not job.scheduler_id:
        facts["scheduler_id"] = event.scheduler_id
    if event.kind in _SEEN:
        facts |= {"seen_at": event.at, "absent_since": None}
        waits = event.kind is _K.SEEN_WAITING and job.state in {JobState.SUBMITTING, JobState.QUEUED}
        facts["starts_at"] = event.starts_at if waits else None
    if event.nodes and (event.kind in _SEEN or not job.nodes):
        facts["nodes"] = event.nodes
    if event.kind is _K.ACCEPTED:
        facts["absent_since"] = None
    if event.ends_at is not None and (event.kind in _SEEN or job.ends_at is None):
        facts["ends_at"] = event.ends_at  # the scheduler's word; a launcher's only until the scheduler has said one
    if event.kind is _K.END_ASKED and job.ending_for is None:
        facts["ending_for"] = event.reason or Reason.CANCELLED
    if event.detail and event.kind is not _K.END_ASKED and not _explained(job):
        facts["detail"] = event.detail
    return facts


def _explained(job: Job) -> bool:
    """Tell whether the first reason of an end is known, with its detail; later ones do not replace either."""
    return job.state is JobState.ENDING and job.reason in ENDS and bool(job.detail)


def _end_reason(job: Job, event: JobEvent) -> Reason | None:
    """Say why the job ends, as far as it is known: firstkit's own wish, what was known before, what is told now.

    A launcher knows no more of a signal than that it came from outside; the scheduler knows what for.
    """
    known = job.reason if job.reason in ENDS and job.state is JobState.ENDING else None
    if known is Reason.CANCELLED and event.kind in {_K.SEEN_ENDING, _K.SEEN_ENDED} and event.reason in ENDS:
        known = event.reason
    return job.ending_for or known or event.reason


def _entering(job: Job, target: JobState, event: JobEvent) -> dict[str, object]:
    """Set what belongs to the state that is entered."""
    match target:
        case JobState.SUBMITTING:
            return {"reason": Reason.SUBMITTING, "submitted_at": event.at}
        case JobState.QUEUED:
            return {"reason": Reason.JOB_WAITS}
        case JobState.RUNNING:
            reason = Reason.STARTED if event.kind is _K.REPORTED_RUNNING else Reason.BOOTING
            return {"reason": reason, "running_at": event.at, "starts_at": None}
        case JobState.ENDING:
            return {"reason": _end_reason(job, event) or job.reason, "starts_at": None}
        case JobState.ENDED:
            return {"reason": _end_reason(job, event) or Reason.JOB_LOST, "ended_at": event.at, "starts_at": None}
        case JobState.PLANNED:
            return {}
