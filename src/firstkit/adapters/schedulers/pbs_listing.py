# SPDX-License-Identifier: Apache-2.0
"""From one job of a PBS listing to what the scheduler's port says of a job."""

from __future__ import annotations

from firstkit.adapters.schedulers.pbs_codes import (
    CANCELLED_SUBSTATE,
    ENDS,
    RAN_BEFORE,
    exit_words,
)
from firstkit.adapters.schedulers.pbs_json import Attributes, mapping, number
from firstkit.adapters.schedulers.pbs_reservations import vnodes
from firstkit.adapters.schedulers.pbs_times import elapsed_s, read_duration, read_moment
from firstkit.core.reasons import Reason
from firstkit.ports.scheduler import JobPhase, SeenJob

_PHASES = {
    "Q": JobPhase.WAITING,
    "H": JobPhase.WAITING,
    "W": JobPhase.WAITING,
    "T": JobPhase.WAITING,
    "R": JobPhase.RUNNING,
    "S": JobPhase.RUNNING,  # suspended: it has its place, and its processes are stopped
    "U": JobPhase.RUNNING,
    "E": JobPhase.ENDING,
    "F": JobPhase.ENDED,
}
"""What is missing (B, M, X: of arrays, of jobs that went to another server; letters yet unknown) is no event."""
_SUSPENDED = frozenset({"S", "U"})
_NEVER = "Can Never Run"
"""So begins the scheduler's comment on a job that asks for more than the site has in all."""


def seen_job(scheduler_id: str, job: Attributes, *, asked_at: float | None) -> SeenJob:
    """Read one job; `asked_at` is the listing's own time."""
    letter = str(job.get("job_state", ""))
    phase = _PHASES.get(letter, JobPhase.UNKNOWN)
    comment = str(job.get("comment", ""))
    reason: Reason | None = None
    detail = comment
    time_left_s = starts_in_s = None
    if phase is JobPhase.WAITING:
        starts_in_s = _starts_in(job, asked_at)
        detail = comment or _held(letter, job)
        reason = Reason.SUBMIT_REJECTED if comment.startswith(_NEVER) else None
        if _ran_before(job):
            phase, reason = JobPhase.ENDING, _why_again(job, comment)
            detail = f"the scheduler has queued it again: {comment}" if comment else "the scheduler has queued it again"
    elif phase is JobPhase.RUNNING:
        time_left_s = _time_left(job, asked_at)
        detail = f"suspended by the scheduler: {comment}" if letter in _SUSPENDED else ""
    elif phase is JobPhase.ENDED:
        reason, detail = _end(job, comment)
    return SeenJob(
        scheduler_id=scheduler_id,
        tag=str(job.get("Job_Name", "")),
        phase=phase,
        reason=reason,
        detail=detail,
        time_left_s=time_left_s,
        starts_in_s=starts_in_s,
        nodes=frozenset(vnodes(str(job.get("exec_vnode", "")))),
    )


def _status(job: Attributes) -> int | None:
    status = number(job.get("Exit_status"))
    return None if status is None else int(status)


def _ran_before(job: Attributes) -> bool:
    """Tell a job that waits for its first start from one that is queued again after its node was lost, or by hand.

    Such a job is over: what it started may run on, and a second start would find the run directory claimed.
    """
    status = _status(job)
    return status is not None and (status >= 0 or status in RAN_BEFORE)


def _why_again(job: Attributes, comment: str) -> Reason | None:
    if "preempt" in comment.lower():
        return Reason.PREEMPTED
    return ENDS.get(_status(job) or 0)


def _held(letter: str, job: Attributes) -> str:
    """Say why a job without a comment waits."""
    if letter != "H":
        return ""
    depend = job.get("depend")
    return f"held: it depends on {depend}" if depend else f"held ({job.get('Hold_Types', 'by the scheduler')})"


def _starts_in(job: Attributes, asked_at: float | None) -> float | None:
    """Read the scheduler's estimate, where it makes one."""
    moment = read_moment(mapping(job.get("estimated")).get("start_time"))
    return None if moment is None or asked_at is None or moment <= asked_at else moment - asked_at


def _time_left(job: Attributes, asked_at: float | None) -> float | None:
    walltime_s = read_duration(mapping(job.get("Resource_List")).get("walltime"))
    elapsed = elapsed_s(
        asked_at=asked_at,
        started_at=read_moment(job.get("stime")),
        used_s=read_duration(mapping(job.get("resources_used")).get("walltime")),
    )
    return None if walltime_s is None or elapsed is None else max(0.0, walltime_s - elapsed)


def _end(job: Attributes, comment: str) -> tuple[Reason | None, str]:
    """Say why a job has ended, as far as PBS knows."""
    status = _status(job)
    if job.get("substate") == CANCELLED_SUBSTATE:
        return Reason.PREEMPTED if "preempt" in comment.lower() else Reason.CANCELLED, comment
    if status is None:
        return None, comment or "it ended without an exit status"
    if status >= 0:
        return None, exit_words(status)
    return ENDS.get(status), comment or f"PBS's exit status {status}"
