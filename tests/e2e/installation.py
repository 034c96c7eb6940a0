# SPDX-License-Identifier: Apache-2.0
"""A whole installation for the tests: `first up` as a process of its own, as a user would start it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any


def free_port() -> int:
    """Find a port nobody listens on, below those that the kernel gives to whoever connects in the meantime."""
    chance = random.SystemRandom()
    for _ in range(1000):
        port = chance.randrange(15_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


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

    def until(self, condition: Any, *, within_s: float = 45.0) -> Any:
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

    def instances(self, *, ended: bool = False) -> list[dict[str, Any]]:
        """List instances as an operator sees them."""
        status, _, body = self.admin("GET", f"/api/v1/instances?ended={str(ended).lower()}")
        assert status == 200, body
        return json.loads(body)["data"]

    def ready_instances(self, model: str) -> list[str]:
        return [one["id"] for one in self.instances() if one["model"] == model and one["state"] == "READY"]

    def jobs(self) -> list[dict[str, Any]]:
        status, _, body = self.admin("GET", "/api/v1/jobs")
        assert status == 200, body
        return json.loads(body)["data"]

    def wait_hot(self, *models: str, within_s: float = 60.0) -> None:
        """Wait until each of the models has an instance that serves, as a user can see."""
        self.wait_answering(within_s=within_s)

        def hot() -> bool:
            shown = self.models()
            return all(model in shown and shown[model]["state"] == "hot" for model in models)

        self.until(hot, within_s=within_s)

    def wait_answering(self, *, within_s: float = 45.0) -> None:
        """Wait until the gateway and the api answer."""

        def answers() -> bool:
            with contextlib.suppress(OSError, http.client.HTTPException):
                return self.key_file.exists() and self.request("GET", "/v1/models")[0] == 200
            return False

        self.until(answers, within_s=within_s)

    @property
    def key_file(self) -> Path:
        return self.data / "api-key"

    def engine_pid(self, instance: str) -> int:
        """Find the process of an instance's engine: the nearest to the launcher that names the instance's folder."""
        found = [pid for pid, words in processes() if any(f"/{instance}/" in word for word in words)]
        assert found, f"no process of {instance}"
        return next(pid for pid in found if parent_of(pid) not in found)

    def launcher_pid(self, job: str) -> int:
        """Find the process of a job's launcher by the folder that it works in."""
        for pid, words in processes():
            with contextlib.suppress(OSError):
                here = Path(f"/proc/{pid}/cwd").readlink().name
                if here == job and any("launcher-" in word for word in words):
                    return pid
        raise AssertionError(f"no launcher of {job}")

    def reload(self, config: str | dict[str, Any]) -> None:
        """Change the configuration file and have it read again, as an operator does."""
        (self.data.parent / "first.yaml").write_text(as_text(config, self.data))
        self.process.send_signal(signal.SIGHUP)

    def first(self, *arguments: str, within_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command of `first` as a user of this installation."""
        env = environment() | {"FIRST_BASE_URL": self.base_url, "FIRST_API_KEY": self.key}
        command = [sys.executable, "-m", "firstkit.apps.cli", *arguments]
        return subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=within_s, cwd=self.data.parent, check=False
        )

    def part_pid(self, part: str) -> int:
        """Find the process of a part below `first up`."""
        found = self.part_pids(part)
        assert len(found) == 1, f"{len(found)} processes of {part}"
        return found[0]

    def part_pids(self, part: str) -> list[int]:
        """Find all processes of a part below `first up`, oldest first."""
        return [pid for pid, words in processes() if part in words and parent_of(pid) == self.process.pid]

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
    folder: Path, *, config: str | dict[str, Any] | None = None, arguments: tuple[str, ...] = ()
) -> Generator[Installation]:
    """Start `first up` in a folder of its own; stop it at the end, and see that nothing is left of it."""
    data = folder / "state"
    port = free_port()
    command = [sys.executable, "-m", "firstkit.apps.cli", "up", "--port", str(port), "--data", str(data), *arguments]
    if config is not None:
        path = folder / "first.yaml"
        path.write_text(as_text(config, data))
        command += ["--config", str(path)]
    output = folder / "up.out"
    with output.open("wb") as sink:
        process = subprocess.Popen(
            command, stdout=sink, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=folder, env=environment()
        )
    running = Installation(process, data=data, port=port, output=output)
    try:
        yield running
    finally:
        running.stop()
        left = processes_naming(str(data))
        assert not left, f"left behind: {left}"
        crashed = [part for part in ("gateway", "api", "controller") if "Traceback" in running.log(part)]
        assert not crashed, f"{crashed}: {running.log(crashed[0])[-5000:]}"


def environment() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("FIRST_", "OPENAI_", "ANTHROPIC_"))
    }


def as_text(config: str | dict[str, Any], data: Path) -> str:
    """Write a configuration (JSON is YAML) with `$DATA` replaced by the state folder."""
    text = config if isinstance(config, str) else json.dumps(config, indent=1)
    return text.replace("$DATA", str(data))


def processes() -> list[tuple[int, list[str]]]:
    """List live processes with their command lines."""
    found: list[tuple[int, list[str]]] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if words != [""]:
                    found.append((int(entry.name), words))
    return sorted(found)


def parent_of(pid: int) -> int:
    """Return the parent's pid, 0 when the process has gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def processes_naming(text: str) -> list[str]:
    """List live processes whose command line names a folder, or that work in it."""
    found: list[str] = []
    for pid, words in processes():
        if pid == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if any(text in word for word in words) or Path(f"/proc/{pid}/cwd").readlink().is_relative_to(text):
                found.append(f"{pid} {' '.join(words)}")
    return found
