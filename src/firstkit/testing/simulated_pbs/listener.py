# SPDX-License-Identifier: Apache-2.0
"""The server's program: commands and nodes of the simulated PBS come to its socket."""

from __future__ import annotations

import json
import os
import signal
import socketserver
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from firstkit.testing.simulated_pbs.server import Server

TICK_S = 0.03


class _Conversation(socketserver.StreamRequestHandler):
    """One connection: of a command (a question, an answer), or of a node (as long as it lives)."""

    def handle(self) -> None:
        server = cast("_Listener", self.server).pbs
        line = self.rfile.readline()
        if not line:
            return
        first = json.loads(line)
        if "mom" not in first:
            with server.lock:
                answer = server.answer(first)
            self.send(answer)
            return
        with server.lock:
            server.mom_came(first["mom"], self.send, first["jobs"])
        try:
            for told in self.rfile:
                with server.lock:
                    server.mom_says(json.loads(told))
        finally:
            with server.lock:
                server.mom_went(first["mom"], self.send)

    def send(self, message: dict[str, Any]) -> None:
        with suppress(OSError):
            self.wfile.write(json.dumps(message).encode() + b"\n")


class _Listener(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 128
    pbs: Server


def main(folder: Path) -> None:
    """Serve until killed; `ready` is said on standard output once commands are answered."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    path = folder / "server.sock"
    path.unlink(missing_ok=True)
    with _Listener(str(path), _Conversation) as listener:
        listener.pbs = Server(folder)
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        parent = os.getppid()
        while os.getppid() == parent:  # never outlives the test that started it
            time.sleep(TICK_S)
            with listener.pbs.lock:
                listener.pbs.tick()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
