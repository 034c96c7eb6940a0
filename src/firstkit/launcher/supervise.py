# SPDX-License-Identifier: Apache-2.0
"""The job while it runs: signals, deadlines, the fence, what is desired, what is reported, and how it all ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import Any, Callable, Dict, Optional

from .control import Control
from .deadlines import happens
from .desired import DRAIN, STOP, DesiredFile, parse_desired
from .documents import DoorSpec
from .exchange import Address
from .fields import JobRefused
from .handover import Handover
from .instance import End, Instance
from .processes import kill_all, survivors
from .records import EXIT, STATUS, encode, exit_report, write_whole
from .states import ASKED_FOR

TICK_S = 1.0
GENTLY_S = 1.0
NEAR_END_S = 60.0
"""A TERM this long before our own deadline, or later, is the scheduler's warning that the walltime ends."""
SAME_SIGNAL_S = 0.5
"""Schedulers may send TERM to the process and to its group: within this time it is the same one."""
NOTICE_S = 2.0
"""How long the stop of engines waits at most for somebody to hear that they are draining."""
SPREAD_S = 0.3
"""And how long after that, until gateways have acted on it."""
LAST_WORD_S = 3.0
RESERVE_S = 5.0
"""Kept of the margin before walltime for killing, reporting and cleaning up."""


