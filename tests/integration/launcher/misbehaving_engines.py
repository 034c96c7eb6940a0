# SPDX-License-Identifier: Apache-2.0
"""Engines as small programs, named for how they misbehave: `python misbehaving_engines.py KIND ADDRESS [KEY_FILE]`."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class WellBehavedEngine:
    """Loads, tells how far it is, serves, and ends on TERM."""

    served = "demo"
    key: str | None = None

    def __init__(self, address: str, key_file: str | None) -> None:
        self.address = address
        if key_file is not None:
            self.key = Path(key_file).read_text()

    def load(self) -> None:
        print("Loading shards: 50% Completed", flush=True)

    def on_term(self) -> None:
        print("asked to end", flush=True)
        os._exit(0)

    def health(self) -> int:
        return 200

    def admits(self, headers: Any, path: str) -> bool:
        return self.key is None or path == "/health" or headers.get("Authorization") == f"Bearer {self.key}"

    def run(self) -> None:
        signal.signal(signal.SIGTERM, lambda *_: self.on_term())
        self.load()
        self.server().serve_forever(poll_interval=60)

    def server(self) -> ThreadingHTTPServer:
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if not engine.admits(self.headers, self.path):
                    return self.answer(401, b"{}")
                if self.path == "/health":
                    return self.answer(engine.health(), b"{}")
                if self.path == "/v1/models":
                    return self.answer(200, json.dumps({"data": [{"id": engine.served}]}).encode())
                return engine.other(self)

            def answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  its name there
                pass

            def address_string(self) -> str:
                return "test"

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            address_family = socket.AF_INET if self.address.isdigit() else socket.AF_UNIX

            def server_bind(self) -> None:
                if self.address_family == socket.AF_UNIX:
                    self.socket.bind(self.server_address)
                else:
                    super().server_bind()

        where: Any = ("127.0.0.1", int(self.address)) if self.address.isdigit() else self.address
        return Server(where, Handler)

    def other(self, request: Any) -> None:
        request.answer(404, b"{}")


class DribblingEngine(WellBehavedEngine):
    """Streams without end, and writes a file when its client has gone."""

    def other(self, request: Any) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                request.wfile.write(b"5\r\nhello\r\n")
                time.sleep(0.01)
        except OSError:
            Path("client-gone").touch()


class NeverReadyEngine(WellBehavedEngine):
    """Says 503 for ever."""

    def health(self) -> int:
        return 503


class MisnamedEngine(WellBehavedEngine):
    """Serves another model than it should."""

    served = "something-else"


class CrashingEngine(WellBehavedEngine):
    """Dies while it loads."""

    def load(self) -> None:
        print("torch.OutOfMemoryError: tried to allocate 80 GiB", flush=True)
        print("Engine core initialization failed. See root cause above.", flush=True)
        sys.exit(1)


class VanishingEngine(WellBehavedEngine):
    """Leaves with exit code 0 although nobody asked, as vLLM does when its engine core has died."""

    def load(self) -> None:
        threading.Timer(0.5, lambda: os._exit(0)).start()


class TermIgnoringEngine(WellBehavedEngine):
    """Does not care about TERM."""

    def on_term(self) -> None:
        print("ignored", flush=True)


class ForkingEngine(WellBehavedEngine):
    """Leaves children in its group, in another group, and in a session of their own, all deaf to TERM."""

    def load(self) -> None:
        for leave in (lambda: None, lambda: os.setpgid(0, 0), os.setsid):
            if os.fork() == 0:
                leave()
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                if os.fork() == 0:  # an orphan, and its parent gone
                    signal.pause()
                os._exit(0)


class HidingEngine(ForkingEngine):
    """The same, and its children show no environment (as programs do that retitle themselves)."""

    def load(self) -> None:
        child = "import os, signal; os.setsid(); os.fork() and os._exit(0); signal.pause()"
        if os.fork() == 0:
            os.execve(sys.executable, [sys.executable, "-c", child, "hidden-from-the-launcher", str(Path.cwd())], {})


class UnguardedEngine(WellBehavedEngine):
    """Has a key and asks nobody for it."""

    def admits(self, headers: Any, path: str) -> bool:
        return True


class TalkativeEngine(WellBehavedEngine):
    """Writes more log than anybody wants."""

    def load(self) -> None:
        for number in range(20_000):
            print(f"{number:06} " + "x" * 1000)
        print("the last line", flush=True)


class IndiscreetEngine(WellBehavedEngine):
    """Tells its key and its whole environment, then dies."""

    def load(self) -> None:
        print(json.dumps(dict(os.environ)), flush=True)
        print(f"descriptors {sorted(fd.name for fd in Path('/proc/self/fd').iterdir())}", flush=True)
        print(f"working in {Path.cwd()} which holds {list(Path().iterdir())}", flush=True)
        print(f"the key is {self.key}", flush=True)
        sys.exit(3)


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None).run()
