# SPDX-License-Identifier: Apache-2.0
"""From one look at a scheduler to events: what was seen, and what is confirmed to be gone (law 1)."""

from __future__ import annotations

from firstkit.core import ids
from firstkit.core.job.machine import JobEvent, JobEventKind
from firstkit.core.job.record import Job, JobState
from firstkit.core.reasons import Reason, is_failure
from firstkit.ports.scheduler import JobPhase, Observation, SeenJob
from firstkit.services.world import World

_KINDS = {
    JobPhase.WAITING: JobEventKind.SEEN_WAITING,
    JobPhase.RUNNING: JobEventKind.SEEN_RUNNING,
    JobPhase.ENDING: JobEventKind.SEEN_ENDING,
    JobPhase.ENDED: JobEventKind.SEEN_ENDED,
}
_EXPECTED = frozenset({JobState.SUBMITTING, JobState.QUEUED, JobState.RUNNING, JobState.ENDING})


def take_observation(
    world: World,
    observation: Observation,
    *,
    cluster: str,
    begun_at: float,
    answering_since: float,
    now: float,
    settle_s: float,
) -> list[str]:
    """Apply a listing; return the scheduler ids of our own jobs that nobody knows or wants, to be cancelled.

    `begun_at` (store time) is when the look began: a job submitted later proves nothing by its absence.
    `answering_since`: since when the scheduler has answered without a long silence, as `settle_s` counts.
    """
    orphans: list[str] = []
    present: set[str] = set()
    for seen in observation.jobs:
        tag = ids.read_tag(seen.tag)
        if tag is None:
            continue
        job = world.jobs.get(tag[1])
        if job is not None and job.cluster != cluster:
            continue  # two clusters may be partitions of one scheduler, and each sees the other's jobs
        if job is None or _is_stray(job, seen):
            if seen.phase in {JobPhase.WAITING, JobPhase.RUNNING}:
                orphans.append(seen.scheduler_id)
            continue
        present.add(job.id)
        _take_seen(world, job, seen, now)
    if observation.complete:
        for job in world.live_jobs(cluster):
            if job.id not in present and job.state in _EXPECTED:
                _take_absence(
                    world, job, begun_at=begun_at, answering_since=answering_since, now=now, settle_s=settle_s
                )
    return orphans


def _is_stray(job: Job, seen: SeenJob) -> bool:
    """Tell a second job of the same tag, or one that lives though we know it ended, from the one we know."""
    return job.state is JobState.ENDED or (job.scheduler_id not in {"", seen.scheduler_id})


def _take_seen(world: World, job: Job, seen: SeenJob, now: float) -> None:
    """Apply one line of a listing; an unknown phase is no event, but the job is there."""
    kind = _KINDS.get(seen.phase)
    if kind is None:
        world.amend_job(job.id, absent_since=None)
        return
    ends_at = now + seen.time_left_s if seen.time_left_s is not None else None
    starts_at = now + seen.starts_in_s if seen.starts_in_s is not None else None
    world.job_event(
        job.id,
        JobEvent(
            kind=kind,
            at=now,
            reason=seen.reason,
            detail=seen.detail,
            scheduler_id=seen.scheduler_id,
            ends_at=steady(job.ends_at, ends_at),
            starts_at=steady(job.starts_at, starts_at),
            nodes=tuple(sorted(seen.nodes)),
        ),
    )
    if seen.phase is JobPhase.WAITING and seen.reason is not None and is_failure(seen.reason):
        # It waits for what waiting will not bring, as good as refused: its place is given back, and the failure counts.
        world.job_event(job.id, JobEvent(kind=JobEventKind.END_ASKED, at=now, reason=seen.reason))


def steady(known: float | None, told: float | None) -> float | None:
    """Keep a known moment while what is told differs by two seconds at most: listings round."""
    if known is not None and told is not None and abs(known - told) <= 2.0:
        return known
    return told


def _take_absence(
    world: World, job: Job, *, begun_at: float, answering_since: float, now: float, settle_s: float
) -> None:
    """Let absence count only with a second source or after the settle time.

    The launcher's own report of its end is a second source. A launcher that still reports keeps its job alive whatever
    the listing says. What was never accepted counts as not submitted after the scheduler has answered for `settle_s`.
    """
    if job.submitted_at is not None and begun_at <= job.submitted_at:
        return
    since = job.absent_since if job.absent_since is not None else now
    world.amend_job(job.id, absent_since=since)
    instances = world.instances_of_job(job.id)
    heard = max((item.heard_at or 0.0 for item in instances), default=0.0)
    reported_end = job.state is JobState.ENDING and job.ending_for is None
    if not reported_end and now - max(since, answering_since, heard) < settle_s:
        return
    never = job.state is JobState.SUBMITTING and not job.scheduler_id
    world.job_event(
        job.id,
        JobEvent(
            kind=JobEventKind.CONFIRMED_ABSENT,
            at=now,
            reason=Reason.SUBMIT_FAILED if never else Reason.JOB_LOST,
            detail="the scheduler never saw the submission" if never else "the scheduler no longer knows the job",
        ),
    )
