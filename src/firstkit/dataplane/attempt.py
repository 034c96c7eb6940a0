# SPDX-License-Identifier: Apache-2.0
"""One try of a request at one instance: connect, send, take the answer; the lease is held exactly as long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from firstkit.core.errors import SiteError, UpstreamError
from firstkit.core.health.liveness import Failure
from firstkit.core.request import Outcome
from firstkit.dataplane.body import Body, Splice
from firstkit.dataplane.peek import USAGE_SPLICE, Read, find_places
from firstkit.dataplane.pools import Dial, Pool
from firstkit.dataplane.reply import Reply
from firstkit.dataplane.upstream import Upstream
from firstkit.ports.engine import EngineTraits
from firstkit.services.dispatcher import Grant, Lease

if TYPE_CHECKING:
    from firstkit.dataplane.exchange import InferenceExchange

BODY_START_BYTES = 4 * 1024
"""How much of an engine's error answer is read before it is decided whether another instance is tried."""

JOINED_BYTES = 64 * 1024
"""Up to this size a request's head and body go out in one piece."""

STALE_MOST = 5
"""So many connections in a row may prove stale; then it is the instance that does not take them."""


class Attempt:
    """Uses one upstream connection (a stale pooled one is replaced unseen) and tells the exchange how it went.

    When the client has left, an engine that cannot abort is read to its end, unheard, and the lease is held until then.
    """

    __slots__ = (
        "_body",
        "_dial",
        "_failed_reply",
        "_pool",
        "_read",
        "_segments",
        "_stale",
        "_start",
        "_waits",
        "decision",
        "exchange",
        "first_byte_at",
        "granted_at",
        "lease",
        "number",
        "over",
        "route",
        "swallows_usage",
        "traits",
        "upstream",
    )

    def __init__(  # noqa: PLR0917 — made for every request: keywords cost
        self, exchange: InferenceExchange, grant: Grant, pool: Pool, traits: EngineTraits, read: Read, body: Body
    ) -> None:
        self.exchange = exchange
        self.lease: Lease = grant.lease
        self.route = grant.route
        self.decision = grant.decision
        self.number = grant.attempt
        self.granted_at = time.monotonic()
        self.first_byte_at: float | None = None
        self.upstream: Upstream | None = None
        self.swallows_usage = False
        self.over = False
        self.traits = traits
        self._read = read
        self._body = body
        self._pool = pool
        self._dial: Dial | None = None
        self._segments: Iterator[bytes | tuple[int, int]] | None = None
        self._waits = False
        self._stale = 0
        self._failed_reply: Reply | None = None
        self._start = b""

    # --------------------------------------------------------------------------------------------- connecting

    def begin(self) -> None:
        """Take a connection and send."""
        upstream = self._pool.take()
        if upstream is None:
            self._dial = self._pool.dial(self)
            return
        self.upstream = upstream
        self._send(upstream)

    def connected(self, upstream: Upstream) -> None:
        """Send the request (called by the pool)."""
        self._dial = None
        if self.over:
            self._pool.give(upstream)
            return
        self.upstream = upstream
        self._send(upstream)

    def not_connected(self, how: Failure, why: str) -> None:
        """Try elsewhere (called by the pool)."""
        self._dial = None
        if not self.over:
            self._unreached(how, why)

    def place(self) -> bytes:
        """Write the header lines that tell where the answer comes from."""
        return self._pool.place(self.route)

    def _send(self, upstream: Upstream) -> None:
        exchange, body, route, read = self.exchange, self._body, self.route, self._read
        served, size = route.served_name, body.size
        splices: tuple[Splice, ...] = ()
        if (served and served != read.model) or (read.stream and self._asks_usage()):
            splices = self._splices(served)
            size += sum(len(new) - (end - start) for start, end, new in splices)
        prepared = exchange.head.prepared
        head = b"%b%b%bcontent-length: %d\r\n\r\n" % (
            self._pool.head(exchange.route.path, exchange.target.query, route.authorization),
            prepared.forwarded if prepared is not None else b"",
            exchange.id_line,
            size,
        )
        if size > JOINED_BYTES or body.spilled:
            upstream.begin(self, head)
            self._segments = body.segments(splices)
            self._waits = False
            self._send_more()
        elif splices:
            parts = body.segments(splices)
            upstream.begin(self, head + b"".join(part for part in parts if isinstance(part, bytes)))
        else:
            upstream.begin(self, head + body.buffer())

    def _asks_usage(self) -> bool:
        return not self._read.gives_stream_options and self.traits.usage_on_request and self.exchange.route.asks_usage

    def _splices(self, served: str) -> tuple[Splice, ...]:
        """Say which bytes of the body are replaced: the model's name, and a wish for usage put in."""
        read = self._read
        places = read.places
        if places is None:
            places = read.places = find_places(self._body.buffer())
        splices: list[Splice] = []
        if read.stream and self._asks_usage():
            self.swallows_usage = True
            splices.append((places.opening, places.opening, USAGE_SPLICE))
        if served and served != read.model:
            start, end = places.model
            splices.append((start, end, served.encode() if self.exchange.route.form else self._pool.name_json(served)))
        return tuple(splices)

    def _send_more(self) -> None:
        """Send the next parts of a large body, as long as the other side keeps up."""
        segments, upstream = self._segments, self.upstream
        while segments is not None and upstream is not None and not self._waits and not self.over:
            part = next(segments, None)
            if part is None:
                self._segments = None
                return
            if isinstance(part, bytes):
                upstream.write(part)
            else:
                self._waits = True
                self._body.fetch(*part, self._fetched)

    def _fetched(self, result: object) -> None:
        if self.over or self.upstream is None or self._segments is None:
            return
        if not isinstance(result, bytes):
            self.upstream.abort()
            self._end()
            self.exchange.attempt_refused(
                self, SiteError("The request's body could not be read back.", code="body_not_kept")
            )
            return
        self._waits = False
        self.upstream.write(result)
        self._send_more()

    def upstream_slow(self) -> None:
        """Stop sending (called by the connection)."""
        if self._segments is not None:
            self._waits = True

    def upstream_ready(self) -> None:
        """Go on sending (called by the connection)."""
        if self._segments is not None and self._waits:
            self._waits = False
            self._send_more()

    # ----------------------------------------------------------------------------------------------- the answer

    def answered(self, reply: Reply, payload: bytes, done: bool, now: float) -> None:  # noqa: FBT001 see User
        """Take the answer's head (called by the connection)."""
        self.first_byte_at = now
        if self.lease.unproven:
            self.exchange.plane.dispatcher.failed(self.route.instance, Failure.OK)
        if self._segments is not None and self.upstream is not None:
            self._segments = None  # it answers before it has read everything
            self.upstream.keep_alive = False
        status = reply.status
        if status >= 400:
            self._failed_reply = reply
            self._collect(payload, done, now)
        elif status == 101:
            self.lost("an upgrade nobody asked for")
        else:
            if done:
                self._complete()
            self.exchange.attempt_answered(self, reply, payload, done, now)

    def payload(self, payload: bytes, framed: bytes | None, done: bool, now: float) -> None:  # noqa: FBT001 see User
        """Take more of the answer (called by the connection)."""
        if self._failed_reply is not None:
            self._collect(payload, done, now)
            return
        if done:
            self._complete()
        self.exchange.attempt_payload(self, payload, framed, done, now)

    def _collect(self, payload: bytes, done: bool, now: float) -> None:  # noqa: FBT001 — as the callbacks above
        """Read the start of an error answer, then decide whether it goes to the client or another instance is tried."""
        self._start += payload
        reply = self._failed_reply
        if reply is None or (not done and len(self._start) < BODY_START_BYTES):
            return
        self._failed_reply = None
        start, self._start = self._start, b""
        exchange = self.exchange
        engine = exchange.plane.engines.get(self.route.engine)
        retryable = engine is not None and engine.retryable(reply.status, start)
        if retryable and exchange.may_retry(self):
            if self.upstream is not None and not done:
                self.upstream.abort()
                self.upstream = None
            self._complete()
            error = UpstreamError(f"The engine answered with status {reply.status}.")
            exchange.attempt_failed(self, error, status=reply.status)
        else:
            if done:
                self._complete()
            exchange.attempt_answered(self, reply, start, done, now)

    def lost(self, why: str) -> None:
        """Try elsewhere, or end what the client has begun to get (called by the connection)."""
        upstream, self.upstream = self.upstream, None
        if self.over:
            return
        begun = upstream is not None and upstream.heard
        stale = upstream is not None and not upstream.fresh and self._stale < STALE_MOST
        if stale and not begun and not self.exchange.gone:
            self._stale += 1
            self._segments = None
            self._dial = self._pool.dial(self)  # as if it had never been taken
            return
        if not begun and self.first_byte_at is None:
            self._unreached(Failure.REFUSED, why)
            return
        self._end()
        self.exchange.attempt_broken(self, UpstreamError(f"The engine's answer broke off: {why}.", code="engine_cut"))

    def silent(self) -> None:
        """Give up on an engine that says nothing (called by the connection)."""
        if self.upstream is not None:
            self.upstream.abort()
        if self.over:
            return
        plane, idle_s = self.exchange.plane, self.exchange.plane.settings.upstream_idle_s
        plane.dispatcher.failed(self.route.instance, Failure.TIMEOUT)
        self._end()
        error = UpstreamError(f"The engine sent nothing for {idle_s:.0f} s.", code="engine_timeout")
        self.exchange.attempt_broken(self, error, outcome=Outcome.TIMED_OUT)

    def _unreached(self, how: Failure, why: str) -> None:
        self.exchange.plane.unreachable(self.route.instance, how)
        self._end()
        self.exchange.attempt_failed(self, UpstreamError(f"The instance could not be reached: {why}."), status=0)

    # ------------------------------------------------------------------------------------------------- the end

    def pause(self) -> None:
        """Stop reading the answer: the client does not keep up."""
        if self.upstream is not None:
            self.upstream.pause()

    def resume(self) -> None:
        """Go on reading."""
        if self.upstream is not None:
            self.upstream.resume()

    def withdraw(self) -> None:
        """End at once because the route is gone: for the exchange this is a connection that broke."""
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        if self.upstream is not None:
            self.upstream.abort()
        if not self.over:
            self.lost("the instance was withdrawn")

    def abandon(self) -> bool:
        """Stop because nobody wants the answer any more, and tell whether that was possible at once.

        If not, the engine goes on working: its answer is read to the end, and the lease held until then.
        """
        upstream = self.upstream
        streamed = self._read.stream
        begun = upstream is not None and self._segments is None
        if self.over or not begun or (self.traits.aborts_streams if streamed else self.traits.aborts_unary):
            if self._dial is not None:
                self._dial.cancel()
            if upstream is not None:
                upstream.abort()
            self._end()
            return True
        if upstream is not None:
            upstream.resume()
        return False

    def _complete(self) -> None:
        """Give the connection back, then the place."""
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            self._pool.give(upstream)
        self._end()

    def _end(self) -> None:
        """Release the lease: the one place where an attempt does so."""
        if self.over:
            return
        self.over = True
        self._dial = None
        self._segments = None
        self.exchange.plane.leases.pop(self.lease, None)
        self.lease.release()
