# SPDX-License-Identifier: Apache-2.0
"""The imitated engine (mock.c): built, started, steered and ended here."""

from __future__ import annotations

import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import Process, free_port
from benchmarks.target import Target, get

HERE = Path(__file__).resolve().parent
BUILD = HERE / ".build"
MODEL = "mock-model"
INSTANCES = 2


def build() -> Path:
    """Compile mock.c unless that is done, and give the program's path."""
    source, program = HERE / "mock.c", BUILD / "mock"
    if program.exists() and program.stat().st_mtime > source.stat().st_mtime:
        return program
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise SystemExit("benchmarks: no C compiler for mock.c: install gcc")
    BUILD.mkdir(exist_ok=True)
    subprocess.run([compiler, "-O2", "-std=gnu11", "-Wall", "-o", str(program), str(source)], check=True)
    return program


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """A running imitation of two instances, each on a port and a Unix socket; also the baseline of all latencies."""

    process: Process
    ports: tuple[int, ...]
    sockets: tuple[str, ...]

    @classmethod
    def start(cls, folder: Path) -> Upstream:
        """Start it with its sockets in `folder`."""
        ports = tuple(free_port() for _ in range(INSTANCES))
        sockets = tuple(str(folder / f"engine-{n}.sock") for n in range(INSTANCES))
        process = Process.start("mock", [str(build()), "-m", MODEL, *map(str, ports), *sockets], folder=folder)
        process.wait_until(lambda: _accepts(ports[-1]), "the imitated engine to listen", deadline_s=5)
        return cls(process=process, ports=ports, sockets=sockets)

    def target(self) -> Target:
        """Give the first instance as a target of load."""
        return Target(roots=(self.process.pid,), port=self.ports[0], model=MODEL)

    def set(self, **settings: int) -> None:
        """Change settings; see the head of mock.c for their names."""
        self.ask("ctl?" + "&".join(f"{name}={value}" for name, value in settings.items()))

    def reset(self, *, delay_us: int = 20_000) -> None:
        """Go back to the settings that every phase starts with."""
        self.set(delay_us=delay_us, unary_delay_us=0, ttft_us=0, align=1, sum=0)

    def stats(self) -> dict[str, Any]:
        """Read the counters."""
        return self.ask("stats")

    def ask(self, path: str) -> dict[str, Any]:
        """GET one of the control paths."""
        return get(f"http://127.0.0.1:{self.ports[0]}/{path}")


def _accepts(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0