class Job:
    """One job and its instances. All of it runs on one event loop; nothing in it blocks but writes of small files."""

    def __init__(self, start: Handover) -> None:
        self._start = start
        self._spec = start.spec
        self._loop = asyncio.get_running_loop()
        self._seq = 0
        self._desired_version = 0
        self._state = "RUNNING"
        self._end: Optional[End] = None
        self._trouble: Optional[str] = None
        self._refusal: Optional[str] = None
        self._signalled: Optional[float] = None
        self._warned = False
        self._contact = time.monotonic()
        self._desired_file = DesiredFile(start.run_dir)
        self._news = asyncio.Event()
        self._heard = asyncio.Event()
        self._gentle: Optional[asyncio.TimerHandle] = None
        self._ending: Optional[asyncio.Task[None]] = None
        self._control: Optional[Control] = None
        if self._spec.control is not None:
            self._control = Control(
                self._spec.control, self._spec.job, start.run_dir, conversation=self, note=start.log.note
            )
        self.instances = [
            Instance(started, door=self._spec.door, owner=self, secrets=start.secrets) for started in start.started
        ]

    # ------------------------------------------------------------------------------------------------- for instances

    def note(self, text: str) -> None:
        self._start.log.note(text)

    def changed(self, *, gently: bool = False) -> None:
        """Have the status told, now or within a second."""
        if gently:
            if self._gentle is None:
                self._gentle = self._loop.call_later(GENTLY_S, self.changed)
            return
        if self._gentle is not None:
            self._gentle.cancel()
            self._gentle = None
        self._news.set()
        if self._control is not None:
            self._control.change()

    def make_door(self, spec: DoorSpec, engine: Address, *, instance: str, note: Callable[[str], None]) -> Any:
        from .door import Door  # noqa: PLC0415  TLS takes 30 ms to load
        from .parking import ReverseDoor  # noqa: PLC0415

        if spec.kind == "reverse":
            return ReverseDoor(spec, engine, folder=self._start.run_dir, instance=instance, note=note)
        return Door(spec, engine, folder=self._start.run_dir, note=note)

    # --------------------------------------------------------------------------------------------------- for control

    def snapshot(self) -> bytes:
        """Write the status of this moment."""
        now = time.monotonic()
        self._seq += 1
        end, identity = self._end, self._start.identity
        return encode(
            {
                "schema": 1,
                "job": self._spec.job,
                "seq": self._seq,
                "uptime_s": round(now - self._start.began, 3),
                "scheduler_id": identity.scheduler_id,
                "host": identity.host,
                "node": identity.node,
                "pid": identity.pid,
                "launcher": self._start.version,
                "state": self._state,
                "reason": None if end is None else end.reason,
                "detail": (None if end is None else end.detail) or self._trouble or self._refusal,
                "time_left_s": self._time_left(now),
                "instances": [instance.report(now) for instance in self.instances],
            }
        )

    def version(self) -> int:
        return self._desired_version

    def heard(self, body: bytes) -> None:
        self._contact = time.monotonic()
        self._heard.set()
        if body:
            self._follow(body, "control")

    def fenced(self) -> None:
        self.end(End("SUPERSEDED", "firstkit answered that this job is not wanted any more"))

    # ----------------------------------------------------------------------------------------------------- decisions

    def _follow(self, data: bytes, source: str) -> None:
        """Do what is desired, if it is newer than what is being done."""
        try:
            desired = parse_desired(data, self._spec.job)
        except JobRefused as refusal:
            text = f"desired from {source} is refused: {refusal}"
            if text != self._refusal:
                self._refusal = text
                self.note(text)
                self.changed(gently=True)
            return
        self._refusal = None
        if desired.version <= self._desired_version:
            if source == "desired.json" and desired.version < self._desired_version:
                self.note(f"desired {desired.version} from {source} is older than {self._desired_version}")
            return
        self._desired_version = desired.version
        self.note(f"desired {desired.version} from {source}")
        if desired.gateways:
            for instance in self.instances:
                instance.use_gateways(desired.gateways)
            if self._control is not None:
                self._control.use(desired.gateways)
        if desired.stop_job:
            self.end(End("WALLTIME" if self._warned else "SCALED_IN", "the job is not wanted any more"))
            return
        for instance in self.instances:
            want = desired.instances.get(instance.name)
            if want is None or instance.ended:
                continue
            if want.want == STOP:
                instance.stop(End("SCALED_IN", None, want.within_s))
            elif want.want == DRAIN:
                instance.drain(End("SCALED_IN"), want.within_s)

    def signalled(self, number: int) -> None:
        """Take a request to end from outside: the first drains and stops, a second one kills.

        A warning that the walltime ends drains: what is in flight has until our own deadline.
        """
        now = time.monotonic()
        name = signal.Signals(number).name
        left = self._time_left(now)
        near = left is not None and left <= self._spec.margin_s + NEAR_END_S
        if near and not self._warned and self._signalled is None and self._end is None:
            self._warned = True
            self.note(f"{name} {left:g} s before the end: draining until {self._spec.margin_s:g} s before it")
            for instance in self.instances:
                instance.drain(End("WALLTIME", f"{name} from outside"), None)
            return
        if self._signalled is not None:
            if now - self._signalled > SAME_SIGNAL_S:
                self.note(f"{name} again: killing")
                for instance in self.instances:
                    instance.kill()
                    instance.stop(End("CANCELLED", f"{name} from outside"))
            return
        self._signalled = now
        self.end(End("WALLTIME" if near else "CANCELLED", f"{name} from outside"))

    def end(self, end: End) -> None:
        """Begin the end of the whole job; the first reason stays."""
        if self._end is None:
            self._end = end
            self._state = "ENDING"
            self.note(f"ending: {end.reason}: {end.detail}")
            self._ending = self._loop.create_task(self._end_all(end))

    async def _end_all(self, end: End) -> None:
        """Show that all drain, give whoever routes a moment to hear of it, then stop every engine in the time left."""
        for instance in self.instances:
            instance.announce(end)
        self.changed()
        serving = any(instance.life.load_s is not None and not instance.ended for instance in self.instances)
        if self._control is not None and serving and end.reason != "SUPERSEDED" and self._contact_is_fresh():
            self._heard.clear()
            self._control.hurry()
            if await happens(self._heard, NOTICE_S):
                await asyncio.sleep(SPREAD_S)
        left = self._time_left(time.monotonic())
        grace_s = None if left is None else max(left - RESERVE_S, left / 2)
        for instance in self.instances:
            instance.stop(End(end.reason, end.detail, grace_s))

    def _contact_is_fresh(self) -> bool:
        control = self._spec.control
        return control is not None and time.monotonic() - self._contact < control.hold_s + 15.0

    def _time_left(self, now: float) -> Optional[float]:
        if self._spec.walltime_s is None:
            return None
        return round(max(self._spec.walltime_s - (now - self._start.began), 0.0), 3)

    # -------------------------------------------------------------------------------------------------------- running

    async def run(self) -> int:
        """Live until every instance has ended, then tell how; returns the launcher's exit code."""
        self._trap_signals()
        lives = [asyncio.ensure_future(instance.live()) for instance in self.instances]
        around = [asyncio.ensure_future(self._watch()), asyncio.ensure_future(self._write_status())]
        if self._control is not None:
            around.append(asyncio.ensure_future(self._control.converse()))
        for task in around:
            task.add_done_callback(self._survive)
        self.changed()
        results = await asyncio.gather(*lives, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                self.note(f"an instance was given up: {type(result).__name__}: {result}")
        if self._ending is not None:
            around.append(self._ending)
        for task in around:
            task.cancel()
        await asyncio.wait(around)
        return await self._finish()

    def _trap_signals(self) -> None:
        self._start.signals.listen(self._hand_on)
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)
        self._reap()

    def _hand_on(self, number: int) -> None:
        self._loop.call_soon_threadsafe(self.signalled, number)

    def _reap(self) -> None:
        """Wait for every child that has ended: engines, the guard, and orphans that came to us.

        A group is killed before its leader is reaped: until then its number cannot belong to anybody else.
        """
        running = {instance.pid: instance for instance in self.instances if instance.pid is not None}
        for pid in running:
            with contextlib.suppress(ChildProcessError):
                if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.killpg(pid, signal.SIGKILL)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in running:
                running[pid].reaped(os.waitstatus_to_exitcode(status))

    def _survive(self, task: asyncio.Task[Any]) -> None:
        """Note a fault of our own: it must not end engines that serve, and the fence ends a job that nobody hears."""
        if not task.cancelled() and task.exception() is not None:
            self.note(f"a fault in the launcher: {type(task.exception()).__name__}: {task.exception()}")

    async def _watch(self) -> None:
        """Look once a second at desired.json, the deadline and the fence."""
        spec = self._spec
        while True:
            data = self._desired_file.poll()
            if data is not None:
                self._contact = time.monotonic()
                self._follow(data, "desired.json")
            now = time.monotonic()
            left = self._time_left(now)
            if left is not None and left <= spec.margin_s:
                self.end(End("WALLTIME", f"{spec.walltime_s:g} s of walltime are nearly over"))
            if spec.fence_s is not None and now - self._contact > spec.fence_s:
                self.end(End("UNSUPERVISED", f"neither control nor desired.json was heard of for {spec.fence_s:g} s"))
            until_margin_s = TICK_S if left is None or self._end is not None else left - spec.margin_s
            await asyncio.sleep(min(TICK_S, max(until_margin_s, 0.01)))

    async def _write_status(self) -> None:
        """Keep status.json: at once when something changes, and at every beat."""
        beat_s = 10.0 if self._spec.control is None else self._spec.control.beat_s
        path = os.path.join(self._start.run_dir, STATUS)
        while True:
            self._news.clear()
            trouble = write_whole(path, self.snapshot())
            if trouble != self._trouble:
                self._trouble = trouble
                self.note(trouble or "status.json can be written again")
                if self._control is not None:
                    self._control.change()
            await happens(self._news, beat_s)

    async def _finish(self) -> int:
        """Kill strays, tell how the job ended, remove what is ours outside of the run directory."""
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline:
            left = [pid for pid in survivors([], [], below=os.getpid()) if pid != self._start.guard.pid]
            if not left:
                break
            kill_all(left)
            await asyncio.sleep(0.01)
        self._start.signals.ignore()
        self._state = "ENDED"
        if self._end is None:
            ends = [instance for instance in self.instances if instance.life.reason not in ASKED_FOR]
            decisive = (ends or self.instances)[0]
            self._end = End(decisive.life.reason or "ENGINE_EXIT", decisive.life.detail)
        reason, detail = self._end.reason, self._end.detail
        first = next((instance for instance in self.instances if instance.life.reason == reason), self.instances[0])
        ended: Dict[str, Any] = first.exit or {"code": None, "signal": None, "log_tail": []}
        for name, document in (
            (STATUS, self.snapshot()),
            (EXIT, encode(exit_report(reason=reason, detail=detail, **ended))),
        ):
            trouble = write_whole(os.path.join(self._start.run_dir, name), document)
            if trouble:
                self.note(trouble)
        if self._control is not None and reason != "SUPERSEDED":
            await self._control.say_last(LAST_WORD_S)
        self.note(f"ended: {reason}: {detail}")
        return 0 if reason in ASKED_FOR else 1


def supervise(start: Handover) -> int:
    """Run the job's event loop; engines are already running."""

    async def job() -> int:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(
            lambda _loop, context: start.log.note(
                f"a fault in the launcher: {context.get('message')}: {type(context.get('exception')).__name__}"
            )
        )
        return await Job(start).run()

    return asyncio.run(job())
