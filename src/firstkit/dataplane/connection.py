# SPDX-License-Identifier: Apache-2.0
"""One client's connection: heads in, bodies handed to the exchange that answers, deadlines, an orderly end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast

from firstkit.core.errors import FirstError, InvalidRequest, Unavailable
from firstkit.core.request import Dialect
from firstkit.dataplane import peer
from firstkit.dataplane.answers import write_error
from firstkit.dataplane.framing import ChunkedBody, FramingError, LengthBody
from firstkit.dataplane.head import Head, HeadReader, head_end
from firstkit.dataplane.timers import NEVER, NO_TICK

if TYPE_CHECKING:
    from firstkit.dataplane.plane import Plane

_CR = 13

HELD_MOST = 32 * 1024
"""How much is held until the end of a turn, which may bring many reads of one engine, all of them for one client."""

PAUSE_S = 600.0
"""How long a client that lives may pause in reading its answer."""

AHEAD_BYTES = 128 * 1024
"""How much of further requests is taken in while one is being answered."""

LINGER_S = 2.0
LINGER_BYTES = 4 * 1024 * 1024
"""How long, and how much of, a body that is not wanted is read and dropped, so that the client sees the answer."""

SLOWEST_BYTES_PER_S = 16_000
"""A body may take its time-out plus as long as this rate needs for it."""

GONE_CHECK_S = 0.05
"""How often a connection that is not read from is asked whether its client has left."""


class Exchange(Protocol):
    """One request and its answer; how far it is, is its own business. `client_gone` is the last call it gets."""

    def begin(self) -> None: ...
    def body(self, piece: bytes) -> None: ...
    def body_end(self) -> None: ...
    def client_gone(self) -> None: ...
    def client_slow(self) -> None: ...
    def client_ready(self) -> None: ...
    def refuse(self, error: FirstError) -> None: ...
    def on_due(self) -> None: ...


class Connection(asyncio.Protocol):
    """Reads one request after the other. While an exchange is under way, what comes next waits in a bounded buffer."""

    __slots__ = (
        "_ahead",
        "_dropped",
        "_heads",
        "_lingering",
        "_out",
        "_pull_paused",
        "_received",
        "_turning",
        "_whole",
        "admin",
        "closed",
        "due",
        "exchange",
        "head",
        "keep",
        "minor",
        "only",
        "plane",
        "raw",
        "reader",
        "slow",
        "tick",
        "transport",
        "wants_body",
    )

    def __init__(self, plane: Plane, *, admin: bool = False, only: str = "") -> None:
        self.plane = plane
        self.admin = admin
        self.only = only
        """What the paths that it may ask for begin with."""
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.exchange: Exchange | None = None
        self.head: Head | None = None
        self.reader: LengthBody | ChunkedBody | None = None
        self.wants_body = False
        self.keep = True
        self.minor = 1
        self.closed = False
        self.slow = False
        """The client does not keep up with what is written."""
        self.raw: Callable[[bytes], None] | None = None
        """Takes all further bytes as they are, once the connection has become a tunnel."""
        self.due = NEVER
        self.tick = NO_TICK
        self._out: bytes = b""
        self._ahead: bytes = b""
        self._dropped = 0
        self._heads = HeadReader()
        self._lingering = False
        self._received = 0
        self._turning = False
        self._whole: bytes | None = None
        self._pull_paused = False

    # ------------------------------------------------------------------------------------------ called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport (called by the loop)."""
        self.transport = cast("asyncio.Transport", transport)
        plane = self.plane
        plane.connections.add(self)
        if len(plane.connections) > plane.settings.connections:
            self.answer_early(
                Unavailable(
                    "The gateway has as many connections as it may.", code="too_many_connections", retry_after_s=5
                )
            )
            return
        plane.wheel.set(self, time.monotonic() + plane.settings.head_timeout_s)

    def data_received(self, data: bytes) -> None:
        """Take what the client sent (called by the loop)."""
        if self.exchange is None and not self._lingering:
            if self._ahead:
                data = self._ahead + data
            self._ahead = data
            self._turn()
        elif self.raw is not None:
            self.raw(data)
        elif self.wants_body:
            self._take_body(data)
        elif self._lingering:
            self._dropped += len(data)
            if self._dropped > LINGER_BYTES:
                self.transport.abort()
        else:
            self._ahead += data
            if len(self._ahead) > AHEAD_BYTES:
                self.pause_reading()

    def eof_received(self) -> bool | None:
        """Take a closed sending side for a client that has left (called by the loop)."""
        if self.exchange is not None:
            self._gone()
            self.transport.abort()
        return None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 — the loop's signature
        """Clean up (called by the loop)."""
        self.closed = True
        self.due = NEVER
        self.plane.connections.discard(self)
        self._gone()
        self._ahead = b""
        self.raw = None

    def pause_writing(self) -> None:
        """Pass on that the client does not keep up (called by the loop)."""
        self.slow = True
        self._look_whether_stalled()
        if self.exchange is not None:
            self.exchange.client_slow()

    def resume_writing(self) -> None:
        """Pass on that it does again (called by the loop)."""
        self.slow = False
        if self.exchange is not None:
            self.exchange.client_ready()

    def on_due(self) -> None:
        """Act on the deadline (called by the wheel)."""
        exchange = self.exchange
        if exchange is None:
            if self._lingering or not self._ahead:
                self.transport.abort() if self._lingering else self._close()
            else:
                self.answer_early(InvalidRequest("The request's head did not arrive in time.", code="request_timeout"))
        elif self.wants_body:
            exchange.refuse(InvalidRequest("The request's body did not arrive in time.", code="request_timeout"))
        else:
            exchange.on_due()

    # ------------------------------------------------------------------------------------------ for the exchange

    def take_whole(self) -> bytes | None:
        """Take the whole body, if it came together with its head, as most do."""
        whole, self._whole = self._whole, None
        return whole

    def read_body(self, whole: bytes | None = None) -> None:
        """Ask for the body: from now on `body` and `body_end` are called. `whole` is what has been taken, if it was."""
        exchange = self.exchange
        if exchange is None:
            return
        if whole is None:
            whole = self.take_whole()
        if whole is not None:
            exchange.body(whole)
            if self.exchange is exchange:
                exchange.body_end()
            return
        if self.reader is None:
            exchange.body_end()
            return
        self.wants_body = True
        self._received = 0
        if self._pull_paused:
            self.resume_reading()
        ahead, self._ahead = self._ahead, b""
        if ahead:
            self._take_body(ahead)
        elif self.minor and self.head is not None and self.head.get(b"expect"):
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self.wants_body:
            self._set_body_due()

    def write(self, data: bytes) -> None:
        """Send to the client, at the end of this turn of the loop; much at once goes now, so that a pause is heard."""
        if not self._out:
            if not self.closed:
                self._out = data
                self.plane.outbox.add(self)
        else:
            self._out += data
        if len(self._out) > HELD_MOST:
            self.flush()

    def flush(self) -> None:
        """Hand on what is held (called by the outbox, and before anything that ends the sending side)."""
        out, self._out = self._out, b""
        if out and not self.closed:
            self.transport.write(out)

    def _close(self) -> None:
        """Close after what has been written."""
        self.flush()
        self.transport.close()

    def will_close(self) -> bool:
        """Tell whether the connection ends with this answer: to be said in its head."""
        reader = self.reader
        if (
            reader is not None
            and not self.wants_body
            and type(reader) is LengthBody
            and len(self._ahead) >= reader.left
        ):
            self._ahead = self._ahead[reader.left :]  # nobody wants this body, and it is all here
            self.reader = None
        if self.keep and (self.plane.draining or self.reader is not None):
            self.keep = False
        return not self.keep

    def close_after_answer(self) -> None:
        """Use the connection for nothing after this answer."""
        self.keep = False

    def reset(self) -> None:
        """Break the connection so that the client cannot take what it has for whole."""
        self.keep = False
        peer.reset(self.transport)

    def finished(self) -> None:
        """Say that the answer has been written; the next request may come."""
        self.exchange = None
        self.head = None
        self._whole = None
        if self.closed:
            return
        if self._pull_paused:
            self.resume_reading()
        if not self.keep or self.plane.draining:
            self._end()
            return
        self.due = time.monotonic() + self.plane.settings.keep_alive_s
        if self._ahead and not self._turning:
            self._turn()

    def pause_reading(self) -> None:
        """Stop reading from the client, but go on looking whether it is still there."""
        if not self._pull_paused and not self.closed:
            self._pull_paused = True
            if self.wants_body:
                self.due = NEVER  # the wait is ours, not the client's
            self.transport.pause_reading()
            self.plane.wheel.later(GONE_CHECK_S, self._look_whether_gone)

    def resume_reading(self) -> None:
        """Go on reading."""
        if self._pull_paused and not self.closed:
            self._pull_paused = False
            if self.wants_body:
                self.plane.wheel.set(self, time.monotonic() + self.plane.settings.body_timeout_s)
            self.transport.resume_reading()

    def set_due(self, due: float) -> None:
        """Have the exchange's `on_due` called then."""
        self.plane.wheel.set(self, due)

    def answer_early(self, error: FirstError) -> None:
        """Answer an error to what is no request, and close."""
        self.keep = False
        _, data = write_error(error, dialect=Dialect.OPENAI, close=True)
        self.write(data)
        self._end()

    def become_tunnel(self, take: Callable[[bytes], None]) -> None:
        """Hand on all further bytes as they are."""
        self.raw = take
        self.due = NEVER
        ahead, self._ahead = self._ahead, b""
        if ahead:
            take(ahead)

    def shut(self) -> None:
        """Close after what has been written; a request under way is given up."""
        self.keep = False
        if self.exchange is None:
            if not self._lingering:
                self._close()
        else:
            self._gone()
            self._close()

    @property
    def idle(self) -> bool:
        """Tell whether nothing is going on."""
        return self.exchange is None and not self._ahead and not self._lingering

    def close_if_idle(self) -> None:
        """Close an idle connection, unless its next request is already in the kernel's hands."""
        if self.idle and not self.closed and not peer.readable(self.transport):
            self._close()

    # ------------------------------------------------------------------------------------------------- inside

    def _turn(self) -> None:
        """Read requests from the buffer as long as each is answered at once."""
        self._turning = True
        try:
            while self._ahead and self.exchange is None and not self._lingering and not self.closed:
                if not self._next_head():
                    break
        finally:
            self._turning = False

    def _next_head(self) -> bool:
        data = self._ahead
        if data[0] == _CR:
            data = self._ahead = _after_empty_lines(data)
            if not data or data == b"\r":
                return False
        settings = self.plane.settings
        try:
            end = head_end(data, settings.head_limit)
            if not end:
                if self.due > time.monotonic() + settings.head_timeout_s:
                    self.plane.wheel.set(self, time.monotonic() + settings.head_timeout_s)
                return False
            head = self._heads.read(data[:end])
        except FirstError as error:
            self._ahead = b""
            self.plane.refused_head(error)
            self.answer_early(error)
            return False
        self.head = head
        self.keep = head.keep_alive
        self.minor = head.minor
        self.wants_body = False
        self.reader = None
        length = head.length
        if length and len(data) - end >= length:
            self._whole = data[end : end + length]
            end += length
        elif length:
            self.reader = LengthBody(length)
        elif head.chunked:
            self.reader = ChunkedBody()
        self._ahead = data[end:]
        self.due = NEVER
        self.exchange = exchange = self.plane.exchange_for(self, head)
        exchange.begin()
        return True

    def _take_body(self, data: bytes) -> None:
        reader, exchange = self.reader, self.exchange
        if reader is None or exchange is None:
            return
        try:
            payload = reader.feed(data)
        except FramingError as error:
            self.keep = False
            exchange.refuse(InvalidRequest(f"The body's framing is wrong: {error}.", code="invalid_http"))
            return
        if payload:
            self._received += len(payload)
            exchange.body(payload)
            if self.exchange is not exchange:
                return
        if reader.done:
            self._ahead = reader.rest
            self.reader = None
            self.wants_body = False
            self.due = NEVER
            exchange.body_end()
        elif self.wants_body:
            self._set_body_due()

    def _set_body_due(self) -> None:
        if self._received == 0 or self.due == NEVER:
            self.plane.wheel.set(self, time.monotonic() + self.plane.settings.body_timeout_s)
            return
        # a sender earns time by sending, so that one that trickles does not hold on for ever
        now = time.monotonic()
        earned = self._received / SLOWEST_BYTES_PER_S
        self._received = 0
        self.due = min(now + self.plane.settings.body_timeout_s, self.due + earned)

    def _gone(self) -> None:
        exchange, self.exchange = self.exchange, None
        self.reader = None
        self.wants_body = False
        if exchange is not None:
            exchange.client_gone()

    def _end(self) -> None:
        """Close after what has been written; what the client still sends is dropped, so that it sees the answer."""
        if self.closed:
            return
        if self.reader is None:
            self._lingering = True
            self._close()
            return
        self._lingering = True
        self.wants_body = False
        self.reader = None
        self._dropped = 0
        if self.transport.can_write_eof():
            self.flush()
            self.transport.write_eof()
        self.plane.wheel.set(self, time.monotonic() + LINGER_S)

    def _look_whether_stalled(self) -> None:
        """Be patient with a client that lives and only pauses: its closed window counts as unacknowledged otherwise."""
        if self.closed:
            return
        limit_s = self.plane.settings.user_timeout_s
        patient = self.slow and peer.stalled(self.transport)
        peer.wait_for_acknowledgements(self.transport, max(limit_s, PAUSE_S) if patient else limit_s)
        if self.slow:
            self.plane.wheel.later(limit_s / 4, self._look_whether_stalled)

    def _look_whether_gone(self) -> None:
        if not self._pull_paused or self.closed:
            return
        if peer.hung_up(self.transport):
            self._gone()
            self.transport.abort()
            return
        self.plane.wheel.later(GONE_CHECK_S, self._look_whether_gone)


def _after_empty_lines(data: bytes) -> bytes:
    """Drop empty lines before a request (RFC 9112, section 2.2); what is none is left for the head's reader."""
    rest = data.lstrip(b"\r\n")
    before = data[: len(data) - len(rest)]
    left = before.replace(b"\r\n", b"")
    if not left:
        return rest
    return left + rest if rest or left != b"\r" else left
