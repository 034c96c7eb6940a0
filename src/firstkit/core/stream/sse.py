# SPDX-License-Identifier: Apache-2.0
"""Server-sent events as bytes: where one ends, what it says (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_BLANK = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
"""An empty line: the end of a line followed by another. A CR is the end of a line unless an LF follows."""

_CR, _LF = 13, 10

HELD_LIMIT = 64 * 1024
"""An unfinished event longer than this is passed on as it comes."""


class Splitter:
    """Pass on whole events as soon as they are whole, and keep what is unfinished.

    What `feed` and `flush` return, joined, is exactly what was fed: nothing is changed and nothing reordered. Because
    an unfinished event is kept back, a stream that breaks inside one can still end in an error event that a client
    reads.
    """

    __slots__ = ("_past_limit", "tail")

    def __init__(self) -> None:
        self.tail = b""
        """The unfinished event, kept back so far."""
        self._past_limit = False

    def feed(self, data: bytes) -> bytes:
        """Take what arrived and return what may go on: everything up to the end of the last whole event."""
        tail = self.tail
        if not tail:
            if data.endswith(b"\n\n"):
                self._past_limit = False
                return data
            whole, seen = data, 0
        else:
            whole, seen = tail + data, len(tail)
        cut = _last_end(whole, seen)
        if cut < 0 and (self._past_limit or len(whole) > HELD_LIMIT):
            self._past_limit = True
            self.tail = b""
            return whole
        if cut < 0:
            self.tail = whole
            return b""
        self.tail = whole[cut:]
        self._past_limit = False
        return whole[:cut]

    def flush(self) -> bytes:
        """Return what is left when the stream has ended as it should."""
        tail, self.tail = self.tail, b""
        return tail

    @property
    def inside(self) -> bool:
        """Tell whether part of an unfinished event has been passed on already (it was longer than the limit)."""
        return self._past_limit


def _last_end(data: bytes, seen: int) -> int:
    """Find the end of the last whole event; `seen` bytes were searched before. -1 when there is none.

    A trailing CR may be the first half of a CRLF, so no event ends in one that is the last byte.
    """
    start = max(0, seen - 3)
    limit = len(data) - 1 if data.endswith(b"\r") else len(data)
    end = -1
    for blank in (b"\n\n", b"\n\r\n", b"\r\r"):
        at = data.rfind(blank, start, limit)
        if at >= 0:
            end = max(end, at + len(blank))
    if 0 < end < len(data) and data[end - 1] == _CR and data[end] == _LF:
        end += 1
    return end


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event: its name ("" when it has none) and its data; a comment alone is no event."""

    name: str
    data: bytes


def events(whole: bytes) -> Iterator[Event]:
    """Read the events in bytes that hold only whole ones, as `Splitter.feed` returns them."""
    for block in split(whole):
        name = ""
        data: list[bytes] = []
        for line in block.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                data.append(value)
            elif field == b"event":
                name = value.decode(errors="replace")
        if data:
            yield Event(name=name, data=b"\n".join(data))


def split(whole: bytes) -> list[bytes]:
    """Cut bytes into the blocks of single events, each with its own end; joined they are the same bytes."""
    if b"\r" not in whole:
        parts = whole.split(b"\n\n")
        blocks = [part + b"\n\n" for part in parts[:-1]]
        return [*blocks, parts[-1]] if parts[-1] else blocks
    blocks: list[bytes] = []
    start = 0
    for match in _BLANK.finditer(whole):
        blocks.append(whole[start : match.end()])
        start = match.end()
    if start < len(whole):
        blocks.append(whole[start:])
    return blocks
