# SPDX-License-Identifier: Apache-2.0
"""One look at everything that runs: jobs, instances, overrides and gateways at one moment of the store's clock."""

from __future__ import annotations

from dataclasses import dataclass

from firstkit.apps.api.callers import Caller
from firstkit.apps.api.memory import GATEWAY_SILENT_S, Known
from firstkit.core.health.nodes import Exclusion, exclusions
from firstkit.core.instance.record import Instance, InstanceState
from firstkit.core.job.record import Job, JobState
from firstkit.core.maintenance import maintenance_of
from firstkit.ports.store import GatewayRow, Override, Store
from firstkit.wire.admin.fleet import ClusterView, DeploymentView, InstanceView, JobView


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What one look found; `now` is the store's clock."""

    now: float
    jobs: list[Job]
    instances: list[Instance]
    overrides: list[Override]
    gateways: list[GatewayRow]

    def in_flight(self, instance: str) -> int:
        """Count the requests that all gateways have sent to an instance."""
        return sum(demand.in_flight.get(instance, 0) for row in self.gateways for demand in row.demand)

    def instance_views(self, known: Known, caller: Caller) -> list[InstanceView]:
        """List what the caller may see, newest last."""
        models = known.catalog.models
        seen = [
            item
            for item in self.instances
            if caller.operator or ((model := models.get(item.model)) is not None and caller.may_use(model))
        ]
        jobs = {job.id: job for job in self.jobs}
        return [
            InstanceView.of(
                item,
                job=jobs.get(item.job or ""),
                now=self.now,
                in_flight=self.in_flight(item.id),
                operator=caller.operator,
            )
            for item in sorted(seen, key=lambda item: (item.created_at, item.id))
        ]

    def job_views(self) -> list[JobView]:
        """List jobs, newest last."""
        return [JobView.of(job, now=self.now) for job in sorted(self.jobs, key=lambda job: (job.created_at, job.id))]

    def cluster_views(self, known: Known, caller: Caller) -> list[ClusterView]:
        """List the clusters that serve something the caller may use; operators see all."""
        views: list[ClusterView] = []
        for cluster in known.catalog.clusters.values():
            served = [item.model for item in known.catalog.deployments.values() if item.cluster == cluster.name]
            names = list(dict.fromkeys(name for name in served if caller.may_use(known.catalog.models[name])))
            if not names and not caller.operator:
                continue
            stop = self._override("stop", cluster.name)
            views.append(
                ClusterView.of(
                    cluster,
                    models=names,
                    stop=stop,
                    notices=announced(known, cluster.name),
                    instances=[item for item in self.instances if item.state is not InstanceState.ENDED],
                    jobs=[job for job in self.jobs if job.state is not JobState.ENDED],
                    excluded=self.excluded(cluster.name) if caller.operator else (),
                    operator=caller.operator,
                    now=self.now,
                )
            )
        return views

    def excluded(self, cluster: str) -> tuple[Exclusion, ...]:
        """List the nodes that new jobs are kept off; the look must go back `REMEMBERED_S`."""
        readmitted = self._override("readmit", cluster)
        return exclusions(
            self.jobs,
            self.instances,
            cluster=cluster,
            cleared_at=readmitted.at if readmitted else None,
            now=self.now,
        )

    def _override(self, kind: str, subject: str) -> Override | None:
        return next((item for item in self.overrides if (item.kind, item.subject) == (kind, subject)), None)

    def deployment_views(self, known: Known) -> list[DeploymentView]:
        """List deployments in the catalog's order."""
        return [
            DeploymentView.of(item, overrides=self.overrides, instances=self.instances)
            for item in known.catalog.deployments.values()
        ]


def announced(known: Known, cluster: str) -> list[str]:
    """List what the controller announces for a cluster: it knows of reservations and of operators' notices alike."""
    told = (notice for status in known.statuses.values() for notice in status.notices)
    return [notice for notice in dict.fromkeys(told) if notice.startswith(maintenance_of(cluster))]


def read_fleet(store: Store, *, ended_within_s: float | None = None) -> Fleet:
    """Look; with `ended_within_s`, jobs and instances that ended of late are in it too."""
    now = store.now()
    since = None if ended_within_s is None else now - ended_within_s
    return Fleet(
        now=now,
        jobs=store.jobs(ended_since=since),
        instances=store.instances(ended_since=since),
        overrides=store.overrides(),
        gateways=store.gateways(within_s=GATEWAY_SILENT_S),
    )
