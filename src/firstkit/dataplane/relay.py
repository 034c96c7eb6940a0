# SPDX-License-Identifier: Apache-2.0
"""One answer on its way to the client: head, framing, whole events, comments while waiting, an error at a break."""

from __future__ import annotations

from time import monotonic
from typing import Protocol

from firstkit.core.errors import FirstError
from firstkit.core.request import Dialect, Usage
from firstkit.core.stream.meter import StreamMeter, is_usage_chunk
from firstkit.core.stream.sse import Splitter, split
from firstkit.core.stream.usage import HEAD_BYTES, TAIL_BYTES, find_usage
from firstkit.dataplane.framing import LAST_CHUNK, Framing, chunk, event_chunk
from firstkit.dataplane.plain import plain_usage
from firstkit.dataplane.reply import Reply, status_line
from firstkit.wire.problems import error_event

# a look-up in an enum costs as much as all the rest of a test
_NONE, _LENGTH, _CLOSE = Framing.NONE, Framing.LENGTH, Framing.CLOSE


class Out(Protocol):
    """The client's connection, as far as an answer needs it."""

    minor: int

    def write(self, data: bytes) -> None: ...
    def will_close(self) -> bool: ...
    def close_after_answer(self) -> None: ...
    def reset(self) -> None: ...


class Nowhere:
    """Where an answer goes whose client has left: it is only metered."""

    minor = 1

    def write(self, data: bytes) -> None:
        """Drop it."""

    def will_close(self) -> bool:
        """Say that nothing follows."""
        return True

    def close_after_answer(self) -> None:
        """Nothing is open."""

    def reset(self) -> None:
        """Nothing is open."""


NOWHERE: Out = Nowhere()


