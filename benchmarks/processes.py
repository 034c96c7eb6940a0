# SPDX-License-Identifier: Apache-2.0
"""Processes that a benchmark starts: each in a session of its own, with its output in a file, ended by its own pid."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.02


class NotReadyError(Exception):
    """Say that a process ended or did not become ready in time."""


@dataclass(frozen=True, slots=True)
class Process:
    """A started program."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    @classmethod
    def start(cls, name: str, argv: Sequence[str], *, folder: Path, env: Mapping[str, str] | None = None) -> Process:
        """Start a program in `folder`, with PATH, HOME and what `env` says: no proxy or key of ours leaks into it."""
        log = folder / f"{name}.log"
        plain = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "TMPDIR": str(folder),
        }
        with log.open("ab") as output:
            popen = subprocess.Popen(
                argv,
                cwd=folder,
                env=plain | dict(env or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return cls(name, popen, log)

    def wait_until(self, ready: Callable[[], bool], what: str, *, deadline_s: float) -> float:
        """Poll until `ready`, and give the seconds that took. What does not become ready is ended."""
        began = time.monotonic()
        while not ready():
            if self.popen.poll() is not None:
                self.stop()
                raise NotReadyError(f"{self.name} ended with {self.popen.returncode}: {self.tail()}")
            if time.monotonic() - began > deadline_s:
                self.stop()
                raise NotReadyError(f"{self.name}: waited {deadline_s:g} s for {what}: {self.tail()}")
            time.sleep(POLL_S)
        return time.monotonic() - began

    def tail(self) -> str:
        """Give the last lines of its output."""
        return " | ".join(self.log.read_text(errors="replace").splitlines()[-4:])

    def stop(self, *, grace_s: float = 15) -> None:
        """End it: ask, wait, then kill its whole session's process group."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(grace_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


def free_port() -> int:
    """Find a port on loopback that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
