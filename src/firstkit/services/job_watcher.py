# SPDX-License-Identifier: Apache-2.0
"""One cluster's commands, one at a time: submit, cancel, write files, and one listing however many jobs there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import anyio

from firstkit.core.reasons import Reason
from firstkit.ports.clock import Clock
from firstkit.ports.runner import Done, RemoteFile, Runner, Unknown
from firstkit.ports.scheduler import Accepted, Observation, Rejected, Scheduler, Unsure, Window
from firstkit.services.cadence import JITTER, Pace
from firstkit.services.submission import Prepared

COMMAND_DEADLINE_S = 60.0
WINDOWS_EVERY_S = 300.0
"""How often reservations are read: they are announced days before, and a look at them takes the place of another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What became of a submission."""

    job: str
    answer: Accepted | Rejected | Unsure


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One look at a cluster: the listing, and of the files that were asked for those that exist.

    `asked` is empty when the files could not be read, so that nothing is concluded from their absence.
    `begun_at` is on the monotonic clock.
    """

    cluster: str
    observation: Observation
    asked: tuple[str, ...] = ()
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    begun_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """The reservations of a cluster, whose times count from `begun_at` (monotonic clock)."""

    cluster: str
    windows: tuple[Window, ...]
    begun_at: float


Happening = Submitted | Observed | Reserved


@dataclass(slots=True)
class _Pause:
    """How long to leave something alone after it failed: a second, doubled up to a minute."""

    length_s: float = 0.0
    until: float = float("-inf")

    def failed(self, now: float) -> None:
        self.length_s = min(60.0, max(1.0, self.length_s * 2))
        self.until = now + self.length_s

    def succeeded(self) -> None:
        self.length_s, self.until = 0.0, float("-inf")


