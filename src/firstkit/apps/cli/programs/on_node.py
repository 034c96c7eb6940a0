# SPDX-License-Identifier: Apache-2.0
"""Stands where an engine would in the doctor's test job, and tells what an engine would find on this node.

on_node.py SOCKET QUESTIONS: answers GET on the Unix socket with a report in JSON, and keeps the same beside QUESTIONS
as report.json for whoever cannot reach the socket. Standard library only; Python 3.9 and later.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import platform
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

EVERY_S = 0.5
DIAL_S = 5.0
GPUS = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
LISTENS = "0A"


def listening() -> dict[str, str]:
    """Map the inode of each TCP socket that listens on this node to its port."""
    found: dict[str, str] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENS:
                    found[fields[9]] = str(int(fields[1].rpartition(":")[2], 16))
    return found


def family(top: int) -> set[int]:
    """List a process and all below it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = {top}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def sockets_of(pids: set[int]) -> set[str]:
    """List the inodes of the sockets that processes hold."""
    found: set[str] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    target = os.readlink(entry)  # noqa: PTH115 it names no path
                    if target.startswith("socket:["):
                        found.add(target[8:-1])
    return found


def file_system(path: str) -> str:
    """Name the type of the file system that a path lies on."""
    best, kind = "", "unknown"
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, where, what, *_ = line.split()
            where = where.encode().decode("unicode_escape")
            inside = path == where or path.startswith(where.rstrip("/") + "/")
            if inside and len(where) >= len(best):
                best, kind = where, what
    return kind


def gpus() -> dict[str, Any]:
    """Say which GPUs an engine would be given, as the scheduler's variables and nvidia-smi tell."""
    seen: int | None = None
    if shutil.which("nvidia-smi"):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            said = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=30, check=False)  # noqa: S607
            seen = said.stdout.count(b"GPU ") if said.returncode == 0 else None
    return {"variables": {name: os.environ[name] for name in GPUS if name in os.environ}, "nvidia_smi": seen}


def dial(url: str) -> str | None:
    """Try to connect to where launchers report; say what went wrong."""
    try:
        if url.startswith("unix:"):
            with socket.socket(socket.AF_UNIX) as way:
                way.settimeout(DIAL_S)
                way.connect(url[5:])
        else:
            host, _, port = url.partition("://")[2].partition("/")[0].rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=DIAL_S).close()
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


def missing(engine: dict[str, Any]) -> list[str]:
    """List what an engine would lack: its program on the PATH, and files that can be read."""
    program = engine["program"]
    lacking = [] if program is None or shutil.which(program) else [program]
    return lacking + [path for path in engine["files"] if not os.access(path, os.R_OK)]


class Examination:
    """All that was found, and what has to be looked at anew each time."""

    def __init__(self, questions: dict[str, Any]) -> None:
        self._launcher = os.getppid()
        mark = questions["mark"]
        shared = False
        with contextlib.suppress(OSError):
            shared = Path(mark["path"]).read_text() == mark["text"]
        self._found = {
            "host": socket.gethostname(),
            "python": platform.python_version(),
            "run_dir": {"shared": shared, "file_system": file_system(str(Path(mark["path"]).parent.resolve()))},
            "gpus": gpus(),
            "engines": {engine["name"]: missing(engine) for engine in questions["engines"]},
            "control": {url: dial(url) for url in questions["control"]},
            "before": sorted(set(listening().values()), key=int),
        }
        self._round = 0

    def report(self) -> bytes:
        """Write the report of this moment."""
        self._round += 1
        now = listening()
        ours = sockets_of(family(self._launcher))
        ports = sorted({port for inode, port in now.items() if inode in ours}, key=int)
        return json.dumps(
            {**self._found, "round": self._round, "ours": ports, "after": sorted(set(now.values()), key=int)}
        ).encode()


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers every GET with the report."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        assert isinstance(self.server, Server)  # noqa: S101 it makes no others
        body = self.server.examination.report()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 the name is the standard library's
        pass


class Server(socketserver.ThreadingUnixStreamServer):
    """Listens on the Unix socket."""

    daemon_threads = True

    def __init__(self, path: str, examination: Examination) -> None:
        super().__init__(path, Answers)
        self.examination = examination


def main() -> None:
    """Look once, then answer until somebody ends it."""
    path, questions = sys.argv[1:]
    examination = Examination(json.loads(Path(questions).read_text()))
    target = Path(questions).with_name("report.json")
    server = Server(path, examination)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pause = threading.Event()
    while True:
        new = target.with_suffix(".new")
        new.write_bytes(examination.report())
        new.replace(target)
        pause.wait(EVERY_S)


if __name__ == "__main__":
    main()
