# SPDX-License-Identifier: Apache-2.0
"""Configurations with paced engines, one running beside the test, and clients that watch a stream byte by byte."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from installation import Installation

ENGINE = Path(__file__).with_name("paced_engine.py")
EVERY_PATH = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"]
PATIENCE_S = 60.0


def local_cluster(**more: Any) -> dict[str, Any]:
    """Write a cluster on this machine."""
    here = {"scheduler": {"kind": "local"}, "runner": {"kind": "local"}, "link": {"kind": "local"}}
    return here | {"run_dir": "$DATA/clusters/here"} | more


def paced(model: str, *, arguments: tuple[str, ...] = (), update: str = "roll", **scaling: Any) -> dict[str, Any]:
    """Write a deployment whose engine is the paced one, on the cluster `here`."""
    argv = [sys.executable, str(ENGINE), "--socket", "{socket}", "--name", "{name}", *arguments]
    scaling = {"min": 1, "max": 1, "in_flight": 64} | scaling
    engine = {"kind": "command", "argv": argv, "paths": EVERY_PATH}
    return {"model": model, "cluster": "here", "engine": engine, "scaling": scaling, "update": update}


def config(
    *,
    deployments: dict[str, Any],
    gateway: dict[str, Any] | None = None,
    controller: dict[str, Any] | None = None,
    models: dict[str, Any] | None = None,
    clusters: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a whole configuration with a controller that does not wait long."""
    patience = {"tick": "200ms", "observe": "500ms", "settle": "5s", "backoff_first": "200ms", "failures_to_hold": 2}
    named = {item["model"]: {} for item in deployments.values()}
    return {
        "gateway": gateway or {},
        "store": "sqlite:///first.db",
        "controller": patience | (controller or {}),
        "clusters": {"here": local_cluster()} if clusters is None else clusters,
        "models": named | (models or {}),
        "deployments": deployments,
    }


class Beside:
    """A paced engine that the test itself runs, for `engine: external`."""

    def __init__(self, port: int, name: str) -> None:
        self.port = port
        self.name = name

    def deployment(self, **more: Any) -> dict[str, Any]:
        engine = {"kind": "external", "url": f"http://127.0.0.1:{self.port}", "paths": EVERY_PATH}
        return {"model": self.name, "engine": engine | more, "scaling": {"in_flight": 4000}}

    def state(self) -> dict[str, Any]:
        """Ask it what it has seen."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request("GET", "/seen")
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def last(self) -> tuple[dict[str, str], bytes]:
        """Return headers and body of the last request, as they came."""
        one = self.state()["seen"][-1]
        lines = base64.b64decode(one["head"]).decode("latin-1").split("\r\n")[1:]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        return headers, base64.b64decode(one["body"])


@contextlib.contextmanager
def beside(name: str) -> Generator[Beside]:
    """Run a paced engine on a free port."""
    process = subprocess.Popen(
        [sys.executable, str(ENGINE), "--name", name], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        lines = iter(process.stdout.readline, b"")
        port = next(int(line) for line in lines if line.strip().isdigit())
        yield Beside(port, name)
    finally:
        process.kill()
        process.wait(PATIENCE_S)
        process.stdout.close()


def engine_state(running: Installation, instance: str) -> dict[str, Any]:
    """Ask a paced engine that the installation runs, over its own socket, what it has seen."""
    words = Path(f"/proc/{running.engine_pid(instance)}/cmdline").read_bytes().decode().split("\0")
    connection = http.client.HTTPConnection("localhost", timeout=PATIENCE_S)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.sock.connect(words[words.index("--socket") + 1])
        connection.request("GET", "/seen")
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def asks(text: str, *, model: str, stream: bool = False, **more: Any) -> dict[str, Any]:
    """Write a chat request."""
    return {"model": model, "messages": [{"role": "user", "content": text}], "stream": stream} | more


class Stream(threading.Thread):
    """One streamed request in a thread of its own: everything that came, and how it ended."""

    def __init__(
        self,
        running: Installation,
        body: dict[str, Any],
        *,
        headers: dict[str, str] | None = None,
        path: str = "/v1/chat/completions",
    ) -> None:
        super().__init__(daemon=True)
        self._running = running
        self._body = body
        self._path = path
        self._headers = {"authorization": f"Bearer {running.key}", "content-type": "application/json"} | (headers or {})
        self._came = threading.Condition()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.data = b""
        self.over = False
        self.broken: Exception | None = None
        self.over_at = 0.0
        self.start()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._running.port, timeout=PATIENCE_S)
        try:
            connection.request("POST", self._path, json.dumps(self._body), self._headers)
            answer = connection.getresponse()
            self.headers = {name.lower(): value for name, value in answer.getheaders()}
            self.status = answer.status
            while piece := answer.read1(65536):
                with self._came:
                    self.data += piece
                    self._came.notify_all()
        except (OSError, http.client.HTTPException) as error:
            self.broken = error
        finally:
            connection.close()
            self.over_at = time.monotonic()
            with self._came:
                self.over = True
                self._came.notify_all()

    def wait_for(self, text: bytes, *, within_s: float = PATIENCE_S) -> None:
        """Wait until something has come."""
        with self._came:
            came = self._came.wait_for(lambda: text in self.data or self.over, within_s)
        assert came, f"{text!r} did not come: {self.data[-500:]!r}"
        assert text in self.data, f"the stream ended without {text!r}: {self.status} {self.data[-500:]!r}"

    def end(self, *, within_s: float = PATIENCE_S) -> bytes:
        """Wait until the answer is over, and return all of it."""
        self.join(within_s)
        assert self.over, f"the answer goes on: {self.data[-500:]!r}"
        return self.data

    @property
    def text(self) -> str:
        """Join the tokens of a chat stream."""
        return "".join(
            (choice[0]["delta"].get("content") or "") for event in self.events if (choice := event.get("choices"))
        )

    @property
    def events(self) -> list[dict[str, Any]]:
        lines = [line[6:] for line in self.data.split(b"\n") if line.startswith(b"data: ")]
        return [json.loads(line) for line in lines if line != b"[DONE]"]

    def assert_whole(self, tokens: int) -> None:
        """Fail unless every token came once, in order, and the end after them."""
        self.end()
        assert self.broken is None, f"broken: {self.broken!r}"
        assert self.status == 200, f"{self.status} {self.data[-500:]!r}"
        assert self.text == "".join(f"w{number} " for number in range(tokens)), self.data[-300:]
        assert self.data.endswith(b"data: [DONE]\n\n"), self.data[-300:]

    def assert_cut_with_an_error(self) -> dict[str, Any]:
        """Fail unless the stream ended with an error event and without [DONE]; return the error."""
        self.end()
        assert self.broken is None, f"the framing broke: {self.broken!r}"
        assert b"[DONE]" not in self.data
        assert "error" in self.events[-1], self.data[-300:]
        return self.events[-1]["error"]


def gone(port: int) -> bool:
    """Tell whether nobody listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
