# SPDX-License-Identifier: Apache-2.0
"""A cluster in memory: its runner, file system, jobs and launchers, which can misbehave on purpose."""

from __future__ import annotations

import itertools
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence

import anyio
import anyio.abc

from firstkit.ports.runner import Command, Done, Login, Refused, RemoteFile, Result, RunnerTraits, Unknown
from firstkit.testing.simulated_faults import Faults, Reserved
from firstkit.testing.simulated_job import SimulatedJob
from firstkit.testing.simulated_launcher import EngineManner, SimulatedLauncher

KILL_WAIT_S = 30.0
UNFIT = EngineManner(load_s=None, crash_s=0.1, crash_reason="NODE_UNFIT", crash_tail=("no GPU",))


class SimulatedCluster:
    """Implements `Runner`; `live` must be running. Its dialect is `SimulatedScheduler`."""

    traits = RunnerTraits(round_trip_s=0.05)

    def __init__(
        self,
        *,
        now: Callable[[], float],
        report: Callable[[str, int, bytes], None] = lambda _job, _seq, _data: None,
        queue_wait_s: float = 1.0,
        round_trip_s: float = 0.05,
        slots: int = 1_000_000,
        kill_wait_s: float = KILL_WAIT_S,
    ) -> None:
        self._now = now
        self._report = report
        self.queue_wait_s = queue_wait_s
        self._round_trip_s = round_trip_s
        self.slots = slots
        self._kill_wait_s = kill_wait_s
        self.faults = Faults()
        self.jobs: dict[str, SimulatedJob] = {}
        self.files: dict[str, bytes] = {}
        self.modes: dict[str, int] = {}
        self.engines: Callable[[str], EngineManner] = lambda _: EngineManner()
        self.unfit: set[str] = set()
        """On these nodes the launcher finds what an engine lacks."""
        self.at_step: Callable[[str], Awaitable[None]] | None = None
        self.reservations: list[Reserved] = []
        self.commands = 0
        self.submissions = 0
        self.listings = 0
        self.recalls = 0
        self._last = 0
        self._group: anyio.abc.TaskGroup | None = None
        self._freed = anyio.Event()

    # ----------------------------------------------------------------------------------------------------- the runner
    async def run(self, commands: Sequence[Command], *, deadline_s: float) -> list[Result]:
        """Run the commands, with whatever is wrong at the moment."""
        results: list[Result] = []
        for command in commands:
            await self._step(f"before {command.argv[0]}")
            self.commands += 1
            if self.faults.refused:
                results.append(Refused(detail="connection refused"))
                continue
            await anyio.sleep(deadline_s if self.faults.unreachable else self._round_trip_s)
            if self.faults.unreachable:
                results.append(Unknown(detail=f"no answer within {deadline_s:g} s"))
                continue
            results.append(self._execute(command))
            await self._step(f"after {command.argv[0]}")
        return results

    async def put(self, files: Sequence[RemoteFile], *, deadline_s: float) -> Result:
        """Write files."""
        await self._step("before put")
        if self.faults.refused or self.faults.disk_full:
            return Refused(detail="No space left on device" if self.faults.disk_full else "connection refused")
        await anyio.sleep(deadline_s if self.faults.unreachable else self._round_trip_s)
        if self.faults.unreachable:
            return Unknown(detail=f"no answer within {deadline_s:g} s")
        for file in files:
            self.files[file.path] = file.data
            self.modes[file.path] = file.mode
        folders = {file.path.rpartition("/")[0] for file in files if file.path.endswith("/desired.json")}
        for job in self.jobs.values():
            if job.launcher is not None and job.run_dir in folders:
                job.launcher.poke.set()
        await self._step("after put")
        return Done(code=0, out=b"", err=b"")

    async def remove(self, folders: Sequence[str], *, deadline_s: float) -> Result:
        """Remove whole folders."""
        if self.faults.refused:
            return Refused(detail="connection refused")
        await anyio.sleep(deadline_s if self.faults.unreachable else self._round_trip_s)
        if self.faults.unreachable:
            return Unknown(detail=f"no answer within {deadline_s:g} s")
        for path in [one for one in self.files if one.startswith(tuple(f"{folder}/" for folder in folders))]:
            del self.files[path]
        return Done(code=0, out=b"", err=b"")

    async def login(self) -> Login:
        """Let everybody in."""
        return Login(well=True)

    async def read_many(
        self, paths: Sequence[str], *, deadline_s: float, limit: int = 262_144
    ) -> Mapping[str, bytes] | Unknown:
        """Read what exists."""
        if self.faults.refused or self.faults.unreachable:
            await anyio.sleep(deadline_s if self.faults.unreachable else 0)
            return Unknown(detail="no answer")
        await anyio.sleep(self._round_trip_s)
        if self.faults.unreadable:
            return Unknown(detail="Input/output error")
        return {path: self.files[path][-limit:] for path in paths if path in self.files}

    async def _step(self, name: str) -> None:
        if self.at_step is not None:
            await self.at_step(name)

    # -------------------------------------------------------------------------------------------------- the scheduler
    async def live(self) -> None:
        """Let jobs live, until cancelled."""
        async with anyio.create_task_group() as group:
            self._group = group
            await anyio.sleep_forever()

    def live_jobs(self) -> list[SimulatedJob]:
        """List the jobs that have not ended."""
        return [job for job in self.jobs.values() if job.state != "ENDED"]

    def ready(self) -> list[str]:
        """List the instances that are READY, as their launchers know."""
        launchers = [job.launcher for job in self.live_jobs() if job.launcher is not None]
        return [engine.instance for launcher in launchers for engine in launcher.engines if engine.state == "READY"]

    def add(
        self, tag: str, *, walltime_s: float = 0.0, script: str = "/none/start.sh", exclude: Sequence[str] = ()
    ) -> SimulatedJob:
        """Take in a job, as a submission does."""
        self._last += 1
        job = SimulatedJob(
            number=str(self._last),
            tag=tag,
            walltime_s=walltime_s,
            run_dir=script.rpartition("/")[0],
            script=self.files.get(script, b"").decode(),
            submitted_at=self._now(),
            exclude=exclude,
        )
        self.jobs[job.number] = job
        self.submissions += 1
        if self._group is None:
            raise RuntimeError("the cluster is not running")
        self._group.start_soon(self._live, job)
        return job

    def cancel(self, number: str, *, why: str = "CANCELLED") -> None:
        """Let somebody else cancel a job, or the scheduler preempt it: TERM now, KILL later."""
        job = self.jobs[number]
        job.cancelled_as = why
        job.cancelled.set()

    def fail_node(self, number: str) -> None:
        """Let a job's node die: no last word, no file."""
        job = self.jobs[number]
        job.why = "NODE_FAIL"
        job.killed.set()

    def _execute(self, command: Command) -> Result:
        verb, *rest = command.argv
        if verb == "submit":
            return self._take_submission(rest)
        if verb == "cancel":
            if self.faults.cancel_refused:
                return Done(code=1, out=b"", err=b"scancel: error: invalid job id")
            for number in rest:
                if number in self.jobs and self.jobs[number].state != "ENDED":
                    self.jobs[number].cancelled.set()
            return Done(code=0, out=b"", err=b"")
        if verb == "account":
            self.recalls += 1
            return self._account(rest)
        if verb == "reservations":
            return Done(code=0, out=self._reservations().encode(), err=b"")
        self.listings += 1
        return Done(code=0, out=self._listing().encode(), err=b"")

    def _reservations(self) -> str:
        now = self._now()
        return json.dumps(
            [
                {
                    "name": one.name,
                    "starts_in_s": one.starts_at - now,
                    "ends_in_s": one.ends_at - now,
                    "nodes": one.nodes,
                }
                for one in self.reservations
                if one.ends_at > now
            ]
        )

    def _barred(self, job: SimulatedJob) -> bool:
        """Tell whether a reservation of all nodes keeps a job from starting: its walltime would reach into it."""
        now = self._now()
        return any(
            one.nodes is None and one.starts_at < now + (job.walltime_s or 1e9) and now < one.ends_at
            for one in self.reservations
        )

    def _take_submission(self, rest: Sequence[str]) -> Result:
        faults = self.faults
        if faults.submit_refused:
            return Done(code=1, out=b"", err=faults.submit_refused.encode())
        if faults.lost_submissions:
            faults.lost_submissions -= 1
            return Unknown(detail="no answer in time")
        tag, walltime_s, script, *exclude = rest
        if faults.delayed_submissions_s and self._group is not None:
            self._group.start_soon(self._add_later, faults.delayed_submissions_s, tag, float(walltime_s), script)
            return Unknown(detail="no answer in time")
        job = self.add(tag, walltime_s=float(walltime_s), script=script, exclude=exclude)
        if faults.lost_answers:
            faults.lost_answers -= 1
            return Unknown(detail="no answer in time")
        return Done(code=0, out=job.number.encode(), err=b"")

    async def _add_later(self, after_s: float, tag: str, walltime_s: float, script: str) -> None:
        await anyio.sleep(after_s)
        self.add(tag, walltime_s=walltime_s, script=script)

    def _listing(self) -> str:
        lines: list[str] = []
        now = self._now()
        for job in self.jobs.values():
            old = job.ended_at is not None and (self.faults.forgetful or now - job.ended_at > 600.0)
            if old or job.number in self.faults.hidden:
                continue
            left_s = None
            if job.started_at is not None and job.walltime_s:
                left_s = round(job.started_at + job.walltime_s - now, 1)
            state = "SPECIAL_EXIT" if self.faults.unknown_states else job.state
            why = "IMPOSSIBLE" if self.faults.impossible and state == "PENDING" else job.why
            entry = _entry(job, state=state, why=why, left_s=left_s)
            lines += [json.dumps(entry)] * (2 if self.faults.repeated_lines else 1)
        if self.faults.truncated:
            return (lines[0][: len(lines[0]) // 2] if lines else "") + "\n"
        return "\n".join([*lines, '{"end": true}']) + "\n"

    def _account(self, tags: Sequence[str]) -> Result:
        if not self.faults.accounting:
            return Done(code=1, out=b"", err=b"accounting is disabled")
        ended = [job for job in self.jobs.values() if job.tag in tags and job.state == "ENDED"]
        lines = [json.dumps(_entry(job, state=job.state, why=job.why, left_s=None)) for job in ended]
        return Done(code=0, out="\n".join(lines).encode(), err=b"")

    # ------------------------------------------------------------------------------------------------------- one job
    async def _live(self, job: SimulatedJob) -> None:
        with anyio.move_on_after(self.queue_wait_s):
            await job.cancelled.wait()
        while not job.cancelled.is_set() and (
            self.faults.frozen_queue or self._running() >= self.slots or self._barred(job)
        ):
            with anyio.move_on_after(1.0):
                await job.cancelled.wait()
        if job.cancelled.is_set():
            self._ended(job, code=0, why=job.cancelled_as)
            return
        job.state, job.started_at, job.node = "RUNNING", self._now(), self._free_node(job)
        async with anyio.create_task_group() as group:
            group.start_soon(self._end_from_outside, job, group.cancel_scope)
            code = await self._work(job)
            if job.state == "RUNNING":
                self._ended(job, code=code, why=job.why)
            group.cancel_scope.cancel()

    def _free_node(self, job: SimulatedJob) -> str:
        """Find the first node that is free and not excluded: the one that was just left, broken or not."""
        taken = {one.node for one in self.jobs.values() if one.state == "RUNNING"} | set(job.exclude)
        return next(name for name in (f"n{number}" for number in itertools.count(1)) if name not in taken)

    def _running(self) -> int:
        return sum(1 for job in self.jobs.values() if job.state == "RUNNING")

    async def _work(self, job: SimulatedJob) -> int:
        """Run start.sh: the setup lines, then the launcher."""
        data = self.files.get(f"{job.run_dir}/job.json")
        if data is None:
            with anyio.move_on_after(_seconds(job.script)):
                await anyio.sleep_forever()
            return _code(job.script)
        document = json.loads(data)
        engines = _unfit if job.node in self.unfit else self.engines
        manner = engines(document["instances"][0]["instance"])
        if manner.setup:
            self.files[f"{job.run_dir}/job.out"] = manner.setup.encode()
            self.files[f"{job.run_dir}/setup.failed"] = (
                f"exit code 1 at line 20 of start.sh: module load conda\n{manner.setup}".encode()
            )
            return 1
        job.launcher = SimulatedLauncher(
            job=document,
            run_dir=job.run_dir,
            scheduler_id=job.number,
            files=self.files,
            manner=engines,
            now=self._now,
            report=self._carry,
            node=job.node,
        )
        return await job.launcher.run()

    def _carry(self, job: str, seq: int, data: bytes) -> bool:
        if self.faults.http_down:
            return False
        self._report(job, seq, data)
        return True

    async def _end_from_outside(self, job: SimulatedJob, scope: anyio.CancelScope) -> None:
        """Send TERM when cancelled or out of time, KILL later; a node that dies kills at once."""
        async with anyio.create_task_group() as group:

            async def killed() -> None:
                await job.killed.wait()
                self._ended(job, code=137, why=job.why)
                scope.cancel()

            group.start_soon(killed)
            with anyio.move_on_after(job.walltime_s or 1e9):
                await job.cancelled.wait()
            job.why = job.cancelled_as if job.cancelled.is_set() else "TIMEOUT"
            if job.launcher is not None:
                job.launcher.terminate()
                await anyio.sleep(self._kill_wait_s)
            job.killed.set()

    def _ended(self, job: SimulatedJob, *, code: int, why: str) -> None:
        if job.state != "ENDED":
            job.state, job.code, job.why, job.ended_at = "ENDED", code, why, self._now()


def _unfit(_: str) -> EngineManner:
    return UNFIT


def _seconds(script: str) -> float:
    """Read how long a script without a launcher lasts: its text is {"lasts_s": …, "code": …}."""
    try:
        return float(json.loads(script).get("lasts_s", 0.0))
    except ValueError:
        return 0.0


def _code(script: str) -> int:
    try:
        return int(json.loads(script).get("code", 0))
    except ValueError:
        return 127


def _entry(job: SimulatedJob, *, state: str, why: str, left_s: float | None) -> dict[str, object]:
    told: dict[str, object] = {
        "id": job.number,
        "tag": job.tag,
        "state": state,
        "why": why,
        "code": job.code,
        "left_s": left_s,
    }
    return told | {"nodes": [job.node] if job.node else []}
