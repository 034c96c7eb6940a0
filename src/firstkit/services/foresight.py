# SPDX-License-Identifier: Apache-2.0
"""What is known of the time to come: reservations, operators' notices, and when each instance's time is over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from firstkit.core.catalog import Deployment, Resources
from firstkit.core.instance.record import Instance, InstanceState
from firstkit.core.job.record import Job
from firstkit.core.maintenance import Fit, Notice, announcements, fit, stop_of, too_long
from firstkit.core.reasons import Reason
from firstkit.core.scaling.forecast import Typical
from firstkit.core.scaling.walltime import End, lead_s, margin_s
from firstkit.ports.store import Override
from firstkit.services.job_watcher import Reserved
from firstkit.services.observation import steady
from firstkit.services.world import World

MAINTENANCE = "maintenance"
"""The override by which an operator announces one; its value holds `starts_at` and `ends_at` in the store's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Horizon:
    """The time to come as one tick sees it: notices, ends of instances, and jobs that wait for what cannot be."""

    now: float = 0.0
    notices: tuple[Notice, ...] = ()
    ends: Mapping[str, End] = field(default_factory=dict[str, End])
    unfit: frozenset[str] = frozenset()

    def fit(self, deployment: Deployment, slow: Typical) -> Fit:
        """Say how long a job of this deployment may run if it is submitted now; it has to outlive its own hand-over."""
        asked_s = deployment.resources.walltime_s if deployment.resources is not None else None
        return fit(
            asked_s,
            self.notices,
            cluster=deployment.cluster or "",
            reservation=_reservation(deployment),
            wait_s=slow.job_wait_s or 0.0,
            least_s=2.0 * lead_s(slow),
            now=self.now,
        )

    def announcements(self, cluster: str) -> list[str]:
        """Word what is announced for a cluster."""
        return announcements(self.notices, cluster=cluster, now=self.now)


class Foresight:
    """Keep what the schedulers last said of reservations; an answer that tells nothing changes nothing (law 1)."""

    def __init__(self) -> None:
        self._reserved: dict[str, tuple[Notice, ...]] = {}

    def reserved(self, told: Reserved, *, begun_at: float) -> None:
        """Take in a cluster's reservations; `begun_at` is when the look began, in the store's clock."""
        known = {one.name: one for one in self._reserved.get(told.cluster, ())}
        self._reserved[told.cluster] = tuple(
            Notice(
                cluster=told.cluster,
                name=window.name,
                starts_at=_steady(known.get(window.name), "starts_at", begun_at + window.starts_in_s),
                ends_at=_steady(known.get(window.name), "ends_at", begun_at + window.ends_in_s),
                nodes=window.nodes,
                jobs=window.jobs,
            )
            for window in told.windows
        )

    def look(
        self,
        world: World,
        *,
        overrides: Iterable[Override],
        made_from: Callable[[Instance], Deployment | None],
        now: float,
    ) -> Horizon:
        """Put together what is known now."""
        notices = (
            *(one for known in self._reserved.values() for one in known if one.ends_at > now),
            *(notice for row in overrides if row.kind == MAINTENANCE and (notice := _said(row)).ends_at > now),
        )
        ends: dict[str, End] = {}
        unfit: set[str] = set()
        for item in world.live_instances():
            job = world.jobs.get(item.job or "")
            if job is None:
                continue
            made = made_from(item)
            reservation = _reservation(made) if made is not None else ""
            end = _end(job, notices, reservation=reservation, now=now)
            if end is not None:
                ends[item.id] = end
            if (
                item.state is InstanceState.PLANNED
                and made is not None
                and too_long(job, notices, reservation=reservation, now=now)
            ):
                shorter = Horizon(now=now, notices=notices).fit(made, world.slow(item.deployment, item.spec))
                if shorter.barred is None:
                    unfit.add(item.id)
        return Horizon(now=now, notices=notices, ends=ends, unfit=frozenset(unfit))


def _said(row: Override) -> Notice:
    """Read an operator's notice."""
    return Notice(
        cluster=row.subject,
        name=MAINTENANCE,
        starts_at=float(row.value.get("starts_at", row.at)),
        ends_at=float(row.value.get("ends_at", row.at)),
        by=row.by,
        note=row.note,
    )


def _end(job: Job, notices: Iterable[Notice], *, reservation: str, now: float) -> End | None:
    """Say when what runs in a job has to have finished: at its walltime's end or a maintenance, less the margin."""
    margin = margin_s(job.walltime_s)
    stop = stop_of(job, notices, reservation=reservation, nodes=frozenset(job.nodes), now=now)
    if stop is not None and job.running_at is not None and (job.ends_at is None or stop[0] < job.ends_at):
        return End(at=stop[0] - margin, reason=Reason.MAINTENANCE, detail=stop[1].words(), margin_s=margin)
    if job.ends_at is None:
        return None
    return End(at=job.ends_at - margin, reason=Reason.WALLTIME, margin_s=margin)


def _reservation(deployment: Deployment) -> str:
    return str((deployment.resources or Resources()).options.get("reservation") or "")


def _steady(known: Notice | None, what: str, told: float) -> float:
    """Keep a known moment while what is told differs by the rounding of listings alone."""
    before = None if known is None else getattr(known, what)
    kept = steady(before, told)
    return told if kept is None else kept
