# SPDX-License-Identifier: Apache-2.0
"""One inference request from its arrival to its record: taken in, given a place, tried, answered, settled."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from firstkit.core.errors import FirstError, InternalError, UpstreamError
from firstkit.core.principal import Principal
from firstkit.core.request import Outcome, RequestFacts
from firstkit.dataplane import cors, hold
from firstkit.dataplane.answers import write_error
from firstkit.dataplane.attempt import Attempt
from firstkit.dataplane.body import Body
from firstkit.dataplane.intake import Intake
from firstkit.dataplane.peek import Read
from firstkit.dataplane.relay import NOWHERE, Relay
from firstkit.dataplane.reply import Reply
from firstkit.services.dispatcher import Grant, Ticket
from firstkit.wire.problems import foreign_error_event

if TYPE_CHECKING:
    from firstkit.dataplane.connection import Connection
    from firstkit.dataplane.head import Head
    from firstkit.dataplane.routes import InferenceRoute, Target

_COMPLETE = Outcome.COMPLETE

ERROR_BODY_LIMIT = 64 * 1024
"""How much of an engine's error answer is read to make an event of it."""


class InferenceExchange(Intake):
    """Goes from `begin` to exactly one settling, on success, error and cancel alike.

    It is the client connection's exchange and the dispatcher's waiter; an attempt tells it how it goes.
    """

    __slots__ = (
        "_attempt",
        "_failed_body",
        "_failed_reply",
        "_ticket",
        "_waits_since",
        "at",
        "facts",
        "gone",
        "id",
        "id_line",
        "last_number",
        "relay",
        "started_at",
        "target",
        "tried",
        "waited_s",
    )

    def __init__(self, conn: Connection, head: Head, target: Target, route: InferenceRoute) -> None:
        super().__init__(conn, head, route)
        self.target = target
        self.id = self.plane.new_id()
        self.id_line = f"x-request-id: {self.id}\r\n".encode()
        self.at = time.time()
        self.started_at = time.monotonic()
        self.facts: RequestFacts | None = None
        self.gone = False
        """The client has left; what still comes is metered and dropped."""
        self.relay: Relay | None = None
        self.last_number = 0
        """The number of the last attempt, 0 before the first."""
        self.tried: frozenset[str] = frozenset()
        self.waited_s = 0.0
        """How long it has stood in queues."""
        self._waits_since = 0.0
        self._ticket: Ticket | None = None
        self._attempt: Attempt | None = None
        self._failed_reply: Reply | None = None
        self._failed_body = b""

    def taken_in(self, principal: Principal, body: Body, read: Read) -> None:
        """Ask for a place."""
        conn, plane = self.conn, self.plane
        if conn is None:
            return
        path, cluster, prepared = self.route.path, self.target.cluster, self.head.prepared
        dispatcher = plane.dispatcher
        try:
            model = dispatcher.resolve(read.model, principal, cluster, path)
            self.facts = facts = RequestFacts(
                id=self.id,
                principal=principal,
                path=path,
                model=model.name,
                asked=read.model,
                cluster=cluster,
                stream=read.stream,
                max_tokens=read.max_tokens,
                body_bytes=body.size,
                max_wait_s=prepared.max_wait_s if prepared is not None else None,
            )
            place = dispatcher.open(facts, self)
        except FirstError as error:
            self.fail(error)
            return
        if read.stream:
            conn.set_due(self.started_at + plane.settings.hold_head_s)
        self._placed(place)

    # ------------------------------------------------------------------------------------------ place and attempts

    def _placed(self, place: Grant | Ticket) -> None:
        if isinstance(place, Ticket):
            self._ticket = place
            self._waits_since = time.monotonic()
        else:
            self.granted(place)

    def granted(self, grant: Grant) -> None:
        """Try at the instance (called by the dispatcher)."""
        if self._ticket is not None:
            self._ticket = None
            self.waited_s += time.monotonic() - self._waits_since
        if self.over or self.gone:
            grant.lease.release()
            return
        plane, route = self.plane, grant.route
        engine, body, read = plane.engines.get(route.engine), self.kept, self.read
        if engine is None or body is None or read is None:
            grant.lease.release()
            self.fail(InternalError(f"There is no adapter for the engine kind {route.engine}."))
            return
        self._attempt = attempt = Attempt(self, grant, plane.pools.of(route), engine.traits, read, body)
        self.last_number = attempt.number
        plane.leases[grant.lease] = attempt
        attempt.begin()

    def refused(self, error: FirstError) -> None:
        """Hear that waiting was in vain (called by the dispatcher)."""
        self._ticket = None
        if not self.over:
            self.fail(error)

    def may_retry(self, attempt: Attempt) -> bool:
        """Tell whether another instance may be tried after this attempt."""
        return not self.gone and attempt.number < self.plane.settings.attempts

    def attempt_failed(self, attempt: Attempt, error: UpstreamError, *, status: int) -> None:
        """Try elsewhere: nothing of an answer has reached the client (called by the attempt)."""
        self._attempt = None
        if self.gone:
            self._settle(attempt, Outcome.CLIENT_GONE, status=0)
            return
        facts = self.facts
        self.tried |= {attempt.route.instance}
        try:
            if facts is None or not self.may_retry(attempt):
                raise error
            since_arrival_s = time.monotonic() - self.started_at
            place = self.plane.dispatcher.again(
                facts, self, attempt=attempt.number + 1, exclude=self.tried, waited_s=since_arrival_s
            )
        except FirstError as last:
            self.fail(last, attempt=attempt)
            return
        self.plane.books.retried(self, attempt, status=status, error_code=error.code)
        self._placed(place)

    def attempt_refused(self, attempt: Attempt, error: FirstError) -> None:
        """End because of something on our own side (called by the attempt)."""
        self._attempt = None
        self.fail(error, attempt=attempt)

    def attempt_broken(self, attempt: Attempt, error: UpstreamError, *, outcome: Outcome = Outcome.CUT) -> None:
        """End an answer that will never be whole (called by the attempt)."""
        self._attempt = None
        relay = self.relay
        if self.gone:
            self._settle(attempt, Outcome.CLIENT_GONE, status=relay.status if relay else 0)
        elif relay is None or not relay.opened:
            self.fail(error, attempt=attempt)
        else:
            if relay.streams:
                relay.fail_with(error)
            else:
                relay.cut()
            self._settle(attempt, outcome, status=relay.status, error_code=error.code, last=relay.last)

    # ------------------------------------------------------------------------------------------------- the answer

    def attempt_answered(self, attempt: Attempt, reply: Reply, payload: bytes, done: bool, now: float) -> None:  # noqa: FBT001
        """Pass on the engine's answer (called by the attempt)."""
        conn, relay = self.conn, self.relay
        if self.kept is not None:
            self.kept.release()
        if relay is None:
            out = conn if conn is not None else NOWHERE
            self.relay = relay = Relay(out, self.route.dialect, swallow_usage=attempt.swallows_usage)
        elif reply.status == 200 and reply.shape.events:
            relay.swallow_usage(attempt.swallows_usage)
        else:
            self._failed_reply = reply
            self._failed(attempt, payload, done)
            return
        relay.open(reply, self._extra(attempt), payload, done=done, now=now)
        if done:
            self._answered(attempt, relay)
            return
        if relay.takes_tokens and attempt.upstream is not None:
            attempt.upstream.pass_tokens_to(relay)
        if conn is not None and conn.slow:
            attempt.pause()

    def attempt_payload(self, attempt: Attempt, payload: bytes, framed: bytes | None, done: bool, now: float) -> None:  # noqa: FBT001
        """Pass on more of it (called by the attempt)."""
        relay = self.relay
        if relay is None or self.over:
            return
        if self._failed_reply is not None:
            self._failed(attempt, payload, done)
            return
        if done and relay.unfinished:
            self.attempt_broken(attempt, UpstreamError("The engine's stream ended too early.", code="engine_cut"))
            return
        relay.payload(payload, framed, done=done, now=now)
        if done:
            self._answered(attempt, relay)

    def _answered(self, attempt: Attempt, relay: Relay) -> None:
        self._attempt = None
        if self.gone:
            outcome = Outcome.CLIENT_GONE
        elif relay.status >= 400 or (relay.meter is not None and relay.meter.failed):
            outcome = Outcome.ENGINE_ERROR
        else:
            outcome = _COMPLETE
        self._settle(attempt, outcome, status=relay.status, last=relay.last)

    def _failed(self, attempt: Attempt, payload: bytes, done: bool) -> None:  # noqa: FBT001
        """Make an event of an engine's answer that is no stream, for a client whose stream has begun already."""
        reply, relay = self._failed_reply, self.relay
        if reply is None or relay is None:
            return
        self._failed_body += payload[: ERROR_BODY_LIMIT - len(self._failed_body)]
        if done or len(self._failed_body) >= ERROR_BODY_LIMIT:
            if not done:
                attempt.abandon()
            self._attempt = None
            relay.fail(foreign_error_event(self._failed_body, status=reply.status, dialect=self.route.dialect))
            self._settle(
                attempt, Outcome.ENGINE_ERROR, status=reply.status, error_code="engine_failed", last=relay.last
            )

    def _extra(self, attempt: Attempt | None) -> bytes:
        """Write our own header lines of the answer."""
        lines = self.id_line
        if attempt is not None:
            lines += attempt.place()
        if self.limits:
            lines += "".join([f"{name}: {value}\r\n" for name, value in self.limits]).encode("latin-1", "replace")
        origins = self.plane.settings.cors_origins
        return lines + cors.lines(self.head, origins) if origins else lines

    # ------------------------------------------------------------------------------------------------- waiting

    def on_due(self) -> None:
        """Begin the stream, or tell again how things stand (called by the connection)."""
        conn, relay, attempt = self.conn, self.relay, self._attempt
        if self.over or conn is None or (attempt is not None and attempt.first_byte_at is not None):
            return
        if self._ticket is not None:
            comment = hold.waiting_comment(self._ticket.status())
        elif attempt is not None:
            comment = hold.sent_comment(attempt.route)
        else:
            return
        if relay is None:
            self.relay = relay = Relay(conn, self.route.dialect)
            relay.hold(self._extra(None), comment)
        elif not conn.slow:
            relay.comment(comment)
        conn.set_due(time.monotonic() + self.plane.settings.comment_every_s)

    def client_slow(self) -> None:
        """Stop the engine: the client does not keep up (called by the connection)."""
        if self._attempt is not None:
            self._attempt.pause()

    def client_ready(self) -> None:
        """Let the engine go on (called by the connection)."""
        if self._attempt is not None:
            self._attempt.resume()

    # -------------------------------------------------------------------------------------------------- the end

    def client_gone(self) -> None:
        """Stop everything that can be stopped (called by the connection)."""
        if self.over:
            return
        self.gone = True
        self.conn = None
        if self._ticket is not None:
            self._ticket.leave()
            self._ticket = None
        attempt, relay = self._attempt, self.relay
        if relay is not None:
            relay.redirect(NOWHERE)
        if attempt is None:
            self._settle(None, Outcome.CLIENT_GONE, status=0)
        elif attempt.abandon():
            self._attempt = None
            self._settle(attempt, Outcome.CLIENT_GONE, status=relay.status if relay else 0)
        else:
            self.release()

    def refuse(self, error: FirstError) -> None:
        """Answer with an error of the connection's making (called by the connection)."""
        self.fail(error)

    def fail(self, error: FirstError, *, attempt: Attempt | None = None) -> None:
        """Answer with an error of ours, in the route's dialect."""
        if self.over:
            return
        conn, relay = self.conn, self.relay
        if self._ticket is not None:
            self._ticket.leave()
            self._ticket = None
        status, last = 0, b""
        if conn is not None and relay is not None and relay.opened:
            relay.fail_with(error)
            status, last = relay.status, relay.last
        elif conn is not None:
            status, last = write_error(
                error,
                dialect=self.route.dialect,
                request_id=self.id,
                extra=self._extra(attempt),
                close=conn.will_close(),
            )
        outcome = Outcome.REJECTED
        if isinstance(error, UpstreamError):
            outcome = Outcome.TIMED_OUT if error.code == "engine_timeout" else Outcome.ENGINE_ERROR
        self._settle(attempt, outcome, status=status, error_code=error.code, last=last)

    def _settle(
        self, attempt: Attempt | None, outcome: Outcome, *, status: int, error_code: str = "", last: bytes = b""
    ) -> None:
        """Hand the request over to the books, once: they write it up, then send `last` and free the connection."""
        if self.over:
            return
        self.over = True
        if self.kept is not None:
            self.kept.release()
        conn, self.conn = self.conn, None
        self.plane.books.settle(self, attempt, outcome, status, error_code, conn, last)
