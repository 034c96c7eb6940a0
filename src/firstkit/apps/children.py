# SPDX-License-Identifier: Apache-2.0
"""The processes that `first up` and `first gateway` start: kept running, stopped in order, nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LOG_LIMIT = 10_000_000
LOG_LOOK_S = 5.0
READY_WITHIN_S = 30.0
SAME_DEATH_S = 1.0
QUICK_S = 5.0
LONGEST_PAUSE_S = 30.0
_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Adopt orphans of our children, so that nothing escapes and nothing stays a zombie where pid 1 does not reap."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans(own: set[int]) -> None:
    """Collect ended processes that were adopted; our own children are collected by whoever waits for them."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid in own:
            return
        os.waitpid(found.si_pid, os.WNOHANG)


def descendants(root: int) -> list[int]:
    """List the live descendants of a process, nearest first."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] not in "ZX":
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = list(parents.get(root, []))
    for pid in found:
        found.extend(parents.get(pid, []))
    return found


def kill_descendants() -> int:
    """Kill whatever is left below this process; the last resort of a stop."""
    left = descendants(os.getpid())
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return len(left)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One process: its `first` command line, and descriptors that it inherits."""

    name: str
    arguments: tuple[str, ...]
    descriptors: tuple[int, ...] = ()


class Child:
    """Run one part, again whenever it ends by itself; `failed` tells when it keeps ending at once.

    Whoever can do without the part for a while need not look at `failed`: it is tried for ever.
    """

    def __init__(self, part: Part, *, logs: Path, say: Callable[[str], None]) -> None:
        self.part = part
        self.log = logs / f"{part.name}.log"
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._others: list[asyncio.subprocess.Process] = []
        self._stopping = False
        self._quick = 0
        self.failed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._clerk: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Return the process id while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @property
    def pids(self) -> set[int]:
        """Return the process ids of all that run for this part: a successor and predecessors among them."""
        return {process.pid for process in self._running()}

    def _running(self) -> list[asyncio.subprocess.Process]:
        present = [self._process] if self._process is not None else []
        return [process for process in (*self._others, *present) if process.returncode is None]

    async def start(self) -> None:
        """Start it and keep it."""
        self._process = await self._spawn()
        self._task = asyncio.create_task(self._keep(), name=f"keep {self.part.name}")
        self._clerk = asyncio.create_task(self._keep_log_short(), name=f"log of {self.part.name}")

    async def replace(self) -> bool:
        """Start a successor on the same descriptors, wait until it is ready, then have the old one finish and end.

        The part must know `--ready-fd` and SIGQUIT. Where the successor does not come up, the old one stays.
        """
        if self._stopping or self._process is None:
            return False
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                successor = await self._spawn("--ready-fd", str(writer), descriptors=(writer,))
            finally:
                os.close(writer)
            self._others.append(successor)
            ready = await _told_ready(reader)
        finally:
            os.close(reader)
        if not ready:
            await _end(successor, signal.SIGKILL, 10.0)
            return False
        if self._stopping:
            return False
        if self._task is not None:
            self._task.cancel()
        old, self._process = self._process, successor
        self._task = asyncio.create_task(self._keep(), name=f"keep {self.part.name}")
        self._others = [old, *(one for one in self._others if one.returncode is None and one is not successor)]
        if old.returncode is None:
            old.send_signal(signal.SIGQUIT)
        return True

    async def _spawn(self, *more: str, descriptors: tuple[int, ...] = ()) -> asyncio.subprocess.Process:
        set_aside(self.log)
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "firstkit.apps.cli",
                *self.part.arguments,
                *more,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
                pass_fds=(*self.part.descriptors, *descriptors),
                preexec_fn=_end_with_parent,
            )
        finally:
            os.close(descriptor)

    async def _keep(self) -> None:
        """Start it again when it ends unasked, a little later each time it lives but shortly."""
        while self._process is not None:
            began = time.monotonic()
            code = await self._process.wait()
            if self._stopping:
                return
            self._quick = self._quick + 1 if time.monotonic() - began < QUICK_S else 0
            if self._quick >= 3:
                self.failed.set()
            self._say(f"{self.part.name} ended with {code}; starting it again (see {self.log})")
            await asyncio.sleep(min(LONGEST_PAUSE_S, 0.2 * 2 ** min(self._quick, 10)))
            self._process = await self._spawn()

    async def _keep_log_short(self) -> None:
        while True:
            await asyncio.sleep(LOG_LOOK_S)
            set_aside(self.log)

    async def stop(self, *, within_s: float, number: int = signal.SIGTERM) -> bool:
        """Ask it to end and wait; kill it when the time is over. Return whether it ended by itself."""
        self._stopping = True
        ended = await asyncio.gather(*(_end(process, number, within_s) for process in self._running()))
        for task in (self._task, self._clerk):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        return all(ended)

    def signal(self, number: int) -> None:
        """Send a signal to all that run for this part."""
        for process in self._running():
            process.send_signal(number)

    def last_words(self, lines: int = 5) -> Sequence[str]:
        """Return the end of its log."""
        try:
            return self.log.read_text(errors="replace").splitlines()[-lines:]
        except OSError:
            return ()


def set_aside(log: Path) -> None:
    """Keep a log bounded: beyond the limit its content is copied to `.log.1` in the place of what was there, and cut.

    Copied and not renamed, since several processes may have it open; each appends, so it goes on at the new end. What
    is written in the moment between copy and cut is lost, and everything where the disk takes no copy.
    """
    try:
        descriptor = os.open(log, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    with os.fdopen(descriptor, "r+b") as present:
        if os.fstat(descriptor).st_size <= LOG_LIMIT:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with contextlib.suppress(OSError), os.fdopen(os.open(log.with_suffix(".log.1"), flags, 0o600), "wb") as older:
            shutil.copyfileobj(present, older, 1 << 20)
        present.truncate(0)


async def _end(process: asyncio.subprocess.Process, number: int, within_s: float) -> bool:
    """Ask a process to end, kill it when the time is over; tell whether it ended by itself."""
    if process.returncode is not None:
        return True
    process.send_signal(number)
    try:
        await asyncio.wait_for(process.wait(), within_s)
    except TimeoutError:
        process.kill()
        await process.wait()
        return False
    return True


async def _told_ready(reader: int) -> bool:
    """Wait for the byte that says ready; False when the other end closes or the time is over."""
    loop = asyncio.get_running_loop()
    heard = asyncio.Event()
    loop.add_reader(reader, heard.set)
    try:
        await asyncio.wait_for(heard.wait(), READY_WITHIN_S)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(reader)
    return os.read(reader, 1) != b""


def _end_with_parent() -> None:
    """Have the kernel send TERM when the parent dies, however it dies (runs between fork and exec)."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


class Insistence:
    """Tell a second signal to end that means "at once" from a TERM that the kernel repeats.

    When a parent with several threads is killed, its children are handed on from thread to thread and get the signal of
    `_end_with_parent` at each death: within moments, and nobody has insisted on anything. INT comes from people alone.
    """

    def __init__(self) -> None:
        self._first_at: float | None = None

    def heard(self, number: int) -> bool:
        """Note one signal to end; True when it is another one that somebody has sent."""
        now = time.monotonic()
        if self._first_at is None:
            self._first_at = now
            return False
        return number == signal.SIGINT or now - self._first_at > SAME_DEATH_S
