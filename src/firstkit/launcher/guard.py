# SPDX-License-Identifier: Apache-2.0
"""The guard: a forked bystander that cleans up behind a launcher killed with SIGKILL.

The kernel takes the engines themselves along (PR_SET_PDEATHSIG), but not what they have started, nor folders in /tmp.
The guard sleeps in a read on a pipe whose other end only the launcher holds; end of file without a farewell is its cue.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import List

from .folders import remove_tree
from .processes import kill_all, survivors

SWEEP_S = 5.0


class Guard:
    """The launcher's end of the pipe. If no guard could be made, telling it things does nothing."""

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self._pipe = pipe

    def engine(self, pid: int, mark: str) -> None:
        self._tell(f"engine {pid} {mark}")

    def folder(self, path: str) -> None:
        self._tell(f"folder {path}")

    def _tell(self, line: str) -> None:
        with contextlib.suppress(OSError):
            os.write(self._pipe, line.encode("utf-8", "surrogateescape") + b"\n")

    def dismiss(self) -> None:
        """Let it go: everything has been cleaned up. The guard ends by itself; whoever reaps children reaps it."""
        self._tell("farewell")
        with contextlib.suppress(OSError):
            os.close(self._pipe)
        self._pipe = -1


def post_guard() -> Guard:
    """Fork the guard; to be called before there are threads, an event loop, or open files worth keeping."""
    read, write = os.pipe()
    try:
        pid = os.fork()
    except OSError:
        os.close(read)
        os.close(write)
        return Guard(-1, -1)
    if pid == 0:
        try:
            os.close(write)
            _stand_by(read)
        finally:
            os._exit(0)
    os.close(read)
    return Guard(pid, write)


def _stand_by(pipe: int) -> None:
    """Leave the launcher's session and output, so that a kill of its group spares us, and wait for its end."""
    os.setsid()
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGPIPE"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.chdir("/")
    told = b""
    while chunk := os.read(pipe, 65536):
        told += chunk
    lines = [line.decode("utf-8", "surrogateescape").split(" ") for line in told.split(b"\n")]
    if ["farewell"] not in lines:
        _clean_up(lines)


def _clean_up(lines: List[List[str]]) -> None:
    sessions = [int(line[1]) for line in lines if line[0] == "engine"]
    marks = [line[2] for line in lines if line[0] == "engine"]
    deadline = time.monotonic() + SWEEP_S
    while time.monotonic() < deadline:
        left = survivors(sessions, marks)
        if not left:
            break
        kill_all(left)
        time.sleep(0.05)
    for line in lines:
        if line[0] == "folder":
            remove_tree(" ".join(line[1:]))
