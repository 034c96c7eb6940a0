# SPDX-License-Identifier: Apache-2.0
"""What the controller knows of jobs and instances: equal to the store's rows, changed only through the machines."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from firstkit.core.instance.machine import InstanceEvent, InstanceEventKind
from firstkit.core.instance.machine import step as step_instance
from firstkit.core.instance.record import Instance, InstanceState
from firstkit.core.job.machine import JobEvent
from firstkit.core.job.machine import step as step_job
from firstkit.core.job.record import Job, JobState
from firstkit.ports.store import EventRow, StartRow


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
    """Hold jobs and instances, the recently ended included, and what has still to be saved of them."""

    def __init__(self, *, jobs: list[Job], instances: list[Instance], starts: list[StartRow]) -> None:
        self.jobs = {job.id: job for job in jobs}
        self.instances = {item.id: item for item in instances}
        self.starts = list(starts)
        self._dirty = Dirty()

    # ------------------------------------------------------------------------------------------------------- reading
    def live_jobs(self, cluster: str | None = None) -> list[Job]:
        """List the jobs that have not ended."""
        return [
            job
            for job in self.jobs.values()
            if job.state is not JobState.ENDED and (cluster is None or job.cluster == cluster)
        ]

    def instances_of_job(self, job: str) -> list[Instance]:
        """List a job's instances."""
        return [item for item in self.instances.values() if item.job == job]

    def instances_of(self, deployment: str) -> list[Instance]:
        """List a deployment's instances, ended ones included."""
        return [item for item in self.instances.values() if item.deployment == deployment]

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

    def forget(self, *, ended_before: float) -> None:
        """Drop from memory what ended before that moment."""
        for job in [one for one in self.jobs.values() if one.ended_at is not None and one.ended_at < ended_before]:
            del self.jobs[job.id]
        gone = [one for one in self.instances.values() if one.ended_at is not None and one.ended_at < ended_before]
        for item in gone:
            del self.instances[item.id]

    # -------------------------------------------------------------------------------------------------------- saving
    def take_dirty(self) -> Dirty:
        """Return what has to be saved and start afresh; give it back with `put_back` when saving fails."""
        dirty, self._dirty = self._dirty, Dirty()
        return dirty

    def put_back(self, dirty: Dirty) -> None:
        """Take back what could not be saved; newer changes win."""
        self._dirty.jobs = dirty.jobs | self._dirty.jobs
        self._dirty.instances = dirty.instances | self._dirty.instances
        self._dirty.events = dirty.events + self._dirty.events
        self._dirty.starts = dirty.starts + self._dirty.starts

    def _put_job(self, job: Job, *, quiet: bool = False) -> None:
        self.jobs[job.id] = job
        self._dirty.jobs[job.id] = job
        if not quiet:
            self._dirty.events.append(
                EventRow(
                    at=job.state_at,
                    kind="job",
                    subject=job.id,
                    state=job.state,
                    reason=job.reason,
                    detail=job.detail,
                )
            )

    def _put_instance(self, item: Instance, *, quiet: bool = False) -> None:
        self.instances[item.id] = item
        self._dirty.instances[item.id] = item
        if not quiet:
            self._dirty.events.append(
                EventRow(
                    at=item.state_at,
                    kind="instance",
                    subject=item.id,
                    state=item.state,
                    reason=item.reason,
                    detail=item.detail,
                )
            )

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
        self.starts.append(row)
        self._dirty.starts.append(row)
        mine = [one for one in self.starts if one.deployment == item.deployment]
        if len(mine) > 20:
            self.starts.remove(mine[0])
