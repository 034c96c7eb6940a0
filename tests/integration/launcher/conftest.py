# SPDX-License-Identifier: Apache-2.0
"""A real launcher as a real process, its engines, and a control server that follows the documents exactly."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from firstkit.adapters.launcher_zip import build

ENGINES = Path(__file__).with_name("misbehaving_engines.py")
PATIENCE_S = 30.0
TOKEN = "control-token-that-nobody-may-see"


def eventually(what: Callable[[], Any], why: str = "") -> Any:
    """Give the first true value; fail after a while."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := what()):
        if time.monotonic() > deadline:
            pytest.fail(f"it never came to that: {why or what}")
        time.sleep(0.01)
    return value


def bearers(*texts: str) -> list[int]:
    """List living processes whose environment and command line hold all of the texts."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if folder.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "Z":
                continue
            seen = folder.joinpath("environ").read_bytes() + folder.joinpath("cmdline").read_bytes()
            if all(text.encode() in seen for text in texts):
                found.append(int(folder.name))
    return found


class Launched:
    """One started job."""

    def __init__(self, process: subprocess.Popen[bytes], run_dir: Path, job: dict[str, Any]) -> None:
        self.process = process
        self.run_dir = run_dir
        self.job = job

    def status(self) -> dict[str, Any]:
        try:
            return json.loads((self.run_dir / "status.json").read_text())
        except FileNotFoundError:
            return {"instances": [{"state": None}] * len(self.job["instances"])}

    def instance(self, number: int = 0) -> dict[str, Any]:
        return self.status()["instances"][number]

    def until(self, state: str, number: int = 0) -> dict[str, Any]:
        eventually(lambda: self.instance(number)["state"] == state, f"{state}, but {self.log()}")
        return self.instance(number)

    def desire(self, version: int, *, stop_job: bool = False, schema: int = 1, **wants: dict[str, Any]) -> None:
        instances = {name.replace("_", "-"): want for name, want in wants.items()}
        document = desired(self.job["job"], version, instances, stop_job=stop_job) | {"schema": schema}
        new = self.run_dir / "desired.json.new"
        new.write_text(json.dumps(document))
        new.replace(self.run_dir / "desired.json")

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)

    def exit(self, instance: str | None = None) -> dict[str, Any]:
        folder = self.run_dir / instance if instance else self.run_dir
        return json.loads((folder / "exit.json").read_text())

    def log(self) -> str:
        log = self.run_dir / "launcher.log"
        return log.read_text() if log.exists() else ""


def desired(job: str, version: int, instances: dict[str, Any], *, stop_job: bool = False) -> dict[str, Any]:
    return {
        "schema": 1,
        "job": job,
        "version": version,
        "instances": {name: {"within_s": None} | want for name, want in instances.items()},
        "stop_job": stop_job,
        "gateways": [],
        "a key of next month": True,
    }


def engine(
    kind: str, *, name: str = "i-a", loopback: bool = False, key: str | None = None, **more: Any
) -> dict[str, Any]:
    """Describe an instance whose engine is one of the doubles."""
    argv = ["{python}", "-u", str(ENGINES), kind, "{port}" if loopback else "{socket}"]
    spec: dict[str, Any] = {
        "kind": "command",
        "argv": [*argv, *(["{key_file}"] if key else [])],
        "env": {},
        "listen": "loopback" if loopback else "unix",
        "key": key,
        "health": {"path": "/health", "interval_s": 0.02, "timeout_s": 5},
        "serves": {"path": "/v1/models", "name": "demo"},
        "guarded": ["/v1/models"] if loopback else [],
        "start_timeout_s": 30,
        "stop_signal": "TERM",
        "stop_grace_s": 10,
        "progress": [
            {"match": r"Loading shards: (?P<percent>\d+)%", "from": 0.2, "to": 0.6, "text": "loading weights"}
        ],
        "causes": [{"match": "OutOfMemoryError", "reason": "OUT_OF_MEMORY"}],
        "files": [],
    }
    return {"instance": name, "slot": 0, "engine": spec | more}


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = build()
    path = tmp_path_factory.mktemp("launcher") / built.name
    path.write_bytes(built.data)
    return path


class ComputeNode:
    """Starts jobs, and looks at what they leave."""

    engine = staticmethod(engine)
    eventually = staticmethod(eventually)
    token = TOKEN

    def __init__(self, folder: Path, archive: Path) -> None:
        self.folder = folder
        self.archive = archive
        self.python = sys.executable
        self.launched: list[Launched] = []

    def launch(
        self,
        *instances: dict[str, Any],
        run: str = "run",
        env: dict[str, str] | None = None,
        before: Callable[[Path], None] = lambda _: None,
        **more: Any,
    ) -> Launched:
        """Start a job; `before` is called when its documents lie there."""
        run_dir = self.folder / run
        run_dir.mkdir(mode=0o700, exist_ok=True, parents=True)
        job: dict[str, Any] = {
            "schema": 1,
            "job": "j-test",
            "installation": "abc",
            "walltime_s": None,
            "margin_s": 30,
            "control": None,
            "door": {"kind": "local"},
            "fence_s": None,
            "instances": list(instances),
        }
        job |= more
        (run_dir / "job.json").write_text(json.dumps(job))
        (run_dir / "control.key").write_text(TOKEN + "\n")
        before(run_dir)
        return self.start(run_dir, job, env)

    def bearers(self, text: str) -> list[int]:
        """List living processes of this node's jobs that bear a text; other tests may run beside this one."""
        return bearers(text, str(self.folder))

    def start(self, run_dir: Path, job: dict[str, Any], env: dict[str, str] | None = None) -> Launched:
        process = subprocess.Popen(
            [self.python, self.archive, run_dir / "job.json"],
            env={"PATH": os.environ["PATH"], "TMPDIR": str(self.folder), **(env or {})},
            cwd=run_dir,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        launched = Launched(process, run_dir, job)
        self.launched.append(launched)
        return launched

    def close(self) -> None:
        for launched in self.launched:
            if launched.process.poll() is None:
                launched.process.kill()
                launched.process.wait(PATIENCE_S)
            assert launched.process.stderr is not None
            launched.process.stderr.close()
        eventually(lambda: not bearers(str(self.folder)), "nothing of any job is left")


@pytest.fixture
def node(tmp_path: Path, archive: Path) -> Iterator[ComputeNode]:
    """Give a node; whatever a test did, in the end nothing of its jobs is left."""
    made = ComputeNode(tmp_path, archive)
    yield made
    made.close()


class ControlServer:
    """The launcher's side of a gateway: holds answers until there is news, as the documents say."""

    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.statuses: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.dropped = 0
        self.desired: dict[str, Any] | None = None
        self.answer_with: int | None = None
        self.hold = True
        control = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, answer = control.take(self.path, dict(self.headers), json.loads(body), self.connection)
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  its name there
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def take(self, path: str, headers: dict[str, str], status: dict[str, Any], connection: Any) -> tuple[int, bytes]:
        assert path == "/control/v1/jobs/j-test/status"
        with self.lock:
            self.statuses.append(status)
            self.headers.append(headers)
            if headers.get("Authorization") != f"Bearer {TOKEN}":
                return 401, b""
            have, wait_s = int(headers["X-First-Desired-Version"]), float(headers["Prefer"].removeprefix("wait="))
            deadline = time.monotonic() + wait_s
            connection.setblocking(False)
            try:
                while (left := deadline - time.monotonic()) > 0 and self.hold:
                    if self.answer_with or (self.desired and self.desired["version"] > have):
                        break
                    with contextlib.suppress(BlockingIOError):
                        if connection.recv(1) == b"":
                            self.dropped += 1
                            return 204, b""
                    self.lock.wait(min(left, 0.02))
            except OSError:
                self.dropped += 1
                return 204, b""
            finally:
                with contextlib.suppress(OSError):
                    connection.setblocking(True)
            if self.answer_with is not None:
                return self.answer_with, b""
            return (200, json.dumps(self.desired).encode()) if self.desired else (204, b"")

    def desire(self, version: int, *, stop_job: bool = False, **wants: dict[str, Any]) -> None:
        instances = {name.replace("_", "-"): want for name, want in wants.items()}
        with self.lock:
            self.desired = desired("j-test", version, instances, stop_job=stop_job)
            self.lock.notify_all()

    def last(self) -> dict[str, Any]:
        with self.lock:
            return self.statuses[-1] if self.statuses else {"state": None, "instances": [{"state": None}]}

    def until(self, state: str) -> dict[str, Any]:
        eventually(lambda: self.last()["instances"][0]["state"] == state, state)
        return self.last()

    def close(self) -> None:
        self.hold = False
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def control_server() -> Iterator[ControlServer]:
    server = ControlServer()
    yield server
    server.close()
