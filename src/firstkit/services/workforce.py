# SPDX-License-Identifier: Apache-2.0
"""The workers of all clusters: one for each that is in the catalog or still has jobs, replaced when it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import anyio.abc

from firstkit.core.catalog import Cluster
from firstkit.core.job.record import Job
from firstkit.ports.runner import RemoteFile
from firstkit.ports.scheduler import Observation, Scheduler
from firstkit.services.cadence import Pace
from firstkit.services.job_watcher import ClusterWorker
from firstkit.services.submission import Prepared


class Workforce:
    """Own the clusters' workers. What is asked of a cluster that has none is dropped: it is asked again by level."""

    def __init__(
        self,
        *,
        make: Callable[[Cluster], ClusterWorker],
        pace: Callable[[str], Pace],
        missing: Callable[[str, Observation], dict[str, str]],
        wanted_files: Callable[[str, Observation], list[str]],
    ) -> None:
        self._make = make
        self._pace = pace
        self._missing = missing
        self._wanted_files = wanted_files
        self._workers: dict[str, tuple[Cluster, ClusterWorker]] = {}

    def staff(self, clusters: Mapping[str, Cluster], group: anyio.abc.TaskGroup) -> None:
        """Have one worker for each of these clusters: a changed one's successor takes over what was not begun."""
        for name, cluster in clusters.items():
            known = self._workers.get(name)
            if known is not None and known[0] == cluster:
                continue
            worker = self._make(cluster)
            worker.configure(
                pace=lambda name=name: self._pace(name),
                missing=lambda found, name=name: self._missing(name, found),
                wanted_files=lambda found, name=name: self._wanted_files(name, found),
            )
            if known is not None:
                worker.succeed(known[1])
            self._workers[name] = (cluster, worker)
            group.start_soon(worker.run)
        for name in [one for one in self._workers if one not in clusters]:
            self._workers.pop(name)[1].stop()

    def __contains__(self, cluster: object) -> bool:
        return cluster in self._workers

    def scheduler(self, cluster: str) -> Scheduler:
        """Return the dialect that a cluster's worker speaks."""
        return self._workers[cluster][1].scheduler

    def troubles(self) -> dict[str, str]:
        """Say which clusters do not do what they are asked, and in whose words."""
        return {name: worker.trouble for name, (_, worker) in self._workers.items() if worker.trouble}

    def submit(self, cluster: str, job: str, prepared: Prepared) -> None:
        """Put a job's files and submit it."""
        self._workers[cluster][1].submit(job, prepared)

    def cancel(self, cluster: str, scheduler_id: str) -> None:
        """Cancel a job."""
        if cluster in self._workers:
            self._workers[cluster][1].cancel(scheduler_id)

    def put(self, cluster: str, file: RemoteFile) -> None:
        """Write a file."""
        if cluster in self._workers:
            self._workers[cluster][1].put(file)

    def tidy(self, jobs: Iterable[Job]) -> None:
        """Remove the run directories of jobs that are forgotten; nothing but a job's own folder is ever removed."""
        for job in jobs:
            if job.cluster in self._workers and job.run_dir.endswith(f"/{job.id}"):
                self._workers[job.cluster][1].remove(job.run_dir)

    def reconsider(self) -> None:
        """Let workers see whether what is known now makes them look sooner."""
        for _, worker in self._workers.values():
            worker.reconsider()

    def look(self, cluster: str) -> None:
        """Look at a cluster's scheduler soon."""
        if cluster in self._workers:
            self._workers[cluster][1].look()
