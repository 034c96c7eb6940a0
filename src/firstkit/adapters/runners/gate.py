# SPDX-License-Identifier: Apache-2.0
"""The far end of the ssh runner, in one file that a cluster's own Python runs: standard library, 3.9 or later.

The runner sends it along with each call, so that nothing is installed. It reads one request from its standard input and
carries it out: commands one after the other, each in a session of its own and an environment from an allow-list, or
files that are put, read or removed. Nothing is begun before the whole request has come. Whoever asked has gone when the
standard input ends: what runs then is killed, and nothing further is begun.

    request:  a JSON object in one line · the bytes that it announces · NONCE
    answer:   NONCE ready 1 · then for each result a JSON object in one line, the bytes that it announces, NONCE

The nonce is new for each call, so what a login shell prints before, or another process between, is taken for no answer,
and a result is whole when its nonce is there.
"""

import sys

if sys.version_info < (3, 9):  # all of this file parses from 3.6 on
    sys.stderr.write("first: Python 3.9 or later is needed here, this is %d.%d\n" % sys.version_info[:2])
    sys.exit(127)

import contextlib
import json
import os
import selectors
import shutil
import signal
import stat
import subprocess
import time
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

VERSION = 1
ENVIRONMENT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "SLURM_CONF", "PBS_CONF_FILE", "PBS_SERVER")
"""All that a scheduler's command sees of the login's environment; no secret is among them."""
MAX_HEAD = 16 << 20
MAX_BODY = 256 << 20
MAX_OUTPUT = 64 << 20
CHUNK = 1 << 16

Answer = Dict[str, Any]


class HungUp(Exception):
    """Nobody waits for the answer any more."""


class Wire:
    """One call's request and answer, on standard input and output."""

    def __init__(self, nonce: str) -> None:
        self._nonce = nonce.encode()

    def greet(self) -> None:
        """Say that the request may come."""
        self._write(b"\n%s ready %d\n" % (self._nonce, VERSION))

    def request(self) -> Tuple[Dict[str, Any], List[bytes]]:
        """Read the request; HungUp where it breaks off."""
        source = sys.stdin.buffer
        try:
            head = json.loads(source.readline(MAX_HEAD))
            sizes = [int(size) for size in head["sizes"]]
        except (ValueError, KeyError, TypeError):
            raise HungUp from None
        if min(sizes, default=0) < 0 or sum(sizes) > MAX_BODY:
            raise HungUp
        blobs = [source.read(size) for size in sizes]
        if source.readline(len(self._nonce) + 1) != self._nonce + b"\n":
            raise HungUp
        return head, blobs

    def answer(self, head: Answer, *blobs: bytes) -> None:
        """Write one result, whole."""
        head["sizes"] = [len(blob) for blob in blobs]
        self._write(b"%s\n%s%s\n" % (json.dumps(head).encode(), b"".join(blobs), self._nonce))

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(1, left) :]
        except OSError:
            raise HungUp from None


# ------------------------------------------------------------------------------------------------------------ commands


def environment(path: Optional[str]) -> Dict[str, str]:
    """Keep of our environment what commands may see."""
    kept = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    kept["PATH"] = path or kept.get("PATH", "/usr/local/bin:/usr/bin:/bin")
    return kept


def run(wire: Wire, head: Dict[str, Any], inputs: Sequence[bytes], until: float) -> None:
    """Run commands in order; after one that did not end the rest are refused, since order matters."""
    clean, unended = environment(head.get("path")), False
    for argv, data in zip(head["commands"], inputs):
        if unended:
            wire.answer({"state": "refused", "detail": "not tried: the command before it did not end"}, b"", b"")
            continue
        head, out, err = run_one(list(argv), data, clean, until)
        unended = head["state"] == "unknown"
        wire.answer(head, out, err)


def run_one(argv: List[str], data: bytes, clean: Dict[str, str], until: float) -> Tuple[Answer, bytes, bytes]:
    """Run one command to its end or the deadline; leave nothing of it then."""
    try:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=clean,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        return {"state": "refused", "detail": "%s: %s" % (argv[0], why)}, b"", b""
    try:
        trouble, out, err = attend(child, data, until)
        if trouble is None:
            return {"state": "done", "code": child.wait(max(0.0, until - time.monotonic()))}, out, err
    except subprocess.TimeoutExpired:
        trouble = "did not end in time"
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
    return {"state": "unknown", "detail": "%s %s" % (argv[0], trouble)}, b"", b""


