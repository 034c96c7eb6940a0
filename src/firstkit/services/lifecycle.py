# SPDX-License-Identifier: Apache-2.0
"""Carry decisions about deployments into records: plan, drain, retire, end; nothing outside is touched here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from firstkit.core import ids
from firstkit.core.catalog import Catalog, Deployment
from firstkit.core.errors import FirstError
from firstkit.core.instance.machine import InstanceEvent, InstanceEventKind
from firstkit.core.instance.record import Instance, InstanceState
from firstkit.core.job.machine import JobEvent, JobEventKind
from firstkit.core.job.record import Job, JobState
from firstkit.core.reasons import Reason
from firstkit.core.snapshot import View
from firstkit.ports.engine import Engine
from firstkit.ports.store import GatewayRow
from firstkit.ports.telemetry import Journal
from firstkit.services.autoscaler import Overrides
from firstkit.services.submission import token_digest
from firstkit.services.world import World

CANCEL_AGAIN_S = 30.0
USED_EVERY_S = 30.0
_GOING = frozenset({InstanceState.DRAINING, InstanceState.ENDED})
_CANCELLABLE = frozenset({JobState.QUEUED, JobState.RUNNING, JobState.ENDING})


class Lifecycle:
    """Change the world as decided; `random` gives bytes, `read_key` reads an external engine's key file."""

    def __init__(
        self,
        world: World,
        *,
        engines: Mapping[str, Engine],
        random: Callable[[int], bytes],
        read_key: Callable[[str], str],
        journal: Journal,
        drain_s: float,
    ) -> None:
        self._world = world
        self._engines = engines
        self._random = random
        self._read_key = read_key
        self._journal = journal
        self._drain_s = drain_s

    # ------------------------------------------------------------------------------------------------ one deployment
    def carry_out(self, view: View, *, catalog: Catalog, spec: str, now: float) -> None:
        """Mark what is wanted, drain and start, as decided for one deployment."""
        for name in view.changes.wanted:
            self._mark_wanted(name, view, now - view.changes.wanted_ago_s)
        if view.used:
            self._mark_used(view.deployment.name, now)
        for drain in view.changes.drains:
            self.drain(drain.instance, drain.reason, within_s=drain.within_s, now=now)
        for name in view.changes.heirs:
            self._plan(view, catalog, spec, now, replaces=self._world.instances[name])
        for _ in range(view.changes.start):
            self._plan(view, catalog, spec, now)

    def _mark_wanted(self, name: str, view: View, at: float) -> None:
        """Note when an instance was last needed; written only as finely as `idle` needs."""
        item = self._world.instances[name]
        idle_s = view.deployment.scaling.idle_s
        grain_s = 60.0 if idle_s is None else max(0.2, min(60.0, idle_s / 20.0))
        if item.wanted_at is None or at - item.wanted_at >= grain_s:
            self._world.amend(name, wanted_at=at)

    def _mark_used(self, deployment: str, now: float) -> None:
        """Note that a deployment's instances are in use, whichever of them it is: written every half minute."""
        for item in self._world.instances_of(deployment):
            if item.state is InstanceState.READY and (item.used_at is None or now - item.used_at >= USED_EVERY_S):
                self._world.amend(item.id, used_at=now)

    def _plan(self, view: View, catalog: Catalog, spec: str, now: float, *, replaces: Instance | None = None) -> None:
        """Plan one job with one instance (an external engine: the instance alone).

        A successor is wanted as its predecessor was: it inherits since when nobody has needed it.
        """
        deployment = view.deployment
        reason = view.changes.start_reason if replaces is None else Reason.HANDOVER
        instance_id = ids.instance_id(self._random(8))
        job = None if deployment.cluster is None else self._planned_job(view, catalog, spec, reason, now)
        instance = Instance(
            id=instance_id,
            deployment=deployment.name,
            model=deployment.model,
            cluster=deployment.cluster or "",
            job=job.id if job else None,
            slot=0,
            revision=catalog.revision,
            spec=spec,
            state=InstanceState.PLANNED,
            reason=reason,
            state_at=now,
            created_at=now,
            wanted_at=now if replaces is None else replaces.wanted_at,
            engine_key=self._engine_key(deployment),
            replaces="" if replaces is None else replaces.id,
        )
        self._world.add(job, instance)
        self._journal(
            "planned", deployment=deployment.name, instance=instance_id, reason=reason, replaces=instance.replaces
        )

    def _planned_job(self, view: View, catalog: Catalog, spec: str, reason: Reason, now: float) -> Job:
        """Make the record of a job that is not submitted yet."""
        deployment = view.deployment
        cluster = catalog.clusters[deployment.cluster or ""]
        job_id = ids.job_id(self._random(8))
        return Job(
            id=job_id,
            cluster=cluster.name,
            deployment=deployment.name,
            revision=catalog.revision,
            spec=spec,
            run_dir=f"{cluster.run_dir}/{job_id}",
            state=JobState.PLANNED,
            reason=reason,
            state_at=now,
            created_at=now,
            walltime_s=view.walltime_s,
        )

    def _engine_key(self, deployment: Deployment) -> str | None:
        """Make or read the engine's own credential, where it has one."""
        engine = self._engines[deployment.engine.kind]
        external = engine.external(deployment)
        if external is not None:
            try:
                return self._read_key(external.key_file) if external.key_file else None
            except FirstError as error:
                self._journal("key_unreadable", deployment=deployment.name, detail=error.message)
                return None
        return ids.encode(self._random(32), 48) if engine.launch(deployment).needs_key else None

    def drain(self, instance: str, reason: Reason, *, within_s: float, now: float) -> None:
        """Ask an instance to end, or to end sooner; what never served has nothing to finish."""
        item = self._world.instances[instance]
        drain_by = now + (within_s if item.ready_at is not None else 0.0)
        if item.state is InstanceState.ENDED or (item.drain_by is not None and item.drain_by <= drain_by):
            return
        self._world.instance_event(
            instance,
            InstanceEvent(kind=InstanceEventKind.DRAIN_ASKED, at=now, reason=reason, drain_by=drain_by),
        )
        if item.state is not InstanceState.DRAINING:
            self._journal("drain", instance=instance, deployment=item.deployment, reason=reason)

    # ----------------------------------------------------------------------------------------------- all that is there
    def retire(self, catalog: Catalog, overrides: Overrides, *, now: float) -> None:
        """Drain what no deployment of the catalog wants any more, and what an operator drains or stops."""
        drained, stopped = overrides.subjects("drain"), overrides.subjects("stop")
        for item in self._world.live_instances():
            if item.deployment not in catalog.deployments:
                self.drain(item.id, Reason.REMOVED, within_s=self._drain_s, now=now)
            elif item.id in drained:
                self.drain(item.id, Reason.OVERRIDE, within_s=self._drain_s, now=now)
            elif item.cluster in stopped:
                self.drain(item.id, Reason.CLUSTER_STOPPED, within_s=0.0, now=now)
        for job in self._world.live_jobs():
            if job.cluster in stopped:
                self._end(job, Reason.CLUSTER_STOPPED, now)

    def retire_all(self, *, within_s: float, now: float) -> bool:
        """Drain everything, since this installation stops; return whether nothing is left."""
        for item in self._world.live_instances():
            self.drain(item.id, Reason.STOPPED, within_s=within_s, now=now)
        return not self._world.live_jobs() and not self._world.live_instances()

    def finish_drains(
        self, gateways: Sequence[GatewayRow], *, published: Callable[[str], int | None], now: float
    ) -> None:
        """End jobs whose instances have all drained: acknowledged by every live gateway and idle, or out of time."""
        for job in self._world.live_jobs():
            instances = self._world.instances_of_job(job.id)
            draining = [item for item in instances if item.state is InstanceState.DRAINING]
            if not draining or any(item.state not in _GOING for item in instances):
                continue
            if all(self._drained(item, gateways, published(item.id), now) for item in draining):
                self._end(job, draining[0].drain_for or Reason.SCALED_IN, now)
        for item in self._world.live_instances():
            gone = item.job is None and item.state is InstanceState.DRAINING
            if gone and self._drained(item, gateways, published(item.id), now):
                event = InstanceEvent(kind=InstanceEventKind.JOB_ENDED, at=now, reason=item.drain_for)
                self._world.instance_event(item.id, event)

    def _drained(self, item: Instance, gateways: Sequence[GatewayRow], published: int | None, now: float) -> bool:
        """Tell whether nothing is in flight on a draining instance any more, or its time is up."""
        if item.ready_at is None or (item.drain_by is not None and now >= item.drain_by):
            return True
        if published is None:
            return False
        return all(
            row.acked >= published and not any(demand.in_flight.get(item.id) for demand in row.demand)
            for row in gateways
        )

    def watch_jobs(self, mute_at: Callable[[str], float | None], *, patience_s: float, now: float) -> None:
        """End jobs that run for nothing: the launcher never says a word, or goes on though its instances have ended.

        `mute_at` tells when a look last found that a job's launcher had written nothing: silence alone proves nothing,
        the controller may have been away itself.
        """
        for job in self._world.live_jobs():
            if job.state is not JobState.RUNNING or job.running_at is None:
                continue
            instances = self._world.instances_of_job(job.id)
            ended_at = [item.ended_at for item in instances if item.ended_at is not None]
            mute = mute_at(job.id)
            if len(ended_at) == len(instances):
                if now - max(ended_at, default=job.running_at) > patience_s:
                    self._end(job, Reason.ENGINE_EXIT, now)
            elif (
                mute is not None
                and mute - job.running_at > patience_s
                and all(item.heard_at is None for item in instances)
            ):
                self._end(job, Reason.NEVER_REGISTERED, now)

    def _end(self, job: Job, reason: Reason, now: float) -> None:
        """Wish a job's end; the machine keeps the first reason."""
        if job.ending_for is None:
            self._world.job_event(job.id, JobEvent(kind=JobEventKind.END_ASKED, at=now, reason=reason))

    # ---------------------------------------------------------------------------------------------------- what is due
    def begin_submissions(self, clusters: Callable[[str], bool], *, now: float) -> list[tuple[Job, str]]:
        """Turn planned jobs into intents (SUBMITTING, digest of a fresh token); return them with their tokens."""
        begun: list[tuple[Job, str]] = []
        for job in self._world.live_jobs():
            if job.state is JobState.PLANNED and clusters(job.cluster):
                token = ids.encode(self._random(32), 48)
                self._world.job_event(job.id, JobEvent(kind=JobEventKind.SUBMIT_BEGUN, at=now))
                self._world.amend_job(job.id, token_digest=token_digest(token))
                begun.append((self._world.jobs[job.id], token))
        return begun

    def due_cancels(self, *, patience_s: float, now: float) -> list[tuple[str, str]]:
        """List cancellations that are due, as (cluster, scheduler id): never sent, or long ago and the job is there.

        Cancelled is what shall end, and what has been ending by itself for `patience_s` and holds its place.
        """
        due: list[tuple[str, str]] = []
        for job in self._world.live_jobs():
            late = job.cancelled_at is None or now - job.cancelled_at >= CANCEL_AGAIN_S
            stuck = job.state is JobState.ENDING and now - job.state_at > patience_s
            wished = job.ending_for is not None and job.state in _CANCELLABLE
            if (wished or stuck) and late and job.scheduler_id:
                self._world.amend_job(job.id, cancelled_at=now)
                due.append((job.cluster, job.scheduler_id))
        return due
