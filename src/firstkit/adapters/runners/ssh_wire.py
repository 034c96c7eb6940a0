# SPDX-License-Identifier: Apache-2.0
"""What an ssh runner and its far end (`gate.py`) say to each other, as bytes and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from firstkit.ports.runner import Done, Refused, Result, Unknown

VERSION = 1
MAX_NOISE = 1 << 20
"""What a login may print before the far end speaks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One result as it came: what it says of itself, and the bytes that belong to it."""

    head: dict[str, Any]
    blobs: tuple[bytes, ...]

    def result(self) -> Result:
        """Read it as what became of a command or of files."""
        detail = str(self.head.get("detail", ""))
        match self.head.get("state"):
            case "done":
                out, err = self.blobs if len(self.blobs) == 2 else (b"", b"")
                return Done(code=int(self.head.get("code", 0)), out=out, err=err)
            case "refused":
                return Refused(detail=detail)
            case _:
                return Unknown(detail=detail)


class Garbled(Exception):
    """Something else was printed into the answer."""


def request(head: dict[str, Any], blobs: Sequence[bytes], *, nonce: str, deadline_s: float) -> bytes:
    """Write a request; the far end begins nothing before it has come to the nonce at its end."""
    whole = {**head, "deadline_s": deadline_s, "sizes": [len(blob) for blob in blobs]}
    return b"".join([json.dumps(whole).encode(), b"\n", *blobs, nonce.encode(), b"\n"])


class AnswerReader:
    """Take the far end's words apart, however they are cut into pieces."""

    def __init__(self, nonce: str) -> None:
        self._nonce = nonce.encode()
        self._greeting = re.compile(rb"%s ready ([0-9]{1,4})\n" % self._nonce)
        self._buffer = bytearray()
        self._needed = 0
        self.version: int | None = None
        self.answers: list[Answer] = []
        self.ended = False

    @property
    def greeted(self) -> bool:
        """Tell whether the far end has said that it listens."""
        return self.version is not None

    def feed(self, data: bytes) -> None:
        """Take what has come; Garbled where it cannot be an answer."""
        self._buffer += data
        if self.version is None and not self._greet():
            return
        while not self.ended and len(self._buffer) >= self._needed and self._take():
            pass

    def _greet(self) -> bool:
        """Look for the greeting behind whatever a login prints."""
        found = self._greeting.search(self._buffer)
        if found is None:
            if len(self._buffer) > MAX_NOISE:
                raise Garbled("the login prints without end before anything is run")
            return False
        self.version = int(found[1])
        del self._buffer[: found.end()]
        return True

    def _take(self) -> bool:
        """Take one answer, if it has come whole."""
        line_end = self._buffer.find(b"\n")
        if line_end < 0:
            return False
        try:
            head = cast("dict[str, Any]", json.loads(self._buffer[:line_end]))
            sizes = [int(size) for size in head["sizes"]]
        except (ValueError, KeyError, TypeError):
            raise Garbled("something else was printed into the answer") from None
        end = line_end + 1 + sum(sizes)
        self._needed = end + len(self._nonce) + 1
        if len(self._buffer) < self._needed:
            return False
        if bytes(self._buffer[end : self._needed]) != self._nonce + b"\n":
            raise Garbled("something else was printed into the answer")
        blobs: list[bytes] = []
        place = line_end + 1
        for size in sizes:
            blobs.append(bytes(self._buffer[place : place + size]))
            place += size
        del self._buffer[: self._needed]
        self._needed = 0
        if head.get("state") == "end":
            self.ended = True
        else:
            self.answers.append(Answer(head=head, blobs=tuple(blobs)))
        return True
