# SPDX-License-Identifier: Apache-2.0
"""Apply what the outside tells the controller: schedulers' answers, launchers' reports, gateways' findings, probes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from firstkit.core import ids
from firstkit.core.control import Status
from firstkit.core.errors import FirstError
from firstkit.core.instance.machine import InstanceEvent, InstanceEventKind
from firstkit.core.instance.record import Contact
from firstkit.core.job.machine import JobEvent, JobEventKind
from firstkit.core.job.record import Job, JobState
from firstkit.core.reasons import Reason
from firstkit.ports.control import ControlDocuments
from firstkit.ports.engine import Engine
from firstkit.ports.probe import Probed
from firstkit.ports.scheduler import Accepted, JobPhase, Observation, Rejected
from firstkit.ports.store import GatewayRow, Report
from firstkit.ports.telemetry import Journal
from firstkit.services import membership, observation
from firstkit.services.external import Target
from firstkit.services.job_watcher import Observed, Submitted
from firstkit.services.submission import OUTPUT_FILE, SETUP_FILE, STATUS_FILE
from firstkit.services.world import World

STATUS_STALE_S = 25.0
"""A launcher that HTTP has not brought news of for this long is read from its file, and its gateway's doubts count."""


RECALL_EVERY_S = 60.0
"""How often a second source is asked about one job that the listings lack."""


