# SPDX-License-Identifier: Apache-2.0
"""Load in a closed loop: some connections, each with one request under way.

wrk where wall time matters, a client of our own for Unix sockets, warm-ups and counted requests.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from benchmarks.figures import distribution
from benchmarks.target import Target

HERE = Path(__file__).resolve().parent
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
REQUEST_DEADLINE_S = 60


@dataclass(kw_only=True)
class Load:
    """What a client saw."""

    requests: int
    errors: int
    duration_s: float
    latency_us: dict[str, float] = field(default_factory=dict[str, float])
    why: str = ""


def wrk(target: Target, body: bytes, *, connections: int, seconds: float) -> Load:
    """Send the same request for some seconds with wrk, one thread."""
    program = shutil.which("wrk")
    if program is None:
        raise SystemExit("benchmarks: wrk is missing: apt-get install wrk")
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        argv = [
            program,
            "-t1",
            f"-c{connections}",
            f"-d{max(1, round(seconds))}s",
            "--latency",
            "--timeout",
            "60s",
            "-s",
            str(HERE / "wrk.lua"),
            target.url,
        ]
        env = {**os.environ, "BENCH_KEY": target.key, "BENCH_BODY": file.name}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=seconds + 90, check=False)
    found = re.search(r"JSON(\{.*\})", done.stdout)
    if not found:
        return Load(requests=0, errors=1, duration_s=seconds, why=(done.stdout + done.stderr)[-300:])
    return Load(**json.loads(found.group(1)))


class Client(asyncio.Protocol):
    """One keep-alive connection that sends the same request until it has sent its share or the time is over."""

    def __init__(self, request: bytes, *, requests: int, until_s: float) -> None:
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.latencies_ns: list[int] = []
        self.errors = 0
        self.why = ""
        self._request = request
        self._left = requests
        self._until_s = until_s
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._sent_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class
        self._send()

    def _send(self) -> None:
        assert self._transport is not None
        if self._left <= 0 or time.monotonic() >= self._until_s:
            self._transport.close()
            return
        self._left -= 1
        self._buffer = b""
        self._sent_ns = time.monotonic_ns()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = LENGTH.search(self._buffer, 0, end)
        if length is not None:
            if len(self._buffer) < end + 4 + int(length[1]):
                return
        elif not (CHUNKED.search(self._buffer, 0, end) and self._buffer.endswith(b"0\r\n\r\n")):
            return
        if self._buffer.startswith(b"HTTP/1.1 200"):
            self.latencies_ns.append(time.monotonic_ns() - self._sent_ns)
        else:
            self.errors += 1
            self.why = self.why or self._buffer[:300].decode(errors="replace")
        self._sent_ns = 0
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._sent_ns:
            self.errors += 1
            self.why = self.why or f"the connection was closed under a request: {exc}"
        if not self.finished.done():
            self.finished.set_result(None)


async def loop(target: Target, body: bytes, *, connections: int, requests: int = 10**9, seconds: float = 3600) -> Load:
    """Send the same request over some connections, either so many times or for so long."""
    request = target.request(body)
    began = time.monotonic()

    def make() -> Client:
        return Client(request, requests=-(-requests // connections), until_s=began + seconds)

    clients = [await target.connect(make) for _ in range(connections)]
    await asyncio.wait_for(asyncio.gather(*(client.finished for client in clients)), seconds + REQUEST_DEADLINE_S)
    latencies = [ns for client in clients for ns in client.latencies_ns]
    return Load(
        requests=len(latencies),
        errors=sum(client.errors for client in clients),
        duration_s=time.monotonic() - began,
        latency_us=distribution(latencies, scale=1e-3),
        why=next((client.why for client in clients if client.why), ""),
    )
