# SPDX-License-Identifier: Apache-2.0
"""One connection to an instance, a door or the api: one exchange at a time, and its answer as it comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol, cast

from firstkit.dataplane.framing import Body, ChunkedBody, CloseBody, Framing, FramingError, single_chunk
from firstkit.dataplane.outbox import Outbox
from firstkit.dataplane.reply import HEAD_LIMIT, Reply, ReplyReader
from firstkit.dataplane.timers import NEVER, NO_TICK, Wheel

_LENGTH = Framing.LENGTH

INTERIM_LIMIT = 16
"""How many 1xx answers are dropped before the other side counts as broken."""


class User(Protocol):
    """Whoever sends a request over an upstream connection. Each call may close or abort the connection."""

    def answered(self, reply: Reply, payload: bytes, done: bool, now: float) -> None:  # noqa: FBT001 hot path
        """Take the answer's head, with the part of the body that came along; `done`: that was all."""
        ...

    def payload(self, payload: bytes, framed: bytes | None, done: bool, now: float) -> None:  # noqa: FBT001 hot path
        """Take more of the body. `framed` is the same as one whole chunk, where it came as such."""
        ...

    def lost(self, why: str) -> None:
        """Hear that the connection broke, or that the answer was no HTTP, before it was complete."""
        ...

    def silent(self) -> None:
        """Nothing came for the idle limit. The connection is still open."""
        ...

    def upstream_slow(self) -> None:
        """More has been written than goes out: stop sending."""
        ...

    def upstream_ready(self) -> None:
        """Go on sending: what was written has gone out."""
        ...


class Tokens(Protocol):
    """A stream under way to a client that takes what is nearly all of it without ado."""

    @property
    def heard_at(self) -> float:
        """When something last passed."""
        ...

    def token(self, framed: bytes) -> bool:
        """Pass on one read that is one whole chunk of whole events; False, and nothing done, when it is not."""
        ...


