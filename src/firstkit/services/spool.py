# SPDX-License-Identifier: Apache-2.0
"""The file in which finished attempts wait for the store: a line each; locked while the process that writes lives."""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from firstkit.core.errors import SiteError
from firstkit.core.request import AttemptRecord
from firstkit.ports.store import AttemptRow

KEPT_BYTES = 8_000_000
"""Lines that no disk would take wait in memory, up to so much."""
SUFFIX = ".spool"
_ENCODER = msgspec.json.Encoder()


class _Counts(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Columns(msgspec.Struct):
    """What of a line the store searches and sums by; the rest is not even decoded."""

    request: str
    attempt: int
    ended: bool
    at: float
    subject: str
    project: str
    model: str
    outcome: str
    usage: _Counts


_DECODER: msgspec.json.Decoder[_Columns] = msgspec.json.Decoder(_Columns)


class Spool:
    """One process's own file of finished attempts. `append` belongs to the event loop, all else to the store thread."""

    def __init__(self, folder: Path, *, owner: str) -> None:
        self._folder = folder
        self._owner = owner
        self._lock = threading.Lock()  # held for one write or one swap of descriptors: nobody waits longer than that
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._torn = False
        self.dropped = 0
        """Records lost because neither disk nor store took them and memory was full."""
        self.failed_writes = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path, self._file = _create(folder, owner)
        except OSError as error:
            raise SiteError(
                f"usage cannot be recorded in {folder} ({error.strerror}); make it writable and see that there is room",
                code="spool_not_writable",
            ) from error
        self._size = 0

    @property
    def waiting(self) -> int:
        """Say how many records wait in memory because the disk did not take them."""
        return len(self._kept)

    @property
    def size(self) -> int:
        """Say how many bytes the present file has."""
        return self._size

    def append(self, record: AttemptRecord) -> None:
        """Record one finished attempt. One write of one line; never waits for anybody and never fails."""
        line = encode(record)
        with self._lock:
            if not self._write(line):
                self._keep(line)

    def append_all(self, records: Sequence[object]) -> None:
        """Record attempts that have ended together: the same, with one write for all of their lines.

        Each encodes to JSON as an `AttemptRecord` does.
        """
        try:
            lines = _ENCODER.encode_lines(records)
        except UnicodeEncodeError:
            lines = b"".join(_ENCODER.encode(_printable(msgspec.to_builtins(it))) + b"\n" for it in records)
        with self._lock:
            if not self._write(lines):
                for line in lines.splitlines(keepends=True):
                    self._keep(line)

    def flush(self) -> None:
        """Write what waits in memory, as far as the disk takes it again."""
        while True:
            with self._lock:
                if not self._kept or not self._write(self._kept[0]):
                    return
                self._kept_bytes -= len(self._kept.popleft())

    def _write(self, line: bytes) -> bool:
        # A write that was cut short is ended by a line feed, so that this line stands alone.
        data = b"\n" + line if self._torn else line
        try:
            written = os.write(self._file, data)
        except OSError:
            written = 0
        self._size += written
        if written == len(data):
            self._torn = False
            return True
        self._torn = self._torn or written > 0
        self.failed_writes += 1
        return False

    def _keep(self, line: bytes) -> None:
        self._kept.append(line)
        self._kept_bytes += len(line)
        while self._kept_bytes > KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popleft())
            self.dropped += 1

    @property
    def unwritten(self) -> bool:
        """Tell whether lines wait in memory for a disk that takes them."""
        return bool(self._kept)

    def kept(self) -> list[bytes]:
        """Return the lines that only memory has, oldest first."""
        with self._lock:
            return list(self._kept)

    def forget_kept(self, lines: Sequence[bytes]) -> None:
        """Forget lines that `kept` returned: the store has them."""
        gone = set(lines)
        with self._lock:
            self._kept = deque(line for line in self._kept if line not in gone)
            self._kept_bytes = sum(map(len, self._kept))

    def descriptor(self) -> int:
        """Return a descriptor of the present file to read from, though somebody may have removed the file's name."""
        with self._lock:
            return os.dup(self._file)

    def rotate(self) -> Path:
        """Begin a new file and return the old one, which nobody writes any more (and which no longer is ours alone).

        Raises OSError, with everything as before, when no new file can be made.
        """
        path, file = _create(self._folder, self._owner)
        with self._lock:
            old_path, old_file = self.path, self._file
            self.path, self._file, self._size, self._torn = path, file, 0, False
        os.close(old_file)
        return old_path

    def close(self) -> None:
        """Close the file, leaving it for whoever settles next; an empty one is removed."""
        with self._lock:
            if self._file < 0:
                return
            if os.fstat(self._file).st_size == 0:
                self.path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1


def _create(folder: Path, owner: str) -> tuple[Path, int]:
    """Make a new file that is locked as long as this process lives; return its path and descriptor."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    while True:
        path = folder / f"{owner}.{secrets.token_hex(6)}{SUFFIX}"
        file = os.open(path, flags, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between the two calls somebody may have taken it for a dead gateway's and removed it.
            if os.fstat(file).st_nlink == 1:
                return path, file
        except BlockingIOError:
            pass
        except BaseException:
            os.close(file)
            path.unlink(missing_ok=True)
            raise
        os.close(file)


def encode(record: AttemptRecord) -> bytes:
    """Write a record as one line; half a character (of a header that is not UTF-8) becomes a question mark."""
    try:
        return _ENCODER.encode(record) + b"\n"
    except UnicodeEncodeError:
        return _ENCODER.encode(_printable(msgspec.to_builtins(record))) + b"\n"


def read_row(line: bytes) -> AttemptRow:
    """Read a line of the spool, which goes into the store as it is; raises msgspec's errors and UnicodeDecodeError."""
    found = _DECODER.decode(line)
    return AttemptRow(
        found.request,
        found.attempt,
        found.ended,
        found.at,
        found.subject,
        found.project,
        found.model,
        found.outcome,
        found.usage.input_tokens,
        found.usage.output_tokens,
        line.decode().rstrip("\n"),
    )


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {key: _printable(item) for key, item in cast("dict[str, Any]", value).items()}
    return value
