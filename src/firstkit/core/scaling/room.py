# SPDX-License-Identifier: Apache-2.0
"""How many more jobs a cluster's hard limits allow, and which limit says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from firstkit.core.catalog import ClusterLimits
from firstkit.core.job.record import Job, JobState

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


@dataclass(slots=True)
class Room:
    """What is left of one cluster's limits in this round of decisions; None is no bound.

    `jobs` and `nodes` come free when a job ends, `submissions` and `node_hours` only with time. `reserve`: one job of
    so many nodes is kept for a successor (0: none is).
    """

    jobs: int | None = None
    nodes: int | None = None
    submissions: int | None = None
    node_hours: float | None = None
    reserve: int = 0

    def for_jobs_of(self, nodes: int) -> int | None:
        """Say how many more jobs of that many nodes may be submitted."""
        rooms = [] if self.node_hours is None or self.node_hours > 0 else [0]
        rooms += [bound for bound in (self.jobs, self.submissions) if bound is not None]
        if self.nodes is not None:
            rooms.append(self.nodes // max(1, nodes))
        return max(0, min(rooms)) if rooms else None

    def reserved(self, nodes: int) -> int:
        """Say how many jobs of that many nodes fewer there are because one is kept for a successor."""
        if not self.reserve:
            return 0
        jobs = 1 if self.jobs is not None else 0
        return max(jobs, -(-self.reserve // max(1, nodes)) if self.nodes is not None else 0)

    def crowded(self, nodes: int) -> bool:
        """Tell whether there is no room, and a job that ends would make some."""
        waits = (self.submissions is not None and self.submissions <= 0) or (
            self.node_hours is not None and self.node_hours <= 0
        )
        return self.for_jobs_of(nodes) == 0 and not waits

    def notes(self, nodes: int) -> tuple[str, ...]:
        """Name the limits that leave no room, as they are called in the configuration."""
        named = (
            ("jobs", self.jobs is not None and self.jobs <= 0),
            ("nodes", self.nodes is not None and self.nodes < nodes),
            ("submits_per_hour", self.submissions is not None and self.submissions <= 0),
            ("node_hours", self.node_hours is not None and self.node_hours <= 0),
        )
        return tuple(f"limits.{name} of the cluster is reached" for name, reached in named if reached)

    def take(self, jobs: int, *, nodes: int) -> None:
        """Count jobs that are about to be planned."""
        if self.jobs is not None:
            self.jobs -= jobs
        if self.nodes is not None:
            self.nodes -= jobs * nodes
        if self.submissions is not None:
            self.submissions -= jobs


def room(limits: ClusterLimits, jobs: Iterable[Job], *, nodes_of: Callable[[str], int], now: float) -> Room:
    """Measure what a cluster's limits leave beside its jobs, those of the last day included.

    Jobs on their way out still count. `nodes_of` says how many nodes a job of a deployment holds. Node-hours are those
    used in the last 24 hours: one job too many may be started before they show.
    """
    mine = list(jobs)
    live = [job for job in mine if job.state is not JobState.ENDED]
    left = Room()
    if limits.jobs is not None:
        left.jobs = limits.jobs - len(live)
    if limits.nodes is not None:
        left.nodes = limits.nodes - sum(nodes_of(job.deployment) for job in live)
    if limits.submits_per_hour is not None:
        recent = sum(1 for job in mine if job.submitted_at is not None and now - job.submitted_at < HOUR_S)
        waiting = sum(1 for job in live if job.state is JobState.PLANNED)
        left.submissions = limits.submits_per_hour - recent - waiting
    if limits.node_hours_per_day is not None:
        used = sum(_node_hours(job, nodes=nodes_of(job.deployment), now=now) for job in mine)
        left.node_hours = limits.node_hours_per_day - used
    return left


def _node_hours(job: Job, *, nodes: int, now: float) -> float:
    """Say what a job has used in the last 24 hours."""
    if job.running_at is None:
        return 0.0
    end = job.ended_at if job.ended_at is not None else now
    return max(0.0, end - max(job.running_at, now - DAY_S)) * nodes / HOUR_S
