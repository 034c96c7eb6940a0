# SPDX-License-Identifier: Apache-2.0
"""Read the head of an upstream's answer and work out how its body ends (RFC 9112, section 6.3)."""

from __future__ import annotations

from http import HTTPStatus

import httptools

from firstkit.dataplane.framing import Body, ChunkedBody, CloseBody, Framing, FramingError, LengthBody
from firstkit.dataplane.head import HOP_BY_HOP

HEAD_LIMIT = 64 * 1024

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


def status_line(status: int) -> bytes:
    """Write a status line of ours."""
    return STATUS_LINES.get(status) or f"HTTP/1.1 {status} Status\r\n".encode()


class Reply:
    """An answer's head. `headers` are those that may go on, names in lower case; framing headers are not among them."""

    __slots__ = ("content_type", "framing", "headers", "keep_alive", "length", "minor", "status", "upgrade")

    def __init__(self) -> None:
        self.status = 0
        self.minor = 1
        self.headers: list[tuple[bytes, bytes]] = []
        self.framing = Framing.NONE
        self.length: int | None = None
        self.content_type = b""
        self.keep_alive = True
        self.upgrade: bytes | None = None

    def body(self) -> Body:
        """Make the decoder of the body."""
        if self.framing is Framing.CHUNKED:
            return ChunkedBody(strict_trailers=False)
        if self.framing is Framing.CLOSE:
            return CloseBody()
        return LengthBody((self.length or 0) if self.framing is Framing.LENGTH else 0)


class _Collector:
    """What httptools calls back while it reads one head."""

    __slots__ = ("complete", "connection", "coding", "reply")

    def __init__(self) -> None:
        self.reply = Reply()
        self.complete = 0
        self.coding = b""
        self.connection = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        value = value.strip(b" \t")
        reply = self.reply
        if name == b"content-length":
            if not value.isdigit() or len(value) > 18:
                raise FramingError("a length that is no number")
            reply.length = int(value)
        elif name == b"content-type":
            reply.content_type = value
            reply.headers.append((name, value))
        elif name == b"transfer-encoding":
            self.coding = self.coding + b"," + value if self.coding else value
        elif name == b"connection":
            self.connection = self.connection + b"," + value if self.connection else value
        elif name == b"upgrade":
            reply.upgrade = value
        elif name not in HOP_BY_HOP:
            reply.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.complete += 1


def read_reply(raw: bytes, *, to_head: bool) -> Reply:
    """Read one complete head; `to_head` tells that it answers a HEAD request. Raises FramingError."""
    collector = _Collector()
    parser = httptools.HttpResponseParser(collector)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        raise FramingError(str(error)) from None
    if collector.complete != 1:
        raise FramingError("a head that cannot be read")
    reply = collector.reply
    reply.status = parser.get_status_code()
    reply.minor = 1 if parser.get_http_version() == "1.1" else 0
    connection = collector.connection.lower()
    if connection:
        tokens = {token.strip() for token in connection.split(b",")}
        reply.keep_alive = b"close" not in tokens and (bool(reply.minor) or b"keep-alive" in tokens)
        if tokens - {b"close", b"keep-alive", b"upgrade"}:
            reply.headers = [(name, value) for name, value in reply.headers if name not in tokens]
    else:
        reply.keep_alive = bool(reply.minor)
    _judge_framing(reply, collector.coding, to_head=to_head)
    return reply


def _judge_framing(reply: Reply, coding: bytes, *, to_head: bool) -> None:
    status = reply.status
    if coding and (not reply.minor or coding.strip().lower() != b"chunked" or reply.length is not None):
        raise FramingError("a transfer coding that is not understood")
    if to_head or status < 200 or status in {204, 304}:
        reply.framing = Framing.NONE
    elif coding:
        reply.framing = Framing.CHUNKED
    elif reply.length is not None:
        reply.framing = Framing.LENGTH
    else:
        reply.framing = Framing.CLOSE
        reply.keep_alive = False
