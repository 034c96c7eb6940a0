# SPDX-License-Identifier: Apache-2.0
"""firstkit itself, with everything on: key, admission, leases, metering, metrics, request log."""

from __future__ import annotations

import json
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from benchmarks import accounting
from benchmarks.contenders import Running, Site
from benchmarks.processes import Process, free_port
from benchmarks.target import Target, completes

READY_DEADLINE_S = 60
IN_FLIGHT = 2048  # above what any phase has open, so that nothing waits
PROGRAM = Path(sys.executable).parent / "first"


class Firstkit:
    """`first up` with the imitated engines as external ones: one installation for each kind of listener."""

    name = "firstkit"
    skips = frozenset({"left-unary"})  # its adapter for unknown engines declares that they cannot abort plain answers

    def missing(self) -> str:
        return "" if PROGRAM.exists() else "firstkit is not installed in this environment: make install"

    def start(self, site: Site) -> Running:
        folder = site.own(self.name)
        kinds: dict[str, Sequence[str]] = {
            "tcp": [f"http://127.0.0.1:{port}" for port in site.ports],
            "unix": [f"unix:{path}" for path in site.sockets],
        }
        if site.tls_ports:
            kinds["tls"] = [f"https://127.0.0.1:{port}" for port in site.tls_ports]
        with ThreadPoolExecutor() as pool:
            pending = {kind: pool.submit(_start, kind, folder, site, urls) for kind, urls in kinds.items()}
        failed = [error for future in pending.values() if (error := future.exception())]
        started = {kind: future.result() for kind, future in pending.items() if not future.exception()}
        if failed:
            for process, _, _ in started.values():
                process.stop()
            raise failed[0]
        return Running(
            version=version("firstkit"),
            processes=[process for process, _, _ in started.values()],
            targets={kind: target for kind, (_, target, _) in started.items()},
            notes="`first up`: gateway, api and controller; key, admission, leases, metering, metrics, request log",
            ready_s={kind: round(took, 2) for kind, (_, _, took) in started.items()},
        )


def configuration(*, listen: str, urls: Sequence[str], model: str, tls: Mapping[str, str] | None = None) -> str:
    """Write a configuration of external engines. JSON is YAML."""
    gateway: dict[str, object] = {"listen": listen, "body_limit": "64MB"}
    if tls:
        gateway["tls"] = dict(tls)
    deployments = {
        f"mock-{n}": {
            "model": model,
            "engine": {"kind": "external", "url": url},
            "scaling": {"in_flight": IN_FLIGHT},
        }
        for n, url in enumerate(urls)
    }
    return json.dumps({"gateway": gateway, "models": {model: {}}, "deployments": deployments}, indent=1)


def _start(kind: str, folder: Path, site: Site, urls: Sequence[str]) -> tuple[Process, Target, float]:
    own = folder / kind
    own.mkdir()
    port, unix = (0, str(own / "gateway.sock")) if kind == "unix" else (free_port(), "")
    tls = {"certificate": str(site.certificate), "key": str(site.private_key)} if kind == "tls" else None
    file, data = own / "first.yaml", own / "data"
    file.write_text(
        configuration(listen=f"unix:{unix}" if unix else f"127.0.0.1:{port}", urls=urls, model=site.model, tls=tls)
    )
    env = {"SSL_CERT_FILE": str(site.certificate)} if kind == "tls" else {}
    argv = [str(PROGRAM), "up", "--config", str(file), "--data", str(data)]
    process = Process.start(f"firstkit-{kind}", argv, folder=own, env=env)
    took = process.wait_until(lambda: "first: ready" in process.log.read_text(), "first: ready", deadline_s=60)
    key = (data / "api-key").read_text().strip()
    target = Target(
        roots=(process.pid,),
        gateway=gateway_pid(process.pid),
        port=port,
        unix=unix,
        tls=bool(tls),
        key=key,
        model=site.model,
        owes=lambda: unsettled(data / "run" / "admin.sock"),
    )
    process.wait_until(lambda: completes(target), "a completion", deadline_s=READY_DEADLINE_S)
    return process, target, took


def unsettled(admin: Path) -> float:
    """Ask the gateway how many bytes of records it has yet to move into the store."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(admin))
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = connection.makefile("rb").read().decode()
    found = re.search(r"^first_spool_bytes(?:\{[^}]*\})? (\S+)", answer, re.MULTILINE)
    if found is None:
        raise ValueError("the metrics do not tell first_spool_bytes")
    return float(found[1])


def gateway_pid(root: int) -> int:
    """Find the gateway under `first up` by its command line; 0 when there is none."""
    return next((pid for pid in accounting.tree([root]) if pid != root and "gateway" in accounting.argv(pid)), 0)
