# SPDX-License-Identifier: Apache-2.0
"""What the controller knows of jobs and instances: the store's rows, changed only through the machines."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from firstkit.core.health.nodes import exclusions
from firstkit.core.instance.machine import InstanceEvent, InstanceEventKind
from firstkit.core.instance.machine import step as step_instance
from firstkit.core.instance.record import Instance, InstanceState
from firstkit.core.job.machine import JobEvent
from firstkit.core.job.machine import step as step_job
from firstkit.core.job.record import Job, JobState
from firstkit.core.scaling.forecast import Start, Typical, slow, typical
from firstkit.ports.store import EventRow, StartRow

SIGNS_OF_LIFE_S = 60.0
"""A record whose last sign of life alone is newer is saved this often: the passing of time is no news."""
STARTS_KEPT = 20


@dataclass(slots=True)
class Dirty:
    """What has changed since the last save."""

    jobs: dict[str, Job] = field(default_factory=dict[str, Job])
    instances: dict[str, Instance] = field(default_factory=dict[str, Instance])
    events: list[EventRow] = field(default_factory=list[EventRow])
    starts: list[StartRow] = field(default_factory=list[StartRow])

    def __bool__(self) -> bool:
        return bool(self.jobs or self.instances or self.events or self.starts)


class World:
    """Hold jobs and instances, the recently ended included, and what has still to be saved of them.

    `jobs` and `instances` are read by anybody and changed here alone.
    """

    def __init__(self, *, jobs: list[Job], instances: list[Instance], starts: list[StartRow]) -> None:
        self.jobs = {job.id: job for job in jobs}
        self.instances = {item.id: item for item in instances}
        self.deployment_of = {item.id: item.deployment for item in instances}
        self._of_job: dict[str, dict[str, None]] = {}
        self._of_deployment: dict[str, dict[str, None]] = {}
        self._on_cluster: dict[str, dict[str, None]] = {}
        self._starts: dict[str, list[StartRow]] = {}
        self._saved_jobs = dict(self.jobs)
        self._saved_instances = dict(self.instances)
        self._dirty = Dirty()
        for job in jobs:
            self._on_cluster.setdefault(job.cluster, {})[job.id] = None
        for item in instances:
            self._enter(item)
        for row in starts:
            self._remember(row)

    # ------------------------------------------------------------------------------------------------------- reading
    def jobs_on(self, cluster: str) -> list[Job]:
        """List a cluster's jobs, ended ones included."""
        return [self.jobs[name] for name in self._on_cluster.get(cluster, ())]

    def live_jobs(self, cluster: str | None = None) -> list[Job]:
        """List the jobs that have not ended."""
        jobs = self.jobs.values() if cluster is None else self.jobs_on(cluster)
        return [job for job in jobs if job.state is not JobState.ENDED]

    def live_instances(self) -> list[Instance]:
        """List the instances that have not ended."""
        return [item for item in self.instances.values() if item.state is not InstanceState.ENDED]

    def instances_of_job(self, job: str) -> list[Instance]:
        """List a job's instances."""
        return [self.instances[name] for name in self._of_job.get(job, ())]

    def instances_of(self, deployment: str) -> list[Instance]:
        """List a deployment's instances, ended ones included."""
        return [self.instances[name] for name in self._of_deployment.get(deployment, ())]

    def usual(self, deployment: str, spec: str) -> Typical:
        """Say how long the parts of a start of this deployment usually take."""
        return typical(self._starts_of(deployment), deployment=deployment, spec=spec)

    def slow(self, deployment: str, spec: str) -> Typical:
        """Say how long the parts of a start of this deployment take when it is slow."""
        return slow(self._starts_of(deployment), deployment=deployment, spec=spec)

    def _starts_of(self, deployment: str) -> list[Start]:
        return [
            Start(
                deployment=row.deployment,
                spec=row.spec,
                job_wait_s=row.job_wait_s,
                boot_s=row.boot_s,
                load_s=row.load_s,
            )
            for row in self._starts.get(deployment, ())
        ]

    def excluded(self, cluster: str, *, cleared_at: float | None, now: float) -> tuple[str, ...]:
        """Name the nodes of a cluster that a new job should be kept off."""
        found = exclusions(
            self.jobs_on(cluster), self.instances.values(), cluster=cluster, cleared_at=cleared_at, now=now
        )
        return tuple(one.node for one in found)

    # ------------------------------------------------------------------------------------------------------ changing
    def add(self, job: Job | None, *instances: Instance) -> None:
        """Take in a planned job with its instances (no job: an external engine)."""
        if job is not None:
            self._put_job(job)
        for item in instances:
            self._put_instance(item)

    def job_event(self, job_id: str, event: JobEvent) -> None:
        """Apply an event to a job, and to its instances what follows from it; unknown jobs are none of ours."""
        before = self.jobs.get(job_id)
        if before is None:
            return
        after = step_job(before, event)
        if after != before:
            self._put_job(after, quiet=after.state is before.state)
        if after.state is JobState.ENDED and before.state is not JobState.ENDED:
            for item in self.instances_of_job(job_id):
                self.instance_event(
                    item.id,
                    InstanceEvent(
                        kind=InstanceEventKind.JOB_ENDED, at=event.at, reason=after.reason, detail=after.detail
                    ),
                )

    def instance_event(self, instance_id: str, event: InstanceEvent) -> None:
        """Apply an event to an instance; a first READY becomes an observed start."""
        before = self.instances.get(instance_id)
        if before is None:
            return
        after = step_instance(before, event)
        if after == before:
            return
        self._put_instance(after, quiet=after.state is before.state)
        if after.state is InstanceState.READY and before.ready_at is None and after.job is not None:
            self._note_start(after)

    def amend(self, instance_id: str, **changes: object) -> None:
        """Change facts that are no state (contact, wanted_at)."""
        before = self.instances[instance_id]
        after = replace(before, **changes)  # pyright: ignore[reportArgumentType]
        if after != before:
            self._put_instance(after, quiet=True)

    def amend_job(self, job_id: str, **changes: object) -> None:
        """Change facts of a job that are no state (absent_since, cancelled_at)."""
        before = self.jobs[job_id]
        after = replace(before, **changes)  # pyright: ignore[reportArgumentType]
        if after != before:
            self._put_job(after, quiet=True)

    def forget(self, *, ended_before: float) -> list[Job]:
        """Drop from memory what ended before that moment; return the jobs."""
        over = [one for one in self.jobs.values() if one.ended_at is not None and one.ended_at < ended_before]
        for job in over:
            del self.jobs[job.id]
            self._saved_jobs.pop(job.id, None)
            self._on_cluster[job.cluster].pop(job.id, None)
        gone = [one for one in self.instances.values() if one.ended_at is not None and one.ended_at < ended_before]
        for item in gone:
            del self.instances[item.id], self.deployment_of[item.id]
            self._saved_instances.pop(item.id, None)
            self._of_deployment[item.deployment].pop(item.id, None)
            if item.job is not None:
                self._of_job[item.job].pop(item.id, None)
        for index in (self._of_job, self._of_deployment, self._on_cluster):
            for name in [one for one, members in index.items() if not members]:
                del index[name]
        return over

    # -------------------------------------------------------------------------------------------------------- saving
    def take_dirty(self) -> Dirty:
        """Return what has to be saved and start afresh; give it back with `put_back` when saving fails."""
        dirty, self._dirty = self._dirty, Dirty()
        return dirty

    def saved(self, dirty: Dirty) -> None:
        """Note what the store has now."""
        self._saved_jobs |= dirty.jobs
        self._saved_instances |= dirty.instances

    def put_back(self, dirty: Dirty) -> None:
        """Take back what could not be saved; newer changes win."""
        self._dirty.jobs = dirty.jobs | self._dirty.jobs
        self._dirty.instances = dirty.instances | self._dirty.instances
        self._dirty.events = dirty.events + self._dirty.events
        self._dirty.starts = dirty.starts + self._dirty.starts

    def _put_job(self, job: Job, *, quiet: bool = False) -> None:
        self.jobs[job.id] = job
        self._on_cluster.setdefault(job.cluster, {})[job.id] = None
        saved = self._saved_jobs.get(job.id)
        if quiet and saved is not None and job.id not in self._dirty.jobs:
            fresh = job.seen_at is None or (saved.seen_at is not None and job.seen_at - saved.seen_at < SIGNS_OF_LIFE_S)
            if fresh and replace(job, seen_at=saved.seen_at) == saved:
                return
        self._dirty.jobs[job.id] = job
        if not quiet:
            self._note("job", job)

    def _put_instance(self, item: Instance, *, quiet: bool = False) -> None:
        self.instances[item.id] = item
        self._enter(item)
        saved = self._saved_instances.get(item.id)
        if quiet and saved is not None and item.id not in self._dirty.instances:
            heard, before = item.heard_at, saved.heard_at
            fresh = heard is None or (before is not None and heard - before < SIGNS_OF_LIFE_S)
            if fresh and replace(item, heard_at=before) == saved:
                return
        self._dirty.instances[item.id] = item
        if not quiet:
            self._note("instance", item)

    def _enter(self, item: Instance) -> None:
        """Index an instance; neither its job nor its deployment ever changes."""
        if item.id not in self.deployment_of or item.id not in self._of_deployment.get(item.deployment, ()):
            self.deployment_of[item.id] = item.deployment
            self._of_deployment.setdefault(item.deployment, {})[item.id] = None
            if item.job is not None:
                self._of_job.setdefault(item.job, {})[item.id] = None

    def _note(self, kind: str, record: Job | Instance) -> None:
        """Keep a change of state for those who ask why."""
        self._dirty.events.append(
            EventRow(
                at=record.state_at,
                kind=kind,
                subject=record.id,
                state=record.state,
                reason=record.reason,
                detail=record.detail,
            )
        )

    def _remember(self, row: StartRow) -> None:
        mine = self._starts.setdefault(row.deployment, [])
        mine.append(row)
        del mine[:-STARTS_KEPT]

    def _note_start(self, item: Instance) -> None:
        """Keep how long this start took, part by part."""
        job = self.jobs.get(item.job or "")
        if job is None or item.ready_at is None:
            return
        running_at = job.running_at
        load_s = item.load_s
        if load_s is None:
            load_s = item.ready_at - (running_at if running_at is not None else item.created_at)
        boot_s = None if running_at is None else max(0.0, item.ready_at - running_at - load_s)
        wait_s = None if running_at is None or job.submitted_at is None else max(0.0, running_at - job.submitted_at)
        row = StartRow(
            deployment=item.deployment,
            spec=item.spec,
            job_wait_s=wait_s,
            boot_s=boot_s,
            load_s=max(0.0, load_s),
            at=item.ready_at,
        )
        self._remember(row)
        self._dirty.starts.append(row)