class Relay:
    """Writes one answer to a client.

    `swallow_usage`: the usage chunk was asked for by us, so the client does not see it. `events`: a stream of events is
    held event by event, metered, and ended in an error event at a break.
    """

    __slots__ = (
        "_chunked",
        "_dialect",
        "_events",
        "_head_kept",
        "_left",
        "_out",
        "_splitter",
        "_swallow",
        "_tail_kept",
        "_until_close",
        "_whole",
        "body_bytes",
        "ended",
        "last",
        "meter",
        "opened",
        "status",
    )

    def __init__(self, out: Out, dialect: Dialect, *, swallow_usage: bool = False, events: bool = True) -> None:
        self._out = out
        self._dialect = dialect
        self._events = events
        self._swallow = swallow_usage
        self._splitter: Splitter | None = None
        self._chunked = False
        self._until_close = False
        self._left: int | None = None
        self._whole: bytes | None = None
        self._head_kept = b""
        self._tail_kept = b""
        self.meter: StreamMeter | None = None
        self.body_bytes = 0
        self.status = 0
        self.last = b""
        """The last bytes of the answer: for whoever ends it to send, once it has been written up."""
        self.opened = False
        """The head has gone out."""
        self.ended = False
        """The answer is complete, as far as the client is concerned."""

    @property
    def streams(self) -> bool:
        """Tell whether the answer is a stream of events."""
        return self._splitter is not None

    @property
    def unfinished(self) -> bool:
        """Tell whether a stream whose framing cannot say so has not come to its API's own last event."""
        return self._until_close and self.meter is not None and not self.meter.complete

    def redirect(self, out: Out) -> None:
        """Write what is still to come elsewhere."""
        self._out = out

    def swallow_usage(self, asked: bool) -> None:  # noqa: FBT001
        """Say, for a stream that began before its engine was known, whether usage was asked for by us."""
        self._swallow = asked

    # -------------------------------------------------------------------------------------------------- held

    def hold(self, extra: bytes, comment: bytes) -> None:
        """Begin a stream before there is an engine that answers: head and a comment."""
        head = (
            status_line(200) + b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
            b"x-accel-buffering: no\r\n" + extra
        )
        self._begin_events()
        self.status = 200
        self._out.write(self._finish_head(head, None) + self._frame(comment))

    def comment(self, comment: bytes) -> None:
        """Send a comment; only before the engine's first byte."""
        self._out.write(self._frame(comment))

    # -------------------------------------------------------------------------------------------------- relayed

    def open(self, reply: Reply, extra: bytes, payload: bytes, *, done: bool, now: float) -> None:
        """Pass on an engine's head (unless one has gone out already) with the first part of its body."""
        self._until_close = reply.shape.framing is _CLOSE
        if self.opened:
            self.payload(payload, None, done=done, now=now)
            return
        shape = reply.shape
        self.status = shape.status
        if done and not shape.events and shape.framing is _LENGTH:
            # the whole of a plain answer in one piece, as most are
            self.opened = self.ended = True
            self.body_bytes = len(payload)
            self._whole = payload
            end = b"connection: close\r\n\r\n" if self._out.will_close() else b"\r\n"
            self.last = b"%b%bcontent-length: %d\r\n%b%b" % (shape.block, extra, len(payload), end, payload)
            return
        if self._events and shape.events and shape.framing is not _NONE:
            self._begin_events()
        head = self._finish_head(shape.block + extra, reply)
        data = head + self._pass(payload, None, done=done, now=now)
        if done:
            self.last = data
        else:
            self._out.write(data)

    @property
    def heard_at(self) -> float:
        """When a token last passed."""
        return self.meter.last_at if self.meter is not None else 0.0

    @property
    def takes_tokens(self) -> bool:
        """Tell whether `token` may be called: a stream of events whose chunks are the client's chunks."""
        return self._splitter is not None and self._chunked

    def token(self, framed: bytes) -> bool:
        """Pass on one read that is one whole chunk of whole events, as nearly all of a stream is.

        False, and nothing done, when it is anything else, or says something that has to be looked at.
        """
        splitter, meter, start = self._splitter, self.meter, event_chunk(framed)
        if not start or splitter is None or meter is None or splitter.tail or not meter.token(framed, monotonic()):
            return False
        self.body_bytes += len(framed) - start - 2
        self._out.write(framed)
        return True

    def payload(self, payload: bytes, framed: bytes | None, *, done: bool, now: float) -> None:
        """Pass on more of the body."""
        data = self._pass(payload, framed, done=done, now=now)
        if done:
            self.last = data
        elif data:
            self._out.write(data)

    def fail(self, event: bytes) -> None:
        """End a stream with an error event; what is unfinished of the event before it is dropped."""
        if self._splitter is not None and self._splitter.inside:
            self.cut()
            return
        self.ended = True
        self.last = self._frame(event) + (LAST_CHUNK if self._chunked else b"")

    def fail_with(self, error: FirstError) -> None:
        """End a stream with one of our own errors, in the route's dialect."""
        number = self.meter.chunks if self.meter is not None else 0
        self.fail(error_event(error, dialect=self._dialect, sequence_number=number))

    def cut(self) -> None:
        """End an answer that is no stream of events, so that nobody takes it for whole.

        The connection closes, and length or missing last chunk tell; where only the connection's end would tell the
        answer's, it is reset.
        """
        self.ended = True
        if self._chunked or self._left is not None:
            self._out.close_after_answer()
        else:
            self._out.reset()

    def usage(self) -> Usage:
        """Say what the answer told of its tokens."""
        if self.meter is not None:
            return self.meter.usage()
        if self._whole is not None:
            return plain_usage(self._whole)
        return find_usage(self._head_kept, self._tail_kept) or Usage()

    # -------------------------------------------------------------------------------------------------- parts

    def _begin_events(self) -> None:
        self._splitter = Splitter()
        self.meter = StreamMeter(self._dialect)

    def _finish_head(self, head: bytes, reply: Reply | None) -> bytes:
        """Add framing and end; a stream of events is always chunked, so that it can end in an error event."""
        self.opened = True
        out = self._out
        framing = reply.shape.framing if reply is not None else None
        if reply is not None and framing is _NONE:
            if reply.length is not None and reply.status not in {204, 304}:
                head += b"content-length: %d\r\n" % reply.length
        elif reply is not None and framing is _LENGTH and self._splitter is None:
            self._left = reply.length or 0
            head += b"content-length: %d\r\n" % self._left
        elif out.minor:
            self._chunked = True
            head += b"transfer-encoding: chunked\r\n"
        else:
            out.close_after_answer()
        return head + (b"connection: close\r\n\r\n" if out.will_close() else b"\r\n")

    def _pass(self, payload: bytes, framed: bytes | None, *, done: bool, now: float) -> bytes:
        """Turn body bytes into what the client gets."""
        splitter = self._splitter
        if splitter is None:
            if self._events:
                self._keep(payload)
            whole = payload
        else:
            whole = splitter.feed(payload) if payload else b""
            if done:
                whole += splitter.flush()
            if whole:
                meter = self.meter
                if meter is not None:
                    meter.feed(whole, now)
                if self._swallow and b'"usage"' in whole:
                    whole = b"".join(block for block in split(whole) if not is_usage_chunk(block))
        self.body_bytes += len(whole)
        if done:
            self.ended = True
        if not self._chunked:
            return whole
        if framed is not None and whole is payload and not done:
            return framed
        data = chunk(whole) if whole else b""
        return data + LAST_CHUNK if done else data

    def _frame(self, data: bytes) -> bytes:
        return chunk(data) if self._chunked and data else data

    def _keep(self, payload: bytes) -> None:
        """Keep the beginning and the end of a plain answer: its usage is in one of them."""
        if len(self._head_kept) < HEAD_BYTES:
            self._head_kept += payload[: HEAD_BYTES - len(self._head_kept)]
        if len(payload) >= TAIL_BYTES:
            self._tail_kept = payload[-TAIL_BYTES:]
        else:
            self._tail_kept = (self._tail_kept + payload)[-TAIL_BYTES:] if self._tail_kept else payload
