# SPDX-License-Identifier: Apache-2.0
"""Announced times in which nothing of ours may run: what they mean for jobs that run, wait, or are to be submitted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from firstkit.core.job.record import Job, JobState

WHOLE_S = 60.0
"""Schedulers count walltimes in minutes."""
LATE_S = 60.0
"""A job may start this much later than usual and still fit before a maintenance,"""
LATE_PART = 0.1
"""or by this part of the time until then, whichever is longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One announced time on one cluster, in the store's clock: a reservation, or what an operator said (`by`).

    `nodes` None: the whole cluster. `jobs`: jobs that name it may run in it, and must end with it.
    """

    cluster: str
    name: str
    starts_at: float
    ends_at: float
    nodes: frozenset[str] | None = None
    jobs: bool = False
    by: str = ""
    note: str = ""

    def words(self) -> str:
        """Say it to people; a date for them, no clock is compared with it."""
        what = self.note or (f"an operator's notice ({self.by})" if self.by else f"reservation {self.name}")
        return f"{maintenance_of(self.cluster)} from {_moment(self.starts_at)} to {_moment(self.ends_at)} UTC: {what}"


def maintenance_of(cluster: str) -> str:
    """Begin a sentence about a cluster's maintenance."""
    return f"maintenance of {cluster}"


def stop_of(
    job: Job, notices: Iterable[Notice], *, reservation: str, nodes: frozenset[str], now: float
) -> tuple[float, Notice] | None:
    """Say when a job that runs has to be gone because of a notice, and which; None when none concerns it.

    `nodes` is where it runs as far as that is known: a notice for some nodes concerns a job only if it runs on one.
    """
    stops: list[tuple[float, Notice]] = []
    for notice in notices:
        if notice.cluster != job.cluster or notice.ends_at <= now:
            continue
        if notice.jobs and notice.name == reservation:
            stops.append((notice.ends_at, notice))
        elif notice.nodes is None or notice.nodes & nodes:
            stops.append((notice.starts_at, notice))
    return min(stops, key=lambda one: one[0], default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How long a job that is submitted now may run (None: without end), or which notice keeps it from being submitted.

    `cut` is the notice that made it shorter than it was asked for.
    """

    walltime_s: float | None = None
    barred: Notice | None = None
    cut: Notice | None = None


def fit(
    walltime_s: float | None,
    notices: Iterable[Notice],
    *,
    cluster: str,
    reservation: str = "",
    wait_s: float,
    least_s: float,
    now: float,
) -> Fit:
    """Shorten a walltime so that a job which waits as long as usual (`wait_s`) ends before the next maintenance.

    A job that could run for less than `least_s` is not worth its start. Notices for some nodes leave the others.
    """
    ahead = sorted(
        (one for one in notices if one.cluster == cluster and one.nodes is None and one.ends_at > now),
        key=lambda one: one.starts_at,
    )
    for notice in ahead:
        if notice.jobs and notice.name == reservation:
            continue
        gap_s = notice.starts_at - now
        spare_s = gap_s - wait_s - max(LATE_S, LATE_PART * gap_s)
        if walltime_s is not None and walltime_s <= spare_s:
            return Fit(walltime_s=walltime_s)
        whole_s = spare_s // WHOLE_S * WHOLE_S
        if whole_s < max(least_s, WHOLE_S):
            return Fit(barred=notice)
        return Fit(walltime_s=whole_s, cut=notice)
    return Fit(walltime_s=walltime_s)


def too_long(job: Job, notices: Iterable[Notice], *, reservation: str, now: float) -> bool:
    """Tell whether a job that still waits could not end before the next maintenance if it started now.

    The scheduler will not start it before that any more; a shorter one may still get its turn.
    """
    if job.state is not JobState.QUEUED:
        return False
    end = float("inf") if job.walltime_s is None else now + job.walltime_s
    return any(
        one.cluster == job.cluster
        and one.nodes is None
        and not (one.jobs and one.name == reservation)
        and now < one.starts_at < end
        for one in notices
    )


def announcements(notices: Iterable[Notice], *, cluster: str, now: float) -> list[str]:
    """Word the notices of a cluster for its users, the next first."""
    mine = [one for one in notices if one.cluster == cluster and one.nodes is None and one.ends_at > now]
    return [one.words() for one in sorted(mine, key=lambda one: one.starts_at)]


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")
