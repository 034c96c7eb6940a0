# SPDX-License-Identifier: Apache-2.0
"""A whole installation for the tests: `first up` as a process of its own, as a user would start it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any


def free_port() -> int:
    """Find a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Installation:
    """One running `first up`; ended by its pid."""

    def __init__(self, process: subprocess.Popen[bytes], *, data: Path, port: int, output: Path) -> None:
        self.process = process
        self.data = data
        self.port = port
        self.output = output

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def key(self) -> str:
        return (self.data / "api-key").read_text().strip()

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def log(self, part: str) -> str:
        path = self.data / "logs" / f"{part}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_ready(self, *, within_s: float = 60.0) -> None:
        self.until(lambda: "first: ready" in self.said(), within_s=within_s)

    def until(self, condition: Any, *, within_s: float = 30.0) -> Any:
        """Look until the condition holds; fails with everything that was said when it does not in time."""
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            if value := condition():
                return value
            if self.process.poll() is not None:
                raise AssertionError(f"first up ended with {self.process.returncode}:\n{self.said()}")
            time.sleep(0.02)
        logs = "\n".join(f"--- {part}\n{self.log(part)[-3000:]}" for part in ("gateway", "api", "controller"))
        raise AssertionError(f"not within {within_s} s; said:\n{self.said()}\n{logs}")

    def request(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None, key: str | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Ask over the public port with the installation's own key."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        return _ask(connection, method, path, body, {"authorization": f"Bearer {key or self.key}"} | (headers or {}))

    def admin(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, str], bytes]:
        """Ask on the admin socket."""
        connection = http.client.HTTPConnection("localhost", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(30)
        connection.sock.connect(str(self.data / "run" / "admin.sock"))
        return _ask(connection, method, path, body, {})

    def models(self) -> dict[str, dict[str, Any]]:
        status, _, body = self.request("GET", "/v1/models")
        assert status == 200, body
        return {item["id"]: item["first"] for item in json.loads(body)["data"]}

    def part_pid(self, part: str) -> int:
        """Find the process of a part below `first up`."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid and part.encode() in words:
                    return int(entry.name)
        raise AssertionError(f"no process of {part}")

    def stop(self, *, within_s: float = 60.0) -> int:
        """End it as Ctrl-C does and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(within_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
                raise AssertionError(f"first up did not stop:\n{self.said()}") from None
        return self.process.returncode


def _ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any, headers: dict[str, str]
) -> tuple[int, dict[str, str], bytes]:
    try:
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            headers = {"content-type": "application/json"} | headers
        connection.request(method, path, data, headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


@contextlib.contextmanager
def installation(
    folder: Path, *, config: str | None = None, arguments: tuple[str, ...] = ()
) -> Generator[Installation]:
    """Start `first up` in a folder of its own; stop it at the end, and see that nothing is left of it."""
    data = folder / "state"
    port = free_port()
    command = [sys.executable, "-m", "firstkit.apps.cli", "up", "--port", str(port), "--data", str(data), *arguments]
    if config is not None:
        path = folder / "first.yaml"
        path.write_text(config.replace("$DATA", str(data)))
        command += ["--config", str(path)]
    output = folder / "up.out"
    with output.open("wb") as sink:
        process = subprocess.Popen(
            command, stdout=sink, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=folder, env=_environment()
        )
    running = Installation(process, data=data, port=port, output=output)
    try:
        yield running
    finally:
        running.stop()
        left = _processes_naming(str(data))
        assert not left, f"left behind: {left}"


def _environment() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("FIRST_", "OPENAI_", "ANTHROPIC_"))
    }


def _processes_naming(text: str) -> list[str]:
    """List live processes whose command line names a folder."""
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if text in command:
                    found.append(f"{entry.name} {command}")
    return found
