# SPDX-License-Identifier: Apache-2.0
"""One cluster's commands, one at a time: submit, cancel, write files, and one listing however many jobs there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import anyio

from firstkit.ports.clock import Clock
from firstkit.ports.runner import Done, RemoteFile, Runner, Unknown
from firstkit.ports.scheduler import Accepted, Observation, Rejected, Scheduler, Unsure
from firstkit.services.submission import Prepared

COMMAND_DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What became of a submission."""

    job: str
    answer: Accepted | Rejected | Unsure


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One look at a cluster: the listing, and the files that were asked for."""

    cluster: str
    observation: Observation
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    begun_at: float = 0.0


Happening = Submitted | Observed


class ClusterWorker:
    """Carry out what is asked of one cluster, in order of urgency; what comes of it goes to `deliver`.

    Nothing asked is lost while the cluster cannot be reached: cancellations and files stay pending until they are done;
    a submission whose outcome is unknown is reported as such and never repeated here (law 1).
    """

    def __init__(
        self,
        *,
        cluster: str,
        scheduler: Scheduler,
        runner: Runner,
        clock: Clock,
        deliver: Callable[[Happening], None],
    ) -> None:
        self.cluster = cluster
        self.scheduler = scheduler
        self._runner = runner
        self._clock = clock
        self._deliver = deliver
        self._submissions: list[tuple[str, Prepared]] = []
        self._cancels: set[str] = set()
        self._files: dict[str, RemoteFile] = {}
        self._wanted_files: Callable[[], Sequence[str]] = tuple
        self._interval_s: Callable[[], float] = lambda: 30.0
        self._looked_at = float("-inf")
        self._asked_to_look = True
        self._retry_s = 0.0
        self._wake = anyio.Event()
        self.trouble = ""

    def configure(self, *, interval_s: Callable[[], float], wanted_files: Callable[[], Sequence[str]]) -> None:
        """Say how often to look (asked anew each time) and which files to read with each look."""
        self._interval_s = interval_s
        self._wanted_files = wanted_files

    def submit(self, job: str, prepared: Prepared) -> None:
        """Put the files of a job and submit it; the answer is delivered as Submitted."""
        self._submissions.append((job, prepared))
        self.wake()

    def cancel(self, scheduler_id: str) -> None:
        """Cancel a job; repeated calls are one."""
        self._cancels.add(scheduler_id)
        self.wake()

    def put(self, file: RemoteFile) -> None:
        """Write a file; a newer one for the same path replaces one not yet written."""
        self._files[file.path] = file
        self.wake()

    def look(self) -> None:
        """Look at the scheduler at the next opportunity, whatever the interval."""
        self._asked_to_look = True
        self.wake()

    def wake(self) -> None:
        """Let the worker see what has changed."""
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._wake = anyio.Event()
            if not await self._one():
                rest_s = self._looked_at + self._interval_s() - self._clock.monotonic_s()
                with anyio.move_on_after(max(0.01, rest_s, self._retry_s)):
                    await self._wake.wait()

    async def _one(self) -> bool:
        """Do the most urgent thing; False when there is nothing to do now."""
        if self._submissions:
            job, prepared = self._submissions.pop(0)
            self._deliver(Submitted(job=job, answer=await self._submit(prepared)))
            return True
        if self._cancels:
            return await self._cancel()
        if self._files:
            return await self._write()
        due = self._clock.monotonic_s() - self._looked_at >= self._interval_s()
        if due or self._asked_to_look:
            await self._observe()
            return True
        return False

    async def _submit(self, prepared: Prepared) -> Accepted | Rejected | Unsure:
        """Put the files, then run the one command; until it has run nothing was submitted."""
        written = await self._runner.put(prepared.files, deadline_s=COMMAND_DEADLINE_S)
        if not isinstance(written, Done):
            self.trouble = written.detail
            return Rejected(detail=written.detail, heals=True)
        command = self.scheduler.submit(prepared.submission)
        results = await self._runner.run([command], deadline_s=COMMAND_DEADLINE_S)
        return self.scheduler.parse_submit(results[0])

    async def _cancel(self) -> bool:
        """Cancel all that is pending in one round; what may not have been done stays pending."""
        ids = tuple(sorted(self._cancels))
        results = await self._runner.run(self.scheduler.cancel(ids), deadline_s=COMMAND_DEADLINE_S)
        if all(isinstance(result, Done) and result.code == 0 for result in results):
            self._cancels.difference_update(ids)
            self._asked_to_look = True
            self._retry_s = 0.0
            return True
        self._retry_s = min(60.0, max(1.0, self._retry_s * 2))
        return False

    async def _write(self) -> bool:
        """Write the pending files; those that could not be written stay pending unless replaced meanwhile."""
        files, self._files = self._files, {}
        result = await self._runner.put(tuple(files.values()), deadline_s=COMMAND_DEADLINE_S)
        if isinstance(result, Done):
            self._retry_s = 0.0
            return True
        self.trouble = result.detail
        self._files = files | self._files
        self._retry_s = min(60.0, max(1.0, self._retry_s * 2))
        return False

    async def _observe(self) -> None:
        """Make the one listing and read the files asked for."""
        begun_at = self._clock.monotonic_s()
        self._asked_to_look = False
        results = await self._runner.run(self.scheduler.observe(), deadline_s=COMMAND_DEADLINE_S)
        observation = self.scheduler.parse(results)
        found: dict[str, bytes] = {}
        paths = tuple(self._wanted_files())
        if paths:
            read = await self._runner.read_many(paths, deadline_s=COMMAND_DEADLINE_S)
            if not isinstance(read, Unknown):
                found = dict(read)
        self.trouble = "" if observation.complete else observation.detail or "the listing was incomplete"
        self._looked_at = self._clock.monotonic_s()
        self._deliver(Observed(cluster=self.cluster, observation=observation, files=found, begun_at=begun_at))
