# SPDX-License-Identifier: Apache-2.0
"""Read the head of an upstream's answer and work out how its body ends (RFC 9112, section 6.3)."""

from __future__ import annotations

import re
from http import HTTPStatus

import httptools

from firstkit.dataplane.framing import Body, ChunkedBody, CloseBody, Framing, FramingError, LengthBody
from firstkit.dataplane.head import HOP_BY_HOP

HEAD_LIMIT = 64 * 1024
EVENT_STREAM = b"text/event-stream"

_MEMO_MOST = 64
_LENGTH, _CHUNKED, _CLOSE = Framing.LENGTH, Framing.CHUNKED, Framing.CLOSE
_LENGTH_LINE = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,15})\r\n")

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


def status_line(status: int) -> bytes:
    """Write a status line of ours."""
    return STATUS_LINES.get(status) or f"HTTP/1.1 {status} Status\r\n".encode()


class Shape:
    """Everything of an answer's head but the length: the same for many answers, and never changed once read.

    `block` is the status line with the header lines that go on to the client.
    """

    __slots__ = ("block", "events", "framing", "keep_alive", "status", "upgrade")

    def __init__(self) -> None:
        self.status = 0
        self.block = b""
        self.framing = Framing.NONE
        self.events = False
        self.keep_alive = True
        self.upgrade: bytes | None = None


class Reply:
    """An answer's head."""

    __slots__ = ("length", "shape", "status")

    def __init__(self, shape: Shape, length: int | None) -> None:
        self.shape = shape
        self.status = shape.status
        self.length = length

    def body(self) -> Body:
        """Make the decoder of the body."""
        framing = self.shape.framing
        if framing is _CHUNKED:
            return ChunkedBody(strict_trailers=False)
        if framing is _CLOSE:
            return CloseBody()
        return LengthBody((self.length or 0) if framing is _LENGTH else 0)


class ReplyReader:
    """Reads the heads of one upstream's answers. `dropped` are headers that do not go on to the client.

    An upstream's heads differ in little but the length, so the last few are remembered without it.
    """

    __slots__ = ("_dropped", "_last", "_memo", "_raw")

    def __init__(self, dropped: frozenset[bytes]) -> None:
        self._dropped = dropped | HOP_BY_HOP | {b"content-length"}
        self._memo: dict[bytes, Shape] = {}
        self._raw = b""
        self._last: Reply | None = None

    def read(self, raw: bytes, *, to_head: bool) -> Reply:
        """Read one complete head; `to_head` tells that it answers a HEAD request. Raises FramingError."""
        if raw == self._raw and self._last is not None and not to_head:
            return self._last
        match = _LENGTH_LINE.search(raw)
        if match is None:
            key, length = raw, None
        else:
            start, end = match.span(1)
            key, length = raw[:start] + raw[end:], int(match[1])
        memo = self._memo
        shape = memo.get(key)
        if shape is not None and not to_head:
            self._raw = raw
            self._last = reply = Reply(shape, length)
            return reply
        collector = _Collector(self._dropped)
        shape = _read_shape(raw, collector, to_head=to_head)
        if not to_head and length == collector.length and shape.status >= 200:
            if len(memo) >= _MEMO_MOST:
                memo.clear()
            memo[key] = shape
        return Reply(shape, collector.length)


class _Collector:
    """What httptools calls back while it reads one head."""

    __slots__ = ("coding", "complete", "connection", "dropped", "length", "lines", "shape")

    def __init__(self, dropped: frozenset[bytes]) -> None:
        self.dropped = dropped
        self.shape = Shape()
        self.lines: list[tuple[bytes, bytes]] = []
        self.length: int | None = None
        self.complete = 0
        self.coding = b""
        self.connection = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        value = value.strip(b" \t")
        if name == b"content-length":
            if not value.isdigit() or len(value) > 15:
                raise FramingError("a length that is no number")
            self.length = int(value)
        elif name == b"transfer-encoding":
            self.coding = self.coding + b"," + value if self.coding else value
        elif name == b"connection":
            self.connection = self.connection + b"," + value if self.connection else value
        elif name == b"upgrade":
            self.shape.upgrade = value
        elif name not in self.dropped:
            self.lines.append((name, value))
            if name == b"content-type":
                self.shape.events = value.lower().startswith(EVENT_STREAM)

    def on_headers_complete(self) -> None:
        self.complete += 1


def _read_shape(raw: bytes, collector: _Collector, *, to_head: bool) -> Shape:
    parser = httptools.HttpResponseParser(collector)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        raise FramingError(str(error)) from None
    if collector.complete != 1:
        raise FramingError("a head that cannot be read")
    shape = collector.shape
    shape.status = parser.get_status_code()
    minor = parser.get_http_version() == "1.1"
    tokens = {token.strip() for token in collector.connection.lower().split(b",")}
    shape.keep_alive = b"close" not in tokens and (minor or b"keep-alive" in tokens)
    lines = [b"%b: %b\r\n" % pair for pair in collector.lines if pair[0] not in tokens]
    shape.block = status_line(shape.status) + b"".join(lines)
    coding = collector.coding
    if coding and (not minor or coding.strip().lower() != b"chunked" or collector.length is not None):
        raise FramingError("a transfer coding that is not understood")
    if to_head or shape.status < 200 or shape.status in {204, 304}:
        shape.framing = Framing.NONE
    elif coding:
        shape.framing = Framing.CHUNKED
    elif collector.length is not None:
        shape.framing = Framing.LENGTH
    else:
        shape.framing = Framing.CLOSE
        shape.keep_alive = False
    return shape
