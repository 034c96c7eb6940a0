# SPDX-License-Identifier: Apache-2.0
"""Serve a GGUF file with xllamacpp on a Unix socket, keep requests out of the log, finish what runs before stopping.

Two processes: the server, and the one that was started, which passes on what the server logs. llama.cpp writes parts of
requests into its warnings (the place of a syntax error, a schema, a grammar) and cannot be told not to. The sieve is a
process of its own so that the last words of a server that crashes still come through.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import enum
import importlib
import os
import re
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

CLOSE_S = 5.0
"""How long answers that are complete may take to leave for their clients."""
_PR_SET_PDEATHSIG = 1


def main() -> NoReturn:
    """Split into server and sieve; end as the server ends."""
    options = parse_arguments()
    if sys.stdout is None or sys.stderr is None:
        os._exit(2)
    read, write = os.pipe()
    parent = os.getpid()
    server = os.fork()
    if server == 0:
        os.dup2(write, 1)
        os.dup2(write, 2)
        os.close(read)
        os.close(write)
        die_with(parent)
        serve(options)
    os.close(write)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: pass_on(server, received))
    sift(read, server, weights_bytes=size_bytes(options.model))
    _, status = os.waitpid(server, 0)
    if os.WIFSIGNALED(status):
        with contextlib.suppress(OSError):  # SIGKILL's action cannot be set, nor need be
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status))


def parse_arguments() -> argparse.Namespace:
    """Read the command line; exit with 2 when it is wrong."""
    parser = argparse.ArgumentParser(description="Serve a GGUF file with xllamacpp on a Unix socket.")
    parser.add_argument("--socket", required=True, help="where to listen; must end in .sock")
    parser.add_argument("--model", required=True, help="the GGUF file")
    parser.add_argument("--alias", required=True, help="the name under which it is served")
    parser.add_argument("--drain-s", type=float, default=20.0, help="seconds that running requests get after SIGTERM")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an attribute of CommonParams")
    return parser.parse_args()


# ----------------------------------------------------------------------------------------------------------- server


def serve(options: argparse.Namespace) -> NoReturn:
    """Load, serve until SIGTERM, drain; never returns."""
    code = 1
    try:
        server = [start(options)]
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: stop.set())
        stop.wait()
        deadline = time.monotonic() + options.drain_s
        while time.monotonic() < deadline and busy(options.socket):
            time.sleep(0.05)
        # Deleting the server closes its socket and waits for every answer to be written, however long that takes.
        closing = threading.Thread(target=server.clear, daemon=True)
        closing.start()
        closing.join(CLOSE_S)
        code = 0
    except Refused as error:
        say(f"first: {error}")
    except BaseException as error:  # noqa: BLE001  its text is all there is to say, and nothing may run on after a fork
        say(f"first: {type(error).__name__}: {error}")
    finally:
        os._exit(code)


class Refused(Exception):
    """Cannot start, for a reason that a person can mend."""


def start(options: argparse.Namespace) -> Any:
    """Load the weights and listen."""
    try:
        xllamacpp: Any = importlib.import_module("xllamacpp")
    except ImportError as error:
        raise Refused(f"xllamacpp cannot be imported by {sys.executable}: {error}") from error
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.model_alias = {options.alias}
    params.hostnames = [options.socket]
    params.endpoint_metrics = True
    params.endpoint_slots = False
    params.ui = False
    for setting in options.set:
        name, _, text = setting.partition("=")
        assign(params, name, text)
    # Its threads wait for one another by spinning, so one core too many costs more than it brings; and it does not ask
    # which cores it may use.
    if params.cpuparams.n_threads <= 0:
        params.cpuparams.n_threads = max(1, len(os.sched_getaffinity(0)) - 1)
    # An idle connection holds a thread: one for each slot, as many for pooled connections, some for probes.
    params.n_threads_http = 2 * params.n_parallel + 8
    return xllamacpp.Server(params)


def assign(params: Any, name: str, text: str) -> None:
    """Set one attribute, by a path of names, to a text of the attribute's own type."""
    *parts, last = name.split(".")
    try:
        target = params
        for part in parts:
            target = getattr(target, part)
        setattr(target, last, converted(getattr(target, last), text))
    except AttributeError as error:
        raise Refused(f"argument {name} is unknown to this release of xllamacpp") from error
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise Refused(f"argument {name} cannot be {text}") from error


