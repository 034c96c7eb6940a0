# SPDX-License-Identifier: Apache-2.0
"""Ask the policies what each deployment should change, from demand, overrides, limits and history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from firstkit.core.catalog import Catalog, Deployment, Scaling
from firstkit.core.instance.record import Contact, Instance, InstanceState
from firstkit.core.reasons import Reason
from firstkit.core.scaling import diff, failures, policy, shares, signals
from firstkit.core.scaling.room import Room, room
from firstkit.core.scaling.walltime import lead_s
from firstkit.core.snapshot import View
from firstkit.ports.store import GatewayRow, Override
from firstkit.services.foresight import Horizon
from firstkit.services.world import World

_COMING = frozenset({InstanceState.PLANNED, InstanceState.LOADING})


class Overrides:
    """Operators' temporary changes, by kind and subject."""

    def __init__(self, rows: Sequence[Override] = ()) -> None:
        self.rows = tuple(rows)
        self._rows = {(row.kind, row.subject): row for row in rows}
        self._subjects: dict[str, frozenset[str]] = {}
        for row in rows:
            self._subjects[row.kind] = self._subjects.get(row.kind, frozenset()) | {row.subject}

    def find(self, kind: str, subject: str) -> Override | None:
        """Return the one override of that kind and subject."""
        return self._rows.get((kind, subject))

    def subjects(self, kind: str) -> frozenset[str]:
        """List the subjects of a kind."""
        return self._subjects.get(kind, frozenset())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One deployment and what there is of it, before its part of the demand is known."""

    deployment: Deployment
    spec: str
    instances: Sequence[Instance]
    standing: failures.Standing
    nodes: int
    room: Room | None
    stopped: bool
    cordoned: bool
    draining: bool

    def has(self, states: frozenset[InstanceState]) -> bool:
        """Tell whether an instance within reach is in one of these states."""
        return any(item.state in states and item.contact is not Contact.LOST for item in self.instances)

    @property
    def barred(self) -> bool:
        """Tell whether nothing may start now."""
        full = self.room is not None and self.room.for_jobs_of(self.nodes) == 0
        waits = self.standing.held or self.standing.wait_s > 0
        return waits or self.stopped or self.cordoned or self.draining or full


def views(
    world: World,
    catalog: Catalog,
    *,
    specs: Mapping[str, str],
    gateways: Sequence[GatewayRow],
    overrides: Overrides,
    patience: failures.Patience,
    horizon: Horizon,
    drain_s: float,
    now: float,
) -> list[View]:
    """Decide about every deployment in the file's order: an earlier one has a cluster's room first."""
    rooms = {
        name: room(cluster.limits, world.jobs_on(name), nodes_of=lambda one: _nodes(catalog, one), now=now)
        for name, cluster in catalog.clusters.items()
    }
    for name, nodes in handovers(catalog).items():
        if not any(item.replaces and item.cluster == name for item in world.live_instances()):
            rooms[name].reserve = nodes
    cases = [
        _case(world, item, specs[item.name], rooms=rooms, overrides=overrides, patience=patience, now=now)
        for item in catalog.deployments.values()
    ]
    demand = shares.share(_candidates(world, cases, gateways))
    return [
        _view(world, case, demand[case.deployment.name], horizon=horizon, drain_s=drain_s, now=now) for case in cases
    ]


def _case(
    world: World,
    deployment: Deployment,
    spec: str,
    *,
    rooms: Mapping[str, Room],
    overrides: Overrides,
    patience: failures.Patience,
    now: float,
) -> _Case:
    """Gather what is known of one deployment."""
    everything = world.instances_of(deployment.name)
    scaling = _bounds(deployment, overrides)
    release = overrides.find("release", deployment.name)
    return _Case(
        deployment=deployment if scaling is deployment.scaling else replace(deployment, scaling=scaling),
        spec=spec,
        instances=[item for item in everything if item.state is not InstanceState.ENDED],
        standing=failures.standing(
            everything, spec=spec, released_at=release.at if release else None, now=now, patience=patience
        ),
        nodes=deployment.resources.nodes if deployment.resources is not None else 0,
        room=rooms.get(deployment.cluster or ""),
        stopped=(deployment.cluster or "") in overrides.subjects("stop"),
        cordoned=deployment.name in overrides.subjects("cordon"),
        draining=deployment.name in overrides.subjects("drain"),
    )


def _candidates(world: World, cases: Sequence[_Case], gateways: Sequence[GatewayRow]) -> list[shares.Candidate]:
    """Lay the demand of all gateways beside what there is of each deployment."""
    folded = signals.fold(
        (
            signals.ModelDemand(
                model=row.model,
                waiting=row.waiting,
                oldest_wait_s=row.oldest_wait_s,
                in_flight=row.in_flight,
                wanted_ago_s=row.wanted_ago_s,
            )
            for gateway in gateways
            for row in gateway.demand
        ),
        deployments=[case.deployment for case in cases],
        deployment_of=world.deployment_of,
    )
    found: list[shares.Candidate] = []
    for case in cases:
        item = case.deployment
        serving, coming = case.has(frozenset({InstanceState.READY})), case.has(_COMING)
        alive = (serving or coming) and not case.draining and not case.stopped
        found.append(
            shares.Candidate(
                deployment=item.name,
                model=item.model,
                signals=folded[item.name],
                capacity=item.scaling.max * item.scaling.in_flight,
                serving=serving,
                coming=coming,
                able=alive or not case.barred,
            )
        )
    return found


def _view(world: World, case: _Case, seen: signals.Signals, *, horizon: Horizon, drain_s: float, now: float) -> View:
    """Decide about one deployment, and take what it starts off its cluster's room."""
    deployment = case.deployment
    serving = sum(1 for item in case.instances if item.state is InstanceState.READY)
    left = case.room
    slow = world.slow(deployment.name, case.spec)
    fits = horizon.fit(deployment, slow)
    notes = left.notes(case.nodes) if left is not None else ()
    changes = diff.decide(
        diff.Situation(
            deployment=deployment,
            spec=case.spec,
            instances=case.instances,
            need=policy.need(seen, scaling=deployment.scaling, serving=serving),
            standing=case.standing,
            now=now,
            drain_s=drain_s,
            room=left.for_jobs_of(case.nodes) if left is not None else None,
            reserve=left.reserved(case.nodes) if left is not None else 0,
            crowded=left is not None and left.crowded(case.nodes),
            notes=notes if fits.barred is None else (fits.barred.words(),),
            ends=horizon.ends,
            lead_s=lead_s(slow),
            unfit=horizon.unfit,
            blocked=None if fits.barred is None else Reason.MAINTENANCE,
            barred_s=0.0 if fits.barred is None else fits.barred.ends_at - now,
            cluster_stopped=case.stopped,
            cordoned=case.cordoned,
            draining=case.draining,
        )
    )
    if left is not None:
        left.take(changes.start + len(changes.heirs), nodes=case.nodes)
    return View(
        deployment=deployment,
        changes=changes,
        standing=case.standing,
        usual=world.usual(deployment.name, case.spec),
        cordoned=case.cordoned,
        used=seen.in_flight > 0 or (seen.wanted_ago_s is not None and seen.wanted_ago_s <= policy.RECENTLY_S),
        walltime_s=fits.walltime_s,
        notices=tuple(horizon.announcements(deployment.cluster)) if deployment.cluster else (),
    )


def _bounds(deployment: Deployment, overrides: Overrides) -> Scaling:
    """Apply a `scale` override to the bounds of the catalog."""
    row = overrides.find("scale", deployment.name)
    if row is None:
        return deployment.scaling
    low = row.value.get("min", deployment.scaling.min)
    return replace(deployment.scaling, min=low, max=max(low, row.value.get("max", deployment.scaling.max)))


def handovers(catalog: Catalog) -> dict[str, int]:
    """Say which clusters have deployments that hand over, and how many nodes the largest of them needs for that."""
    found: dict[str, int] = {}
    for item in catalog.deployments.values():
        if item.cluster is None or item.resources is None:
            continue
        if item.scaling.handover and item.resources.walltime_s is not None:
            found[item.cluster] = max(found.get(item.cluster, 0), item.resources.nodes)
    return found


def _nodes(catalog: Catalog, deployment: str) -> int:
    """Say how many nodes a job of a deployment holds, by what it asks for now."""
    item = catalog.deployments.get(deployment)
    return item.resources.nodes if item is not None and item.resources is not None else 1