class Intake:
    """Turn what arrives into events of the machines; decides nothing and touches nothing outside.

    `orphans` collects our own jobs that nobody knows or wants, as (cluster, scheduler id), until they are taken.
    """

    def __init__(
        self,
        world: World,
        *,
        engines: Mapping[str, Engine],
        documents: ControlDocuments,
        look: Callable[[str], None],
        journal: Journal,
        settle_s: float,
    ) -> None:
        self._world = world
        self._engines = engines
        self._documents = documents
        self._look = look
        self._journal = journal
        self._settle_s = settle_s
        self._seen: dict[str, int] = {}
        self._filed: dict[str, int] = {}
        self._heard: dict[str, float] = {}
        self._mute: dict[str, float] = {}
        self._recalled: dict[str, float] = {}
        self._answering: dict[str, tuple[float, float]] = {}
        self._unreadable: set[str] = set()
        self.orphans: list[tuple[str, str]] = []

    def silent_for_s(self, job: str, now: float) -> float:
        """Say how long nothing has been heard from a job's launcher; infinite before its first word."""
        return now - self._heard[job] if job in self._heard else float("inf")

    def mute_at(self, job: str) -> float | None:
        """Return when a look last found that a job's launcher had written nothing at all; None if none has."""
        return self._mute.get(job)

    def missing(self, cluster: str, found: Observation, now: float) -> dict[str, str]:
        """Name jobs that a second listing lacks too, with their ids, each once in a while: to ask another source."""
        listed = {tag[1] for tag in (ids.read_tag(seen.tag) for seen in found.jobs) if tag is not None}
        names: dict[str, str] = {}
        for job in self._world.live_jobs(cluster):
            gone = job.absent_since is not None and job.id not in listed
            if gone and now - self._recalled.get(job.id, float("-inf")) >= RECALL_EVERY_S:
                self._recalled[job.id] = now
                names[job.id] = job.scheduler_id
        return names

    def wanted_files(self, cluster: str, found: Observation, now: float) -> list[str]:
        """Name the files to read after a listing: of jobs that HTTP has not brought news of, or that have ended."""
        over = {seen.tag for seen in found.jobs if seen.phase in {JobPhase.ENDED, JobPhase.ENDING}}
        over_jobs = {tag[1] for tag in map(ids.read_tag, over) if tag is not None}
        paths: list[str] = []
        for job in self._world.live_jobs(cluster):
            silent = job.state is not JobState.PLANNED and self.silent_for_s(job.id, now) > STATUS_STALE_S
            if not silent and job.id not in over_jobs:
                continue
            paths.append(f"{job.run_dir}/{STATUS_FILE}")
            if job.id not in self._seen:
                paths += [f"{job.run_dir}/{SETUP_FILE}", f"{job.run_dir}/{OUTPUT_FILE}"]
        return paths

    def submitted(self, submitted: Submitted, *, now: float) -> None:
        """Apply the scheduler's answer; an unsure one is no event, the listing will tell (law 1).

        It may still take effect later, so the time in which it should show begins anew.
        """
        answer = submitted.answer
        if isinstance(answer, Accepted):
            event = JobEvent(kind=JobEventKind.ACCEPTED, at=now, scheduler_id=answer.scheduler_id)
        elif isinstance(answer, Rejected):
            event = JobEvent(kind=JobEventKind.REJECTED, at=now, reason=answer.reason, detail=answer.detail)
        else:
            self._journal("submission_unsure", job=submitted.job, detail=answer.detail)
            if submitted.job in self._world.jobs:
                self._world.amend_job(submitted.job, absent_since=None)
            return
        self._world.job_event(submitted.job, event)

    def observed(self, observed: Observed, *, now: float, begun_at: float) -> None:
        """Apply the files first: a launcher's own reason of an end is better than the scheduler's."""
        for job in self._world.live_jobs(observed.cluster):
            self._files(job, observed, now=now, begun_at=begun_at)
        if observed.observation.complete:
            since, last = self._answering.get(observed.cluster, (now, now))
            self._answering[observed.cluster] = (since if now - last <= self._settle_s else now, now)
        orphans = observation.take_observation(
            self._world,
            observed.observation,
            cluster=observed.cluster,
            begun_at=begun_at,
            answering_since=self._answering.get(observed.cluster, (now, now))[0],
            now=now,
            settle_s=self._settle_s,
        )
        for scheduler_id in orphans:
            self._journal("orphan_found", cluster=observed.cluster, scheduler_id=scheduler_id)
            self.orphans.append((observed.cluster, scheduler_id))

    def _files(self, job: Job, observed: Observed, *, now: float, begun_at: float) -> None:
        """Apply what was found of a job's files: its launcher's status, or that it was never started."""
        path = f"{job.run_dir}/{STATUS_FILE}"
        if path not in observed.asked:
            return
        if path in observed.files:
            self._status(observed.files[path], source=path, now=now, age_s=None)
            return
        self._mute[job.id] = begun_at
        told = observed.files.get(f"{job.run_dir}/{SETUP_FILE}")
        if told is not None:
            lines = told.decode("utf-8", "replace").splitlines() or [""]
            self._never_started(job, lines[0], tail=lines[1:], now=now)
            return
        ended = [
            seen
            for seen in observed.observation.jobs
            if seen.phase is JobPhase.ENDED and seen.tag.endswith(job.id) and seen.scheduler_id == job.scheduler_id
        ]
        printed = observed.files.get(f"{job.run_dir}/{OUTPUT_FILE}", b"").decode("utf-8", "replace").splitlines()
        if printed and ended and ended[0].reason is None and job.ending_for is None:
            self._never_started(job, printed[-1], tail=printed, now=now)

    def _never_started(self, job: Job, detail: str, *, tail: list[str], now: float) -> None:
        """Apply that a job ended before its launcher could say a word."""
        detail = detail[:500]
        reason = Reason.SETUP_FAILED
        for item in self._world.instances_of_job(job.id):
            self._world.instance_event(
                item.id,
                InstanceEvent(
                    kind=InstanceEventKind.REPORTED_ENDED,
                    at=now,
                    reason=reason,
                    detail=detail,
                    exit_tail=tuple(line[:500] for line in tail[-20:]),
                ),
            )
        self._world.job_event(job.id, JobEvent(kind=JobEventKind.REPORTED_ENDED, at=now, reason=reason, detail=detail))

    def reports(self, reports: Iterable[Report], *, now: float) -> None:
        """Apply reports that are new."""
        for report in reports:
            if self._seen.get(report.job, -1) < report.seq:
                self._status(report.document, source=report.job, now=now, age_s=report.age_s)

    def _status(self, data: bytes, *, source: str, now: float, age_s: float | None) -> None:
        """Apply a status that is newer than what is known, whichever way it came; an old one is no sign of life.

        A file does not say when it was written (`age_s` None): it is a sign of life only if it was another one at the
        look before; otherwise its launcher may be gone since long, and what it says counts as old as it may be.
        """
        try:
            status = self._documents.read_status(data)
        except FirstError as error:
            if source not in self._unreadable:
                self._unreadable.add(source)
                self._journal("status_unreadable", source=source, detail=error.message)
            return
        job = self._world.jobs.get(status.job)
        if job is None:
            return
        alive = True
        if age_s is None:
            alive = self._filed.get(job.id, status.seq) < status.seq
            age_s = 0.0 if alive else self._oldest_s(job, status, now)
            self._filed[job.id] = status.seq
        if status.seq <= self._seen.get(job.id, -1):
            return
        self._seen[job.id] = status.seq
        if alive:
            self._heard[job.id] = max(self._heard.get(job.id, 0.0), now - age_s)
        membership.take_report(self._world, status, now=now, age_s=age_s)
        if status.state == "ENDED" and job.state is not JobState.ENDED:
            self._look(job.cluster)

    def _oldest_s(self, job: Job, status: Status, now: float) -> float:
        """Say how old a status can be: it was made after the submission, the start and what was heard before.

        Of a job that was not yet known to run nothing better than "now" can be said.
        """
        if job.running_at is None:
            return 0.0
        heard = [item.heard_at or 0.0 for item in self._world.instances_of_job(job.id)]
        made_at = max(job.running_at, (job.submitted_at or 0.0) + status.uptime_s, *heard)
        return max(0.0, now - made_at)

    def probed(self, target: Target, probed: Probed, *, now: float) -> None:
        """Apply what an external engine answered."""
        item = self._world.instances.get(target.instance)
        if item is None:
            return
        length: int | None = None
        detail = probed.detail
        ready = probed.ready
        if ready and target.listed:
            names = _listed(probed.body)
            ready = target.served_name in names
            others = f"it lists {', '.join(names[:5])}" if names else "it lists no models"
            detail = "" if ready else f"the engine does not serve {target.served_name}: {others}"
        if ready:
            told = self._engines[target.engine].models_info(probed.body, target.served_name).get("max_model_len")
            length = told if isinstance(told, int) else None
        self._world.instance_event(
            item.id,
            InstanceEvent(
                kind=InstanceEventKind.REPORTED_READY if ready else InstanceEventKind.NOT_ANSWERING,
                at=now,
                detail=detail,
                address=target.address,
                max_model_len=length,
            ),
        )

    def contact(self, gateways: Iterable[GatewayRow], *, now: float) -> None:
        """Believe gateways that an instance is gone only while its launcher is silent as well; look at once."""
        lost = {name for row in gateways for demand in row.demand for name in demand.lost}
        for item in self._world.live_instances():
            if item.job is None:
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
        for known in (self._seen, self._filed, self._heard, self._mute, self._recalled):
            for job in [one for one in known if one not in self._world.jobs]:
                del known[job]
        self._unreadable = {one for one in self._unreadable if one in self._world.jobs}


def _listed(body: bytes) -> list[str]:
    """Read the names in an OpenAI model listing; an answer that is none lists nothing."""
    try:
        entries: Any = json.loads(body)["data"]
        return [str(entry["id"]) for entry in entries]
    except (ValueError, KeyError, TypeError):
        return []