def attend(child: "subprocess.Popen[bytes]", data: bytes, until: float) -> Tuple[Optional[str], bytes, bytes]:
    """Feed a command and collect what it prints, until it closes both outputs; say what went wrong, if anything."""
    assert child.stdin is not None and child.stdout is not None and child.stderr is not None  # noqa: S101, PT018
    feed, collect = child.stdin.fileno(), {child.stdout.fileno(): bytearray(), child.stderr.fileno(): bytearray()}
    out, err = collect.values()
    left = memoryview(data)
    with selectors.PollSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        for number in collect:
            selector.register(number, selectors.EVENT_READ)
        os.set_blocking(feed, False)
        selector.register(feed, selectors.EVENT_WRITE)
        waiting = set(collect)
        while waiting:
            remaining = until - time.monotonic()
            if remaining <= 0:
                return "did not end in time", b"", b""
            for key, _ in selector.select(remaining):
                if key.fd == 0:
                    if not os.read(0, CHUNK):
                        raise HungUp
                elif key.fd == feed:
                    left = feed_some(feed, left)
                    if not left:
                        selector.unregister(feed)
                        child.stdin.close()
                else:
                    chunk = os.read(key.fd, CHUNK)
                    collect[key.fd] += chunk
                    if not chunk:
                        selector.unregister(key.fd)
                        waiting.discard(key.fd)
                    if len(out) + len(err) > MAX_OUTPUT:
                        return "printed more than %d bytes" % MAX_OUTPUT, b"", b""
    return None, bytes(out), bytes(err)


def feed_some(descriptor: int, left: memoryview) -> memoryview:
    """Write as much as fits; nothing is left when the command reads no more."""
    try:
        return left[os.write(descriptor, left[:CHUNK]) :] if left else left
    except BlockingIOError:
        return left
    except OSError:
        return left[:0]


# --------------------------------------------------------------------------------------------------------------- files


def put(files: Iterable[Tuple[str, int, bytes]]) -> Answer:
    """Write files, each by rename; one of the same content is left as it is."""
    try:
        for path, mode, data in files:
            put_one(path, mode, data)
    except OSError as error:
        return {"state": "refused", "detail": "%s: %s" % (error.filename or "run directory", error.strerror or error)}
    return {"state": "done"}


def put_one(path: str, mode: int, data: bytes) -> None:
    """Write one file whole or not at all; folders that are missing are made for us alone."""
    folder, name = os.path.split(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)  # the umask holds for the folders above
    if same(path, data):
        return
    temporary = os.path.join(folder, ".%s.%s.new" % (name, os.urandom(6).hex()))
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            os.fchmod(handle.fileno(), mode)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


def same(path: str, data: bytes) -> bool:
    """Tell whether a file holds just that already."""
    try:
        with open(path, "rb") as handle:
            return os.fstat(handle.fileno()).st_size == len(data) and handle.read() == data
    except FileNotFoundError:
        return False


def read_many(wire: Wire, paths: Sequence[str], limit: int) -> Answer:
    """Answer with each file that exists; the last `limit` bytes of a longer one."""
    for number, path in enumerate(paths):
        try:
            data = read(path, limit)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            return {"state": "unknown", "detail": "%s: %s" % (path, error.strerror or error)}
        wire.answer({"state": "file", "number": number}, data)
    return {"state": "done"}


def read(path: str, limit: int) -> bytes:
    """Read the end of a regular file; a pipe or device is an error instead of a wait."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as handle:
        told = os.fstat(handle.fileno())
        if not stat.S_ISREG(told.st_mode):
            raise OSError(0, "is not a regular file")
        handle.seek(max(0, told.st_size - limit))
        return handle.read(limit)


def remove(folders: Iterable[str]) -> Answer:
    """Remove whole folders; an absent one is no error."""
    try:
        for folder in folders:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(folder)
    except OSError as error:
        return {"state": "refused", "detail": "%s: %s" % (error.filename, error.strerror or error)}
    return {"state": "done"}


# ---------------------------------------------------------------------------------------------------------------- call


def serve(nonce: str) -> int:
    """Carry out one call."""
    os.umask(0o077)
    os.chdir("/")
    wire = Wire(nonce)
    try:
        wire.greet()
        head, blobs = wire.request()
        until = time.monotonic() + float(head["deadline_s"])
        kind = head["op"]
        if kind == "run":
            run(wire, head, blobs, until)
        elif kind == "put":
            files = [(str(path), int(mode) & 0o777, blob) for (path, mode), blob in zip(head["files"], blobs)]
            wire.answer(put(files))
        elif kind == "read-many":
            wire.answer(read_many(wire, head["paths"], int(head["limit"])))
        elif kind == "remove":
            wire.answer(remove(head["folders"]))
        wire.answer({"state": "end"})
    except HungUp:
        return 1
    return 0


def main(argv: Sequence[str]) -> int:
    """Take the call's nonce from the command line."""
    return serve(argv[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv))
