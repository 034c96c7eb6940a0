# SPDX-License-Identifier: Apache-2.0
"""Clusters, deployments, instances, jobs and the parts themselves, as people see them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from firstkit.core.catalog import Cluster, Deployment
from firstkit.core.health.nodes import Exclusion
from firstkit.core.instance.record import Contact, Instance, InstanceState
from firstkit.core.job.record import Job, JobState
from firstkit.ports.store import EventRow, GatewayRow, Override
from firstkit.wire.admin.shape import Shape, count, moment, since

_OF_CLUSTERS = frozenset({"stop", "maintenance"})
"""Overrides whose subject is a cluster."""


class ExcludedNode(Shape):
    """A node that new jobs are kept off, for how much longer and why."""

    node: str
    left_s: float
    detail: str


class ClusterView(Shape):
    """One cluster. `instances` and `jobs` count by state; what is None is for operators.

    `notices` tell its users of maintenances.
    """

    name: str
    scheduler: str
    runner: str | None
    link: str | None
    run_dir: str | None
    stopped: bool
    stop_note: str
    notices: list[str]
    models: list[str]
    instances: dict[str, int]
    jobs: dict[str, int]
    job_limit: int | None
    excluded: list[ExcludedNode]

    @staticmethod
    def of(
        cluster: Cluster,
        *,
        models: Sequence[str],
        stop: Override | None,
        notices: Sequence[str],
        instances: Sequence[Instance],
        jobs: Sequence[Job],
        excluded: Sequence[Exclusion],
        operator: bool,
        now: float,
    ) -> ClusterView:
        return ClusterView(
            name=cluster.name,
            scheduler=cluster.scheduler.kind,
            runner=cluster.runner.kind if operator else None,
            link=cluster.link.kind if operator else None,
            run_dir=cluster.run_dir if operator else None,
            stopped=stop is not None,
            stop_note=stop.note if stop else "",
            notices=list(notices),
            models=list(models),
            instances=count(item.state for item in instances if item.cluster == cluster.name),
            jobs=count(item.state for item in jobs if item.cluster == cluster.name),
            job_limit=cluster.limits.jobs,
            excluded=[
                ExcludedNode(node=one.node, left_s=round(one.until - now, 3), detail=one.detail) for one in excluded
            ],
        )


class DeploymentView(Shape):
    """One deployment: what the catalog says, what overrides change, and what there is."""

    name: str
    model: str
    cluster: str | None
    engine: str
    min: int
    max: int
    catalog_min: int
    catalog_max: int
    in_flight_cap: int
    idle_s: float | None
    instances: dict[str, int]
    overrides: list[str]

    @staticmethod
    def of(deployment: Deployment, *, overrides: Sequence[Override], instances: Sequence[Instance]) -> DeploymentView:
        mine = [item for item in overrides if item.subject == deployment.name and item.kind not in _OF_CLUSTERS]
        scale = next((item.value for item in mine if item.kind == "scale"), dict[str, int]())
        return DeploymentView(
            name=deployment.name,
            model=deployment.model,
            cluster=deployment.cluster,
            engine=deployment.engine.kind,
            min=scale.get("min", deployment.scaling.min),
            max=scale.get("max", deployment.scaling.max),
            catalog_min=deployment.scaling.min,
            catalog_max=deployment.scaling.max,
            in_flight_cap=deployment.scaling.in_flight,
            idle_s=deployment.scaling.idle_s,
            instances=count(item.state for item in instances if item.deployment == deployment.name),
            overrides=[item.kind for item in mine],
        )


class InstanceView(Shape):
    """One instance. Users see those of models they may use, without details of the machine."""

    id: str
    deployment: str
    model: str
    cluster: str
    job: str | None
    state: InstanceState
    reason: str
    detail: str
    contact: Contact
    fraction: float | None
    progress: str
    for_s: float
    load_s: float | None
    in_flight: int
    created_at: datetime | None
    ready_at: datetime | None
    ended_at: datetime | None
    drain_within_s: float | None
    time_left_s: float | None
    replaces: str
    max_model_len: int | None
    exit_code: int | None
    exit_tail: list[str]
    image: str

    @staticmethod
    def of(instance: Instance, *, job: Job | None, now: float, in_flight: int, operator: bool) -> InstanceView:
        ends_at = job.ends_at if job is not None and instance.state is not InstanceState.ENDED else None
        return InstanceView(
            id=instance.id,
            deployment=instance.deployment,
            model=instance.model,
            cluster=instance.cluster,
            job=instance.job,
            state=instance.state,
            reason=instance.reason,
            detail=instance.detail if operator else "",
            contact=instance.contact,
            fraction=instance.fraction,
            progress=instance.progress,
            for_s=since(now, instance.state_at),
            load_s=instance.load_s,
            in_flight=in_flight,
            created_at=moment(instance.created_at),
            ready_at=moment(instance.ready_at),
            ended_at=moment(instance.ended_at),
            drain_within_s=None if instance.drain_by is None else round(instance.drain_by - now, 3),
            time_left_s=None if ends_at is None else round(max(0.0, ends_at - now), 3),
            replaces=instance.replaces,
            max_model_len=instance.max_model_len,
            exit_code=instance.exit_code if operator else None,
            image=instance.image if operator else "",
            exit_tail=list(instance.exit_tail) if operator else [],
        )


class JobView(Shape):
    """One scheduler job."""

    id: str
    cluster: str
    deployment: str
    state: JobState
    reason: str
    detail: str
    scheduler_id: str
    run_dir: str
    nodes: list[str]
    for_s: float
    created_at: datetime | None
    ended_at: datetime | None
    time_left_s: float | None
    starts_in_s: float | None

    @staticmethod
    def of(job: Job, *, now: float) -> JobView:
        live = job.state is not JobState.ENDED
        waits = job.state in {JobState.SUBMITTING, JobState.QUEUED}
        return JobView(
            id=job.id,
            cluster=job.cluster,
            deployment=job.deployment,
            state=job.state,
            reason=job.reason,
            detail=job.detail,
            scheduler_id=job.scheduler_id,
            run_dir=job.run_dir,
            nodes=list(job.nodes),
            for_s=since(now, job.state_at),
            created_at=moment(job.created_at),
            ended_at=moment(job.ended_at),
            time_left_s=round(max(0.0, job.ends_at - now), 3) if live and job.ends_at is not None else None,
            starts_in_s=round(max(0.0, job.starts_at - now), 3) if waits and job.starts_at is not None else None,
        )


class EventView(Shape):
    """One state change."""

    at: datetime | None
    kind: str
    subject: str
    state: str
    reason: str
    detail: str

    @staticmethod
    def of(event: EventRow) -> EventView:
        return EventView(
            at=moment(event.at),
            kind=event.kind,
            subject=event.subject,
            state=event.state,
            reason=event.reason,
            detail=event.detail,
        )


class GatewayView(Shape):
    """A gateway's sign of life."""

    name: str
    silent_s: float
    acked: int
    in_flight: int
    waiting: int

    @staticmethod
    def of(row: GatewayRow) -> GatewayView:
        return GatewayView(
            name=row.gateway,
            silent_s=round(row.age_s, 3),
            acked=row.acked,
            in_flight=sum(sum(item.in_flight.values()) for item in row.demand),
            waiting=sum(item.waiting for item in row.demand),
        )


class Health(Shape):
    """How the parts are doing, for `first doctor`. None: not known."""

    version: str
    installation: str | None
    store: Literal["ok", "away"]
    store_detail: str
    revision: int
    snapshot: int
    controller_silent_s: float | None
    gateways: list[GatewayView]
    launchers_held: int


class LogTail(Shape):
    """The last lines of an engine's log."""

    instance: str
    source: str
    lines: list[str]
