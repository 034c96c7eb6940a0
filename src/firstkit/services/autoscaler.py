# SPDX-License-Identifier: Apache-2.0
"""Ask the policies what each deployment should change, from demand, overrides, limits and history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from firstkit.core.catalog import Catalog, Cluster, Deployment, Scaling
from firstkit.core.instance.record import InstanceState
from firstkit.core.job.record import Job, JobState
from firstkit.core.reasons import Reason
from firstkit.core.scaling import diff, failures, forecast, policy, signals
from firstkit.core.snapshot import View
from firstkit.ports.store import GatewayRow, Override
from firstkit.services.world import World

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """Operators' temporary changes, by kind and subject."""

    rows: tuple[Override, ...] = ()

    def find(self, kind: str, subject: str) -> Override | None:
        """Return the one override of that kind and subject."""
        return next((row for row in self.rows if row.kind == kind and row.subject == subject), None)

    def subjects(self, kind: str) -> frozenset[str]:
        """List the subjects of a kind."""
        return frozenset(row.subject for row in self.rows if row.kind == kind)


def views(
    world: World,
    catalog: Catalog,
    *,
    specs: Mapping[str, str],
    gateways: Sequence[GatewayRow],
    overrides: Overrides,
    patience: failures.Patience,
    drain_s: float,
    now: float,
) -> list[View]:
    """Decide about every deployment in the file's order: an earlier one has a cluster's room and the queue first."""
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
        deployments=list(catalog.deployments.values()),
        deployment_of={item.id: item.deployment for item in world.instances.values()},
    )
    starts = [
        forecast.Start(
            deployment=row.deployment, spec=row.spec, job_wait_s=row.job_wait_s, boot_s=row.boot_s, load_s=row.load_s
        )
        for row in world.starts
    ]
    room = {name: _room(world, catalog, cluster, now) for name, cluster in catalog.clusters.items()}
    served: set[str] = set()
    found: list[View] = []
    for deployment in catalog.deployments.values():
        scaling = _bounds(deployment, overrides)
        effective = replace(deployment, scaling=scaling)
        spec = specs[deployment.name]
        instances = [item for item in world.instances_of(deployment.name) if item.state is not InstanceState.ENDED]
        seen = folded[deployment.name]
        if deployment.model in served:
            seen = replace(seen, waiting=0)
        release = overrides.find("release", deployment.name)
        standing = failures.standing(
            world.instances_of(deployment.name),
            spec=spec,
            released_at=release.at if release else None,
            now=now,
            patience=patience,
        )
        serving = sum(1 for item in instances if item.state is InstanceState.READY)
        cluster = deployment.cluster or ""
        situation = diff.Situation(
            deployment=effective,
            spec=spec,
            instances=instances,
            need=policy.need(seen, scaling=scaling, serving=serving),
            standing=standing,
            now=now,
            drain_s=drain_s,
            room=room.get(cluster),
            cluster_stopped=cluster in overrides.subjects("stop"),
            cordoned=deployment.name in overrides.subjects("cordon"),
            draining=deployment.name in overrides.subjects("drain"),
        )
        changes = diff.decide(situation)
        left = room.get(cluster)
        if left is not None:
            room[cluster] = left - changes.start
        if changes.verdict not in {Reason.HELD, Reason.CLUSTER_STOPPED, Reason.CORDONED, Reason.OVERRIDE}:
            served.add(deployment.model)
        found.append(
            View(
                deployment=effective,
                changes=changes,
                standing=standing,
                usual=forecast.typical(starts, deployment=deployment.name, spec=spec),
                cordoned=situation.cordoned,
            )
        )
    return found


def _bounds(deployment: Deployment, overrides: Overrides) -> Scaling:
    """Apply a `scale` override to the bounds of the catalog."""
    row = overrides.find("scale", deployment.name)
    if row is None:
        return deployment.scaling
    low = row.value.get("min", deployment.scaling.min)
    return replace(deployment.scaling, min=low, max=max(low, row.value.get("max", deployment.scaling.max)))


def _room(world: World, catalog: Catalog, cluster: Cluster, now: float) -> int | None:
    """Say how many more jobs the cluster's hard limits allow; jobs on their way out still count, None is no bound.

    A job's nodes are those that its deployment asks for now. Node-hours are those used in the last 24 hours.
    """
    limits = cluster.limits
    mine = [job for job in world.jobs.values() if job.cluster == cluster.name]
    live = [job for job in mine if job.state is not JobState.ENDED]
    rooms: list[int] = []
    if limits.jobs is not None:
        rooms.append(limits.jobs - len(live))
    if limits.nodes is not None:
        largest = max((_nodes(catalog, item.name) for item in catalog.deployments.values()), default=1)
        rooms.append((limits.nodes - sum(_nodes(catalog, job.deployment) for job in live)) // largest)
    if limits.node_hours_per_day is not None:
        used = sum(_node_hours(job, nodes=_nodes(catalog, job.deployment), now=now) for job in mine)
        rooms.append(0 if used >= limits.node_hours_per_day else len(world.jobs) + 1)
    if limits.submits_per_hour is not None:
        recent = [job for job in mine if job.submitted_at is not None and now - job.submitted_at < HOUR_S]
        waiting = [job for job in mine if job.state is JobState.PLANNED]
        rooms.append(limits.submits_per_hour - len(recent) - len(waiting))
    return max(0, min(rooms)) if rooms else None


def _nodes(catalog: Catalog, deployment: str) -> int:
    """Say how many nodes a job of a deployment holds."""
    item = catalog.deployments.get(deployment)
    return item.resources.nodes if item is not None and item.resources is not None else 1


def _node_hours(job: Job, *, nodes: int, now: float) -> float:
    """Say what a job has used in the last 24 hours."""
    if job.running_at is None:
        return 0.0
    end = job.ended_at if job.ended_at is not None else now
    return max(0.0, end - max(job.running_at, now - 24 * HOUR_S)) * nodes / HOUR_S