def converted(current: Any, text: str) -> Any:
    """Read a text as a value of the same type as the current one; an enumeration by its member's name."""
    if isinstance(current, bool):
        return {"true": True, "false": False}[text]
    if isinstance(current, enum.Enum):
        return type(current)[text]
    return type(current)(text)


def busy(path: str) -> bool:
    """Tell whether requests are running or waiting; what cannot be asked any more is not busy."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5.0)
            connection.connect(path)
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
    except OSError:
        return False
    counts = re.findall(rb"^llamacpp:requests_(?:processing|deferred) (\S+)", answer, re.MULTILINE)
    return any(float(count) > 0 for count in counts)


def die_with(parent: int) -> None:
    """Have the kernel end this process with the one that started it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


# ------------------------------------------------------------------------------------------------------------ sieve

_STAMPED = re.compile(rb"(\d+\.\d\d\.\d{3}\.\d{3} [A-Z] )")
_SOURCE = re.compile(rb"\d+\.\d\d\.\d{3}\.\d{3} [WE] (?:\w+ +)?[\w~]+(?:\(\))?:")
_LISTENING = re.compile(rb"init: listening on ")
# Last words that hold nothing of a request: failed assertions, the C++ runtime, the graphics card's errors.
_LAST_WORDS = re.compile(
    rb"first: |\S+:\d+: GGML_ASSERT\(|GGML_ASSERT\(|ggml_abort|terminate called|  what\(\):  std::\w+$|CUDA error|"
    rb"ROCm error|ggml_\w+: (?:failed to allocate|out of memory)|malloc\(\)|free\(\)|double free|corrupted "
)


class Sieve:
    """Passes everything until the server listens; from then on only what can hold no part of a request."""

    def __init__(self) -> None:
        self.listening = False

    def passed(self, line: bytes) -> bytes | None:
        """Give what may be written of a line, or None."""
        if not self.listening:
            self.listening = _LISTENING.search(line) is not None
            return line
        if _STAMPED.match(line) is None:
            return line if _LAST_WORDS.match(line) else None
        source = _SOURCE.match(line)
        return None if source is None else source.group() + b" (withheld: it may hold part of a request)"


def sift(read: int, server: int, *, weights_bytes: int) -> None:
    """Copy the server's log to our own output, line by line, until the server is gone; tell how far loading is."""
    sieve, rest, told = Sieve(), b"", 0
    while True:
        if not sieve.listening and not select.select([read], [], [], 0.5)[0]:
            percent = min(99, 100 * resident_bytes(server) // weights_bytes) if weights_bytes else 0
            if percent >= told + 2:
                told = percent
                say(f"first: weights {percent}%")
            continue
        chunk = os.read(read, 65536)
        *lines, rest = (rest + chunk).split(b"\n")
        if not chunk and rest:
            lines.append(rest)
        kept = [out for line in lines if (out := sieve.passed(line)) is not None]
        if kept:
            write_all(b"\n".join(kept) + b"\n")
        if not chunk:
            return
        if len(rest) > 65536:  # no line of llama.cpp is so long: part of a request
            rest = b""


def resident_bytes(pid: int) -> int:
    """Tell how much of a process is in memory: while weights are mapped and read, that is mostly them."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def size_bytes(path: str) -> int:
    """Tell how long a file is, 0 if it cannot be seen."""
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def say(text: str) -> None:
    """Write a line of our own to the log."""
    write_all(text.encode(errors="replace") + b"\n")


def write_all(data: bytes) -> None:
    """Write to standard output, all of it."""
    while data:
        data = data[os.write(1, data) :]


def pass_on(server: int, number: int) -> None:
    """Hand a signal on to the server."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(server, number)


if __name__ == "__main__":
    main()
