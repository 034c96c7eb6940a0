# SPDX-License-Identifier: Apache-2.0
"""An engine's output: copied into a bounded engine.log, its last lines kept in memory, secrets struck out."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from typing import Callable, Deque, List, Optional, Sequence

MAX_LOG_BYTES = 8 * 1024 * 1024
"""At this size engine.log becomes engine.log.1 and a new one begins: 16 MB at most, beginning and end of most lives."""
MAX_LINE_BYTES = 16 * 1024
KEPT_LINES = 200
TAIL_LINES = 20
TAIL_CHARS = 500
_READ_BYTES = 65536


class EngineLog:
    """Reads the engine's pipe without ever blocking it, whatever the disk does."""

    def __init__(self, pipe: int, path: str, *, secrets: Sequence[str], on_line: Callable[[str], None]) -> None:
        self.pipe = pipe
        self.ended = False
        self.trouble: Optional[str] = None
        self.watched = True
        self._path = path
        self._secrets = [secret.encode() for secret in secrets if secret]
        self._on_line = on_line
        self._file = -1
        self._size = 0
        self._partial = b""
        self._lines: Deque[bytes] = deque(maxlen=KEPT_LINES)
        os.set_blocking(pipe, False)

    def read(self) -> bool:
        """Take what the pipe holds, up to one buffer; tell whether there was anything."""
        if self.ended:
            return False
        try:
            data = os.read(self.pipe, _READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            self._take(data)
            return True
        self._take(b"\n" if self._partial else b"")
        self.ended = True
        return False

    def drain(self) -> None:
        """Read what is there now: the engine has ended and what it wrote last explains why."""
        for _ in range(1024):
            if not self.read():
                break

    def close(self) -> None:
        """Give up the pipe and the file."""
        if self._partial:
            self._take(b"\n")
        self.ended = True
        for descriptor in (self.pipe, self._file):
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self.pipe = self._file = -1

    def lines(self) -> List[str]:
        """Give the last lines, oldest first, each bounded."""
        return [line.decode("utf-8", "replace") for line in self._lines]

    def tail(self) -> List[str]:
        """Give the few lines that go into reports."""
        return [line[:TAIL_CHARS] for line in self.lines()[-TAIL_LINES:]]

    def _take(self, data: bytes) -> None:
        """Split off whole lines; a progress bar's carriage return ends one too, and an endless line is cut."""
        data = self._partial + data
        end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        if end == 0 and len(data) > MAX_LINE_BYTES:
            end = len(data)
        self._partial = data[end:]
        if end == 0:
            return
        whole = data[:end]
        for secret in self._secrets:
            if secret in whole:
                whole = whole.replace(secret, b"***")
        self._write(whole)
        for line in whole.replace(b"\r", b"\n").split(b"\n"):
            if line and not line.isspace():
                self._lines.append(line[:MAX_LINE_BYTES])
                if self.watched:
                    self._on_line(line[:2048].decode("utf-8", "replace"))

    def _write(self, data: bytes) -> None:
        """Append to engine.log. What a full disk refuses is lost there, not in memory, and the engine never waits."""
        try:
            if self._file >= 0 and self._size + len(data) > MAX_LOG_BYTES:
                os.close(self._file)
                self._file = -1
                os.replace(self._path, self._path + ".1")
            if self._file < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self._file = os.open(self._path, flags, 0o600)
                self._size = os.fstat(self._file).st_size
            self._size += os.write(self._file, data)
            self.trouble = None
        except OSError as error:
            self.trouble = f"engine.log cannot be written: {error.strerror}"