class ClusterWorker:
    """Carry out what is asked of one cluster, in order of urgency; what comes of it goes to `deliver`.

    Nothing asked is lost while the cluster cannot be reached: cancellations and files stay pending until they are done,
    and hold up neither each other nor the looks. A submission whose outcome is unknown is reported as such and never
    repeated here (law 1).
    """

    def __init__(
        self,
        *,
        cluster: str,
        run_dir: str,
        scheduler: Scheduler,
        runner: Runner,
        clock: Clock,
        deliver: Callable[[Happening], None],
        random: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.cluster = cluster
        self.scheduler = scheduler
        self._runner = runner
        self._clock = clock
        self._deliver = deliver
        self._random = random
        self._submissions: list[tuple[str, Prepared]] = []
        self._cancels: set[str] = set()
        self._files: dict[str, RemoteFile] = {}
        self._folders: set[str] = set()
        self._missing: Callable[[Observation], Mapping[str, str]] = lambda _: {}
        self._wanted_files: Callable[[Observation], Sequence[str]] = lambda _: ()
        self._pace: Callable[[], Pace] = lambda: Pace(look_s=30.0)
        self._looked_at = float("-inf")
        self._sleeps_until = float("-inf")
        self._read_windows_at = float("-inf")
        self._asked_to_look = True
        self._read_at = float("-inf")
        self._stretch = 1.0
        self._looking, self._cancelling, self._writing, self._removing = _Pause(), _Pause(), _Pause(), _Pause()
        self._programs = tuple(
            RemoteFile(path=f"{run_dir}/{name}", data=data) for name, data in scheduler.files().items()
        )
        self._in_place = not self._programs
        self._stopped = False
        self._successor: ClusterWorker | None = None
        self._wake = anyio.Event()
        self.trouble = ""

    def configure(
        self,
        *,
        pace: Callable[[], Pace],
        missing: Callable[[Observation], Mapping[str, str]],
        wanted_files: Callable[[Observation], Sequence[str]],
    ) -> None:
        """Say how often to look (asked anew each time), which jobs a listing lacks, which files to read after it."""
        self._pace = pace
        self._missing = missing
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

    def remove(self, folder: str) -> None:
        """Remove a job's run directory, for good."""
        self._folders.add(folder)
        self.wake()

    def look(self) -> None:
        """Look at the scheduler at the next opportunity, whatever the interval."""
        self._asked_to_look = True
        self.wake()

    def wake(self) -> None:
        """Let the worker see what has changed."""
        self._wake.set()

    def reconsider(self) -> None:
        """Wake up if there is something to do before the moment until which it meant to sleep."""
        if self._next_at() < self._sleeps_until:
            self.wake()

    def succeed(self, other: ClusterWorker) -> None:
        """Take over what another worker of this cluster has not begun; it ends once it has done what it is at.

        What fails of that comes here as well.
        """
        self._submissions += other._submissions
        self._cancels |= other._cancels
        self._files = other._files | self._files
        self._folders |= other._folders
        other._submissions, other._cancels, other._files, other._folders = [], set(), {}, set()
        other._successor = self
        other.stop()
        self.wake()

    def postpone(self, *, cancels: frozenset[str] = frozenset(), files: Mapping[str, RemoteFile] | None = None) -> None:
        """Keep what has failed for a later try, by the successor where there is one."""
        if self._successor is not None:
            self._successor.postpone(cancels=cancels, files=files)
            return
        now = self._clock.monotonic_s()
        if cancels:
            self._cancels |= cancels
            self._cancelling.failed(now)
        if files:
            self._files = {**files, **self._files}
            self._writing.failed(now)
        self.wake()

    def stop(self) -> None:
        """Let `run` return once what is under way is done."""
        self._stopped = True
        self.wake()

    async def run(self) -> None:
        """Work until stopped or cancelled."""
        while not self._stopped:
            self._wake = anyio.Event()
            if not await self._one() and not self._stopped:
                self._sleeps_until = self._next_at()
                with anyio.move_on_after(max(0.01, self._sleeps_until - self._clock.monotonic_s())):
                    await self._wake.wait()
                self._sleeps_until = float("-inf")

    def _next_at(self) -> float:
        """Say when there is something to do again if nobody asks for anything."""
        pace = self._pace()
        moments = [self._look_at(pace)]
        if pace.read_s is not None:
            moments.append(self._read_at + pace.read_s)
        if self._cancels:
            moments.append(self._cancelling.until)
        if self._files:
            moments.append(self._writing.until)
        if self._folders:
            moments.append(self._removing.until)
        return min(moments)

    def _look_at(self, pace: Pace) -> float:
        """Say when to look again unasked."""
        return max(self._looked_at + pace.look_s * self._stretch, self._looking.until)

    async def _one(self) -> bool:
        """Do the most urgent thing that is due; False when there is nothing to do now."""
        now = self._clock.monotonic_s()
        if self._submissions:
            job, prepared = self._submissions.pop(0)
            self._deliver(Submitted(job=job, answer=await self._submit(prepared)))
            return True
        if self._cancels and now >= self._cancelling.until:
            await self._cancel()
            return True
        if self._files and now >= self._writing.until:
            await self._write()
            return True
        pace = self._pace()
        if self._looked_at > float("-inf") and self._read_windows_at == float("-inf"):
            await self._read_windows()
            return True
        if self._asked_to_look or now >= self._look_at(pace):
            late = not self._asked_to_look and now - self._read_windows_at >= WINDOWS_EVERY_S
            await (self._read_windows() if late else self._observe())
            return True
        if pace.read_s is not None and now >= self._read_at + pace.read_s:
            await self._read()
            return True
        if self._folders and now >= self._removing.until:
            await self._remove()
            return True
        return False

    async def _submit(self, prepared: Prepared) -> Accepted | Rejected | Unsure:
        """Put the files, then run the one command; until it has run nothing was submitted."""
        written = await self._runner.put(prepared.files, deadline_s=COMMAND_DEADLINE_S)
        if not isinstance(written, Done):
            self.trouble = written.detail
            return Rejected(detail=written.detail, reason=Reason.SUBMIT_FAILED)
        command = self.scheduler.submit(prepared.submission)
        results = await self._runner.run([command], deadline_s=COMMAND_DEADLINE_S)
        return self.scheduler.parse_submit(results[0])

    async def _cancel(self) -> None:
        """Cancel all that is pending in one round.

        What may not have been run stays pending. What the scheduler refused does not: whoever still wants it asks
        again, and one id that it does not like must not keep the others from being cancelled for ever.
        """
        ids, self._cancels = self._cancels, set()
        results = await self._runner.run(self.scheduler.cancel(tuple(sorted(ids))), deadline_s=COMMAND_DEADLINE_S)
        if all(isinstance(result, Done) for result in results):
            self._cancelling.succeeded()
        else:
            self.postpone(cancels=frozenset(ids))
        self.trouble = self.scheduler.parse_cancel(results) or self.trouble
        self._asked_to_look = True

    async def _write(self) -> None:
        """Write the pending files; those that could not be written stay pending unless replaced meanwhile."""
        files, self._files = self._files, {}
        result = await self._runner.put(tuple(files.values()), deadline_s=COMMAND_DEADLINE_S)
        if isinstance(result, Done):
            self._writing.succeeded()
            return
        self.trouble = result.detail
        self.postpone(files=files)

    async def _remove(self) -> None:
        """Remove the pending folders; tried again later when that fails."""
        folders = tuple(sorted(self._folders))
        result = await self._runner.remove(folders, deadline_s=COMMAND_DEADLINE_S)
        if isinstance(result, Done):
            self._folders.difference_update(folders)
            self._removing.succeeded()
            return
        self.trouble = result.detail
        self._removing.failed(self._clock.monotonic_s())

    async def _read_windows(self) -> None:
        """List the reservations: right after the first look at the jobs, later in place of one that nobody asked for.

        An answer that tells nothing is none.
        """
        begun_at = self._clock.monotonic_s()
        self._read_windows_at = begun_at
        commands = self.scheduler.windows()
        if not commands:
            return
        results = await self._runner.run(commands, deadline_s=COMMAND_DEADLINE_S)
        windows = self.scheduler.parse_windows(results)
        self._looked_at = self._clock.monotonic_s()
        if windows is None:
            self.trouble = next((one.detail for one in results if not isinstance(one, Done)), self.trouble)
            self._looking.failed(self._looked_at)
            return
        self._deliver(Reserved(cluster=self.cluster, windows=windows, begun_at=begun_at))

    async def _observe(self) -> None:
        """Make the one listing, ask a second source about jobs that it lacks, then read the files asked for.

        In that order: what has ended by then has said so in its files. What the dialect needs is put
        before, and again after a listing that came to nothing: it may have been removed.
        """
        begun_at = self._clock.monotonic_s()
        self._asked_to_look = False
        if not self._in_place:
            await self._runner.put(self._programs, deadline_s=COMMAND_DEADLINE_S)  # where that fails, the look says so
        results = await self._runner.run(self.scheduler.observe(), deadline_s=COMMAND_DEADLINE_S)
        observation = await self._recalled(self.scheduler.parse(results))
        self._in_place = observation.complete or not self._programs
        self.trouble = "" if observation.complete else observation.detail or "the listing was incomplete"
        self._looked_at = self._clock.monotonic_s()
        self._stretch = 1.0 + JITTER * self._random()
        if observation.complete:
            self._looking.succeeded()
        else:
            self._looking.failed(self._looked_at)
        await self._read_files(observation, begun_at=begun_at)

    async def _read(self) -> None:
        """Read the files alone, between two listings."""
        nothing = Observation(complete=False, detail="no listing was made")
        await self._read_files(nothing, begun_at=self._clock.monotonic_s())

    async def _read_files(self, observation: Observation, *, begun_at: float) -> None:
        """Read what is wanted after this observation, and deliver both."""
        found: dict[str, bytes] = {}
        paths = tuple(self._wanted_files(observation))
        if paths:
            read = await self._runner.read_many(paths, deadline_s=COMMAND_DEADLINE_S)
            if isinstance(read, Unknown):
                paths = ()
            else:
                found = dict(read)
        self._read_at = self._clock.monotonic_s()
        self._deliver(
            Observed(cluster=self.cluster, observation=observation, asked=paths, files=found, begun_at=begun_at)
        )

    async def _recalled(self, observation: Observation) -> Observation:
        """Add what a second source knows of jobs that a complete listing lacks (law 1); its silence proves nothing."""
        missing: Mapping[str, str] = self._missing(observation) if observation.complete else {}
        commands = self.scheduler.recall(missing) if missing else []
        if not commands:
            return observation
        results = await self._runner.run(commands, deadline_s=COMMAND_DEADLINE_S)
        return replace(observation, jobs=(*observation.jobs, *self.scheduler.parse_recalled(results)))
