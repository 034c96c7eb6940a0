# SPDX-License-Identifier: Apache-2.0
"""Apply what the outside tells the controller: schedulers' answers, launchers' reports, gateways' findings, probes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from firstkit.core.errors import FirstError
from firstkit.core.instance.machine import InstanceEvent, InstanceEventKind
from firstkit.core.instance.record import Contact, InstanceState
from firstkit.core.job.machine import JobEvent, JobEventKind
from firstkit.core.job.record import JobState
from firstkit.core.reasons import Reason
from firstkit.ports.engine import Engine
from firstkit.ports.probe import Probed
from firstkit.ports.scheduler import Accepted, Rejected
from firstkit.ports.store import GatewayRow, Report
from firstkit.services import membership, observation
from firstkit.services.external import Target
from firstkit.services.job_watcher import Observed, Submitted
from firstkit.services.world import World
from firstkit.wire import control

STATUS_STALE_S = 25.0
"""A launcher that HTTP has not brought news of for this long is read from its file, and its gateway's doubts count."""


class Journal(Protocol):
    """Where the controller says what it decides; structured, one line each."""

    def __call__(self, event: str, **facts: object) -> None: ...


class Intake:
    """Turn what arrives into events of the machines; decides nothing."""

    def __init__(
        self,
        world: World,
        *,
        engines: Mapping[str, Engine],
        cancel: Callable[[str, str], None],
        look: Callable[[str], None],
        journal: Journal,
        settle_s: float,
    ) -> None:
        self._world = world
        self._engines = engines
        self._cancel = cancel
        self._look = look
        self._journal = journal
        self._settle_s = settle_s
        self._seen_reports: dict[str, int] = {}
        self._heard: dict[str, float] = {}

    def silent_for_s(self, job: str, now: float) -> float:
        """Say how long nothing has been heard from a job's launcher; infinite before its first word."""
        return now - self._heard[job] if job in self._heard else float("inf")

    def stale_status_files(self, cluster: str, now: float) -> list[str]:
        """Name the status files to read with the next look: those of jobs that HTTP has not brought news of."""
        return [
            f"{job.run_dir}/status.json"
            for job in self._world.live_jobs(cluster)
            if job.state is not JobState.PLANNED and self.silent_for_s(job.id, now) > STATUS_STALE_S
        ]

    def submitted(self, submitted: Submitted, *, now: float) -> None:
        """Apply the scheduler's answer; an unsure one is no event, the listing will tell (law 1)."""
        answer = submitted.answer
        if isinstance(answer, Accepted):
            event = JobEvent(kind=JobEventKind.ACCEPTED, at=now, scheduler_id=answer.scheduler_id)
        elif isinstance(answer, Rejected):
            reason = Reason.SUBMIT_FAILED if answer.heals else Reason.SUBMIT_REJECTED
            event = JobEvent(kind=JobEventKind.REJECTED, at=now, reason=reason, detail=answer.detail)
        else:
            self._journal("submission_unsure", job=submitted.job, detail=answer.detail)
            return
        self._world.job_event(submitted.job, event)

    def observed(self, observed: Observed, *, now: float, begun_at: float) -> None:
        """Apply the status files first: a launcher's own reason of an end is better than the scheduler's."""
        for data in observed.files.values():
            self._status(data, now=now, age_s=0.0)
        orphans = observation.take_observation(
            self._world,
            observed.observation,
            cluster=observed.cluster,
            begun_at=begun_at,
            now=now,
            settle_s=self._settle_s,
        )
        for scheduler_id in orphans:
            self._journal("orphan_cancelled", cluster=observed.cluster, scheduler_id=scheduler_id)
            self._cancel(observed.cluster, scheduler_id)

    def reports(self, reports: Iterable[Report], *, now: float) -> None:
        """Apply reports that are new."""
        for report in reports:
            if self._seen_reports.get(report.job, -1) < report.seq:
                self._seen_reports[report.job] = report.seq
                self._status(report.document, now=now, age_s=report.age_s)

    def _status(self, data: bytes, *, now: float, age_s: float) -> None:
        try:
            status = control.decode_status(data)
        except FirstError as error:
            self._journal("status_unreadable", detail=error.message)
            return
        if status.job in self._world.jobs:
            self._heard[status.job] = max(self._heard.get(status.job, 0.0), now - age_s)
            membership.take_report(self._world, status, now=now, age_s=age_s)

    def probed(self, target: Target, probed: Probed, *, now: float) -> None:
        """Apply what an external engine answered."""
        item = self._world.instances.get(target.instance)
        if item is None:
            return
        length: int | None = None
        if probed.ready:
            told = self._engines[target.engine].models_info(probed.body, target.served_name).get("max_model_len")
            length = told if isinstance(told, int) else None
        self._world.instance_event(
            item.id,
            InstanceEvent(
                kind=InstanceEventKind.REPORTED_READY if probed.ready else InstanceEventKind.REPORTED_LOADING,
                at=now,
                detail=probed.detail,
                address=target.address,
                max_model_len=length,
            ),
        )

    def contact(self, gateways: Iterable[GatewayRow], *, now: float) -> None:
        """Believe gateways that an instance is gone only while its launcher is silent as well; look at once."""
        lost = {name for row in gateways for demand in row.demand for name in demand.lost}
        for item in list(self._world.instances.values()):
            if item.state is InstanceState.ENDED or item.job is None:
                continue
            if item.id not in lost:
                if item.contact is Contact.SUSPECT:
                    self._world.amend(item.id, contact=Contact.ALIVE)
                continue
            silent = self.silent_for_s(item.job, now) > STATUS_STALE_S
            if item.contact is Contact.ALIVE:
                self._look(item.cluster)
            self._world.amend(item.id, contact=Contact.LOST if silent else Contact.SUSPECT)

    def forget(self) -> None:
        """Drop what is known of jobs that are forgotten."""
        for known in (self._seen_reports, self._heard):
            for job in [one for one in known if one not in self._world.jobs]:
                del known[job]
