# SPDX-License-Identifier: Apache-2.0
"""One instance while the launcher lives: from the moment its engine runs to the moment nothing of it is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import Any, Callable, Dict, NamedTuple, Optional, Protocol, Sequence, cast

from . import probe
from .containers import CAUSES
from .documents import DoorSpec
from .enginelog import EngineLog
from .exchange import Address
from .folders import Places
from .handover import Started
from .images import find_digest
from .processes import kill_all, kill_group, survivors
from .progress import Progress, ProgressReader, cause_of
from .records import EXIT, encode, exit_report, write_whole
from .states import DRAINING, ENDED, LOADING, READY, Lifecycle

RACE_S = 0.1
"""Schedulers signal every process of a job: an engine may die of it before the launcher has heard of its own TERM."""
SWEEP_S = 5.0
HEALTH_S = 10.0
SLOWEST_PROBE_S = 1.0


class End(NamedTuple):
    """Why an instance is to end, or has ended."""

    reason: str
    detail: Optional[str] = None
    grace_s: Optional[float] = None


class Owner(Protocol):
    """What an instance needs of the job."""

    def changed(self, *, gently: bool = False) -> None:
        """Learn that the status is different; `gently` if it need not be told at once."""
        ...

    def note(self, text: str) -> None:
        """Write a line of launcher.log."""
        ...

    def make_door(self, spec: DoorSpec, engine: Address, *, instance: str, note: Callable[[str], None]) -> Any:
        """Make a door; apart, since TLS is loaded only where there is one."""
        ...


class Instance:
    """Runs one instance: reads its log, waits until it is ready, opens its door, ends it, and tells how it ended."""

    def __init__(self, started: Started, *, door: DoorSpec, owner: Owner, secrets: Any) -> None:
        self.name = started.spec.instance
        self.life = Lifecycle(time.monotonic())
        self.exit: Optional[Dict[str, Any]] = None
        self._started = started
        self._engine = started.spec.engine
        self._door_spec = door
        self._owner = owner
        self._door: Any = None
        self._gateways: Sequence[str] = ()
        self._progress = ProgressReader(self._engine.progress)
        self._sick: Optional[str] = None
        self._loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[int] = self._loop.create_future()
        self._wanted: asyncio.Future[End] = self._loop.create_future()
        self._hastened = asyncio.Event()
        self._draining: Optional[asyncio.TimerHandle] = None
        self._image: Optional[str] = None
        self._log: Optional[EngineLog] = None
        if started.pid is not None and started.places is not None:
            self._log = EngineLog(started.output, started.places.log, secrets=secrets, on_line=self._log_line)
            self._loop.add_reader(started.output, self._read_log)
            if self._engine.container is not None:
                find_digest(self._engine.container, os.environ, self._digest_found)

    @property
    def pid(self) -> Optional[int]:
        return self._started.pid

    @property
    def ended(self) -> bool:
        return self.life.state == ENDED

    # ------------------------------------------------------------------------------------------ what others may ask

    def reaped(self, code: int) -> None:
        """Learn that the engine's process has ended; negative for a signal."""
        if not self._exited.done():
            self._exited.set_result(code)
            if self._door is not None:
                self._door.shut()

    def use_gateways(self, gateways: Sequence[str]) -> None:
        """Learn which gateways there are."""
        self._gateways = gateways
        if self._door is not None:
            self._door.use(gateways)

    def drain(self, end: End, within_s: Optional[float]) -> None:
        """Take no new work; stop after the time given, if one is. An engine that still loads has none: it stops."""
        if self.life.state == LOADING:
            self.stop(end)
            return
        self.announce(end)
        if self._draining is not None:
            self._draining.cancel()
            self._draining = None
        if within_s is not None and not self.ended:
            self._draining = self._loop.call_later(within_s, self.stop, end)

    def announce(self, end: End) -> None:
        """Show that the end is near, so that nothing more is routed here."""
        if self.life.move(DRAINING, time.monotonic(), reason=end.reason, detail=end.detail):
            self._owner.changed()

    def stop(self, end: End) -> None:
        """Stop the engine: its stop signal now, SIGKILL to all of it after the grace. The first call's reason stays."""
        self.announce(end)
        if not self._wanted.done():
            self._wanted.set_result(end)
        elif end.grace_s is not None:
            self._loop.call_later(end.grace_s, self.kill)

    def kill(self) -> None:
        """Let a stop that is under way, or the next one, have no grace any more."""
        self._hastened.set()

    def report(self, now: float) -> Dict[str, Any]:
        """Give this instance's part of the status document."""
        life = self.life
        loaded = life.load_s is not None
        progress = Progress(1.0, "ready") if loaded else self._progress.now
        trouble = (self._door.trouble if self._door is not None else None) or (self._log.trouble if self._log else None)
        return {
            "instance": self.name,
            "state": life.state,
            "reason": life.reason,
            "detail": life.detail or self._sick or trouble,
            "progress": progress._asdict(),
            "state_for_s": round(now - life.since, 3),
            "load_s": None if life.load_s is None else round(life.load_s, 3),
            "address": self._address() if loaded else None,
            "connections": None if self._door is None else len(self._door.connections),
            "exit": self.exit,
            "image": self._image,
        }

    # ------------------------------------------------------------------------------------------------------ its life

    async def live(self) -> None:
        """Go through the whole life; returns when nothing is left of the engine and exit.json is written."""
        started = self._started
        if started.pid is None:
            await self._finish(End(started.reason or "SETUP_FAILED", started.detail), None)
            return
        loading = asyncio.ensure_future(self._serve_guarded())
        waiting = {self._exited, self._wanted, loading}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            loading.cancel()
            await asyncio.wait({loading})
        if self._wanted.done():
            end = self._wanted.result()
        elif self._exited.done():
            end = await self._unasked(self._exited.result())
        else:
            end = loading.result()
        if not self._exited.done():
            self.announce(end)
            await self._stop_engine(end.grace_s)
        await self._clear_away()
        await self._finish(end, self._exited.result() if self._exited.done() else None)

    async def _serve_guarded(self) -> End:
        """Serve; a fault of our own costs an instance that is not ready yet, and only the watching of one that is."""
        try:
            return await self._serve()
        except Exception as fault:  # noqa: BLE001  whatever it is, the engine serves on
            text = f"a fault in the launcher: {type(fault).__name__}: {fault}"
            self._owner.note(f"{self.name}: {text}")
            if self.life.state == LOADING:
                return End("NEVER_READY", text)
        await asyncio.wait({self._wanted})
        return self._wanted.result()

    async def _serve(self) -> End:
        """Load, become ready, and watch the health from then on; ends only with a reason to end the instance."""
        end = self._open_door() or await self._load()
        if end is not None:
            return end
        if self._log is not None:
            self._log.watched = False
        if self.life.move(READY, time.monotonic()):
            self._owner.note(f"{self.name}: ready after {self.life.load_s:.2f} s")
            self._owner.changed()
        while True:
            await asyncio.sleep(HEALTH_S)
            verdict = await probe.health(self._engine, self._engine_address())
            sick = None if verdict.outcome == probe.OK else verdict.detail
            if sick != self._sick:
                self._sick = sick
                self._owner.note(f"{self.name}: {sick or 'healthy again'}")
                self._owner.changed()

    def _open_door(self) -> Optional[End]:
        """Open the door before the engine has loaded: a range without a free port should not cost a load."""
        if self._door_spec.kind == "local":
            return None
        from .door import DoorFailed  # noqa: PLC0415  TLS takes 30 ms to load

        door = self._owner.make_door(self._door_spec, self._engine_address(), instance=self.name, note=self._door_note)
        try:
            door.open()
        except DoorFailed as failure:
            return End("DOOR_FAILED", str(failure), 0.0)
        self._door = door
        if self._gateways:
            door.use(self._gateways)
        return None

    async def _load(self) -> Optional[End]:
        """Probe until the engine is ready, the more rarely the longer it takes: from the interval to one a second."""
        spec, began = self._engine, self._loop.time()
        address = self._engine_address()
        verdict = probe.Verdict(probe.NOT_YET, "not asked yet")
        while True:
            elapsed = self._loop.time() - began
            if elapsed >= spec.start_timeout_s:
                return End("NEVER_READY", f"not ready after {spec.start_timeout_s:g} s: {verdict.detail}")
            verdict = await probe.ready(spec, address)
            if verdict.outcome == probe.OK:
                return None
            if verdict.outcome == probe.UNGUARDED:
                return End("ENGINE_UNGUARDED", verdict.detail, 0.0)
            await asyncio.sleep(max(spec.health.interval_s, min(elapsed / 100, SLOWEST_PROBE_S)))

    async def _unasked(self, code: int) -> End:
        """Explain an end that nobody asked for; code 0 is no better than any other."""
        if code in (0, -signal.SIGTERM, 128 + signal.SIGTERM):
            await asyncio.wait({self._wanted}, timeout=RACE_S)
            if self._wanted.done():
                return self._wanted.result()
        await self._clear_away()
        lines = self._log.lines() if self._log is not None else []
        runtimes = CAUSES if self._engine.container is not None else ()
        cause = cause_of(lines, self._engine.causes + runtimes)
        how = f"signal {-code}" if code < 0 else f"code {code}"
        return End(cause.reason if cause else "ENGINE_EXIT", f"the engine ended by itself with {how}")

    async def _stop_engine(self, grace_s: Optional[float]) -> None:
        """Signal the engine, wait for the grace or until hastened, then kill its group."""
        pid = cast("int", self.pid)
        grace_s = self._engine.stop_grace_s if grace_s is None else min(grace_s, self._engine.stop_grace_s)
        if grace_s > 0 and not self._hastened.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, getattr(signal, f"SIG{self._engine.stop_signal}"))
            hastened = asyncio.ensure_future(self._hastened.wait())
            await asyncio.wait({self._exited, hastened}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
            hastened.cancel()
        if not self._exited.done():
            self._owner.note(f"{self.name}: killed")
            kill_group(pid)
            await asyncio.wait({self._exited}, timeout=SWEEP_S)

    async def _clear_away(self) -> None:
        """Kill whatever the engine has left behind, also in other groups, and read the last of its log."""
        pid = cast("int", self.pid)
        deadline = self._loop.time() + SWEEP_S
        while left := survivors([pid], [self._started.mark]):
            if self._loop.time() > deadline:
                self._owner.note(f"{self.name}: processes that cannot be killed are left: {left}")
                break
            kill_all(left)
            await asyncio.sleep(0.01)
        if self._log is not None:
            self._log.drain()

    async def _finish(self, end: End, code: Optional[int]) -> None:
        if self._draining is not None:
            self._draining.cancel()
        if self._log is not None:
            self._loop.remove_reader(self._log.pipe)
            self._log.close()
        tail = self._log.tail() if self._log is not None else []
        self.exit = {
            "code": code if code is not None and code >= 0 else None,
            "signal": -code if code is not None and code < 0 else None,
            "log_tail": tail,
        }
        self.life.move(ENDED, time.monotonic(), reason=end.reason, detail=end.detail)
        self._owner.note(f"{self.name}: ended, {end.reason}: {end.detail or 'as asked'}")
        self._owner.changed()
        if self._door is not None:
            await self._door.close()
        if self._started.places is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._started.places.socket)
            report = exit_report(reason=end.reason, detail=end.detail, image=self._image, **self.exit)
            trouble = write_whole(os.path.join(self._started.places.folder, EXIT), encode(report))
            if trouble:
                self._owner.note(f"{self.name}: {trouble}")

    # ----------------------------------------------------------------------------------------------------- small parts

    def _digest_found(self, digest: Optional[str]) -> None:
        """Learn the image's digest from the thread that has found it, unless everything is over by then."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._note_image, digest)

    def _note_image(self, digest: Optional[str]) -> None:
        self._image = digest
        self._owner.note(f"{self.name}: the image is {digest or 'of unknown digest'}")
        self._owner.changed(gently=True)

    def _door_note(self, text: str) -> None:
        self._owner.note(f"{self.name}: {text}")
        self._owner.changed(gently=True)

    def _read_log(self) -> None:
        log = cast("EngineLog", self._log)
        log.read()
        if log.ended:
            self._loop.remove_reader(log.pipe)

    def _log_line(self, line: str) -> None:
        if self.life.state == LOADING and self._progress.line(line):
            self._owner.changed(gently=True)

    def _engine_address(self) -> Address:
        if self._engine.listen == "unix":
            return Address(path=cast("Places", self._started.places).socket)
        return Address(host="127.0.0.1", port=cast("int", self._started.port))

    def _address(self) -> Optional[Dict[str, Any]]:
        if self.ended:
            return None
        if self._door is not None:
            return self._door.address
        address = self._engine_address()
        if address.path is not None:
            return {"kind": "unix", "path": address.path}
        return {"kind": "tcp", "host": address.host, "port": address.port}