class Upstream(asyncio.Protocol):
    """A connection that was dialled or has been parked. While `user` is None it is idle.

    `fresh` holds until the first answer has come: a connection that is not may have been closed by the other side in
    the very moment it was taken, which says nothing about the request. A parked one never is: who knows since when it
    has been there.
    """

    __slots__ = (
        "_buffer",
        "_interim",
        "_loop_reading",
        "_out",
        "_outbox",
        "_reader",
        "_to_head",
        "_transport",
        "_wheel",
        "body",
        "closed",
        "due",
        "fresh",
        "heard",
        "heard_at",
        "idle_s",
        "keep_alive",
        "on_gone",
        "reply",
        "stream",
        "tick",
        "token",
        "user",
    )

    def __init__(self, wheel: Wheel, outbox: Outbox, idle_s: float, reader: ReplyReader) -> None:
        self._wheel = wheel
        self._outbox = outbox
        self._out: bytes = b""
        self._reader = reader
        self._transport: asyncio.Transport | None = None
        self._buffer: bytes = b""
        self._interim = 0
        self._to_head = False
        self._loop_reading = True
        self.user: User | None = None
        self.body: Body | None = None
        self.reply: Reply | None = None
        self.fresh = True
        self.heard = False
        """A byte of the answer has come."""
        self.heard_at = 0.0
        self.stream: Tokens | None = None
        self.token: Callable[[bytes], bool] | None = None
        """Asked first about whatever is read, while the next byte begins a chunk of a stream of tokens."""
        self.keep_alive = True
        self.closed = False
        self.idle_s = idle_s
        self.on_gone: Callable[[Upstream], None] | None = None
        self.due = NEVER
        self.tick = NO_TICK

    # ---------------------------------------------------------------------------------------------- sending

    def begin(self, user: User, data: bytes, *, to_head: bool = False) -> None:
        """Send the head of a request, and as much of its body as there is."""
        self.user = user
        self.body = None
        self.reply = None
        self.stream = None
        self.token = None
        self.heard = False
        self._interim = 0
        self._to_head = to_head
        self.heard_at = now = time.monotonic()
        self.due = now + self.idle_s  # the wheel looks at every entry often enough for this
        self._out = data
        self._outbox.add(self)

    def write(self, data: bytes) -> None:
        """Send more of the request."""
        self.flush()
        if self._transport is not None and not self.closed:
            self._transport.write(data)

    def flush(self) -> None:
        """Hand on what is held (called by the outbox)."""
        out, self._out = self._out, b""
        if out and self._transport is not None and not self.closed:
            self._transport.write(out)

    # --------------------------------------------------------------------------------------------- receiving

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (called by the loop)."""
        self._transport = cast("asyncio.Transport", transport)
        self._wheel.set(self, time.monotonic() + self.idle_s)

    def data_received(self, data: bytes) -> None:
        """Take what the other side sent (called by the loop)."""
        token = self.token
        if token is not None and token(data):
            return
        user, body = self.user, self.body
        if user is None:
            if not self.closed:  # nobody asked: the connection is out of step
                self.abort()
            return
        self.heard_at = now = time.monotonic()
        if body is None:
            self.heard = True
            self._head(user, data, now)
            return
        if type(body) is ChunkedBody and body.aligned and (start := single_chunk(data)):
            user.payload(data[start:-2], data, False, now)
            return
        try:
            payload = body.feed(data)
        except FramingError as error:
            self._broken(str(error))
            return
        if body.done:
            self._finish()
            user.payload(payload, None, True, now)
            return
        if self.stream is not None:
            self._offer_tokens()
        if payload:
            user.payload(payload, None, False, now)

    def pass_tokens_to(self, stream: Tokens) -> None:
        """Ask this stream first about what is read from now on."""
        self.stream = stream
        self._offer_tokens()

    def _offer_tokens(self) -> None:
        stream, body = self.stream, self.body
        if stream is not None and type(body) is ChunkedBody and body.aligned:
            self.token = stream.token
        else:
            self.token = None

    def _head(self, user: User, data: bytes, now: float) -> None:
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        while True:
            end = data.find(b"\r\n\r\n", 0, HEAD_LIMIT)
            if end < 0:
                self._buffer = data
                if len(data) > HEAD_LIMIT:
                    self._broken("a head that is too long")
                return
            try:
                reply = self._reader.read(data[: end + 4], to_head=self._to_head)
            except FramingError as error:
                self._broken(str(error))
                return
            data = data[end + 4 :]
            if reply.status >= 200 or reply.status == 101:
                break
            self._interim += 1
            if self._interim > INTERIM_LIMIT:
                self._broken("too many interim answers")
                return
            if not data:
                return
        self.reply = reply
        self.fresh = False
        self.keep_alive = reply.shape.keep_alive
        if reply.shape.framing is _LENGTH and reply.length == len(data):
            self.due = NEVER  # all of it has come at once, as most do
            self.user = None
            user.answered(reply, data, True, now)
            return
        body = self.body = reply.body()
        if reply.status == 101:
            self.body = CloseBody()
            user.answered(reply, data, False, now)
            return
        try:
            payload = body.feed(data) if data else b""
        except FramingError as error:
            self._broken(str(error))
            return
        if body.done:
            self._finish()
        user.answered(reply, payload, body.done, now)

    def _finish(self) -> None:
        """Note that the answer is complete; the connection is the user's until it gives it back."""
        self.due = NEVER
        if self.body is not None and self.body.rest:
            self.keep_alive = False  # more than was asked for: out of step
        self.user = None
        self.stream = self.token = None

    def _broken(self, why: str) -> None:
        user, self.user = self.user, None
        self.abort()
        if user is not None:
            user.lost(why)

    def eof_received(self) -> bool | None:
        """Let the loop close the connection (called by the loop)."""
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever uses it (called by the loop)."""
        self.closed = True
        self.due = NEVER
        user, self.user = self.user, None
        if self.on_gone is not None:
            self.on_gone(self)
        if user is None:
            return
        if self.body is not None and self.reply is not None and exc is None and self.body.ends_whole():
            self.keep_alive = False
            user.payload(b"", None, True, time.monotonic())
        else:
            user.lost("the connection closed" if exc is None else f"the connection broke ({type(exc).__name__})")

    # ---------------------------------------------------------------------------------------------- flow and end

    def pause_writing(self) -> None:
        """Pass on that the other side does not keep up (called by the loop)."""
        if self.user is not None:
            self.user.upstream_slow()

    def resume_writing(self) -> None:
        """Pass on that it does again (called by the loop)."""
        if self.user is not None:
            self.user.upstream_ready()

    def pause(self) -> None:
        """Stop reading; the idle limit rests meanwhile."""
        if self._transport is not None and self._loop_reading and not self.closed:
            self._loop_reading = False
            self.due = NEVER
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on reading."""
        if self._transport is not None and not self._loop_reading and not self.closed:
            self._loop_reading = True
            if self.user is not None:
                self.heard_at = time.monotonic()
                self._wheel.set(self, self.heard_at + self.idle_s)
            self._transport.resume_reading()

    def on_due(self) -> None:
        """Tell that nothing came for too long, or close an idle connection (called by the wheel)."""
        if self.user is None:
            self.abort()
            return
        heard_at = self.heard_at if self.stream is None else max(self.heard_at, self.stream.heard_at)
        if heard_at + self.idle_s > time.monotonic():
            self._wheel.set(self, heard_at + self.idle_s)
        else:
            self.user.silent()

    def give_up(self, why: str) -> None:
        """Close at once, and tell whoever uses it that it broke."""
        self._broken(why)

    def abort(self) -> None:
        """Close at once; nobody hears of it any more."""
        self.user = None
        self.stream = self.token = None
        self.due = NEVER
        if not self.closed:
            self.closed = True
            if self._transport is not None:
                self._transport.abort()

    @property
    def transport(self) -> asyncio.Transport | None:
        """The loop's transport, for a tunnel."""
        self.flush()
        return self._transport
