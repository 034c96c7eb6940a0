# SPDX-License-Identifier: Apache-2.0
"""One inference request from its arrival to its record: taken in, given a place, tried, answered, settled."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from firstkit.core.errors import FirstError, InternalError, UpstreamError
from firstkit.core.request import Outcome, RequestFacts
from firstkit.dataplane import cors, hold
from firstkit.dataplane.answers import write_error
from firstkit.dataplane.attempt import Attempt
from firstkit.dataplane.body import Body
from firstkit.dataplane.intake import Intake
from firstkit.dataplane.peek import Read
from firstkit.dataplane.relay import Out, Relay
from firstkit.dataplane.reply import Reply
from firstkit.services.dispatcher import Grant, Ticket
from firstkit.wire.problems import foreign_error_event

if TYPE_CHECKING:
    from firstkit.dataplane.connection import Connection
    from firstkit.dataplane.head import Head

ERROR_BODY_LIMIT = 64 * 1024
"""How much of an engine's error answer is read to make an event of it."""


class _Nowhere:
    """Where an answer goes whose client has left: it is only metered."""

    minor = 1

    def write(self, data: bytes) -> None:
        pass

    def will_close(self) -> bool:
        return True

    def close_after_answer(self) -> None:
        pass

    def reset(self) -> None:
        pass


NOWHERE: Out = _Nowhere()


class InferenceExchange:
    """Goes from `begin` to exactly one settling, on success, error and cancel alike.

    It is the client connection's exchange and the dispatcher's waiter; an attempt tells it how it goes.
    """

    __slots__ = (
        "_attempt",
        "_failed_body",
        "_failed_reply",
        "_intake",
        "_last_number",
        "_relay",
        "_ticket",
        "_tried",
        "at",
        "conn",
        "facts",
        "gone",
        "head",
        "id",
        "over",
        "plane",
        "query",
        "route",
        "started_at",
    )

    def __init__(self, conn: Connection, head: Head) -> None:
        self.conn: Connection | None = conn
        self.plane = conn.plane
        self.head = head
        target = head.target
        if target.route is None:
            raise ValueError("no inference route")
        self.route = target.route
        self.query = target.query
        self.id = self.plane.new_id()
        self.at = time.time()
        self.started_at = time.monotonic()
        self.facts: RequestFacts | None = None
        self.gone = False
        """The client has left; what still comes is metered and dropped."""
        self.over = False
        self._intake = Intake(self)
        self._ticket: Ticket | None = None
        self._attempt: Attempt | None = None
        self._tried: frozenset[str] = frozenset()
        self._last_number = 0
        self._relay: Relay | None = None
        self._failed_reply: Reply | None = None
        self._failed_body = b""

    # ------------------------------------------------------------------------------------------------ taken in

    def begin(self) -> None:
        """Start (called by the connection)."""
        conn = self.conn
        if conn is None:
            return
        try:
            self._intake.begin(conn, self.head, self.route)
        except FirstError as error:
            self.fail(error)

    def body(self, piece: bytes) -> None:
        """Take a piece of the body (called by the connection)."""
        try:
            self._intake.piece(piece)
        except FirstError as error:
            self.fail(error)

    def body_end(self) -> None:
        """Take the body's end (called by the connection)."""
        try:
            self._intake.end()
        except FirstError as error:
            self.fail(error)

    def refuse(self, error: FirstError) -> None:
        """Answer with an error of the connection's making (called by the connection)."""
        self.fail(error)

    @property
    def read(self) -> Read:
        """What was read from the body."""
        read = self._intake.read
        if read is None:
            raise InternalError("the body has not been read yet")
        return read

    @property
    def body_kept(self) -> Body:
        """The body."""
        body = self._intake.body
        if body is None:
            raise InternalError("there is no body")
        return body

    @property
    def forwarded(self) -> bytes:
        """Header lines that go on to the engine."""
        return self._intake.forwarded

    def taken_in(self, read: Read) -> None:
        """Ask for a place (called by the intake)."""
        conn, intake, plane = self.conn, self._intake, self.plane
        principal, body = intake.principal, intake.body
        if conn is None or principal is None or body is None:
            return
        peek = read.peek
        head = self.head
        cluster = head.target.cluster
        intake.forward(head, self.id)
        try:
            model = plane.dispatcher.resolve(peek.model, principal, cluster, self.route.path)
            self.facts = RequestFacts(
                id=self.id,
                principal=principal,
                path=self.route.path,
                model=model.name,
                asked=peek.model,
                cluster=cluster,
                stream=peek.stream,
                max_tokens=peek.max_tokens,
                body_bytes=body.size,
                max_wait_s=intake.max_wait_s,
            )
            place = plane.dispatcher.open(self.facts, self)
        except FirstError as error:
            self.fail(error)
            return
        if peek.stream:
            conn.set_due(self.started_at + plane.settings.hold_head_s)
        self._placed(place)

    # ------------------------------------------------------------------------------------------ place and attempts

    def _placed(self, place: Grant | Ticket) -> None:
        if isinstance(place, Ticket):
            self._ticket = place
        else:
            self.granted(place)

    def granted(self, grant: Grant) -> None:
        """Try at the instance (called by the dispatcher)."""
        self._ticket = None
        if self.over or self.gone:
            grant.lease.release()
            return
        plane, route = self.plane, grant.route
        engine = plane.engines.get(route.engine)
        if engine is None:
            grant.lease.release()
            self.fail(InternalError(f"There is no adapter for the engine kind {route.engine}."))
            return
        attempt = Attempt(self, grant, plane.pools.of(route), engine.traits, time.monotonic())
        self._attempt = attempt
        self._last_number = attempt.number
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
        self._tried |= {attempt.route.instance}
        try:
            if facts is None or not self.may_retry(attempt):
                raise error
            place = self.plane.dispatcher.again(facts, self, attempt=attempt.number + 1, exclude=self._tried)
        except FirstError as last:
            self.fail(last, attempt=attempt)
            return
        self.plane.record(self, attempt, Outcome.RETRIED, status=status, ended=False, error_code=error.code)
        self._placed(place)

    def attempt_refused(self, attempt: Attempt, error: FirstError) -> None:
        """End because of something on our own side (called by the attempt)."""
        self._attempt = None
        self.fail(error, attempt=attempt)

    def attempt_broken(self, attempt: Attempt, error: UpstreamError, *, outcome: Outcome = Outcome.CUT) -> None:
        """End an answer that will never be whole (called by the attempt)."""
        self._attempt = None
        relay = self._relay
        if self.gone:
            self._settle(attempt, Outcome.CLIENT_GONE, status=relay.status if relay else 0)
        elif relay is None or not relay.opened:
            self.fail(error, attempt=attempt)
        else:
            if relay.streams:
                relay.fail_with(error)
            else:
                relay.cut()
            self._settle(attempt, outcome, status=relay.status, error_code=error.code)

    # ------------------------------------------------------------------------------------------------- the answer

    def attempt_answered(self, attempt: Attempt, reply: Reply, payload: bytes, done: bool, now: float) -> None:  # noqa: FBT001
        """Pass on the engine's answer (called by the attempt)."""
        self._intake.close()
        relay = self._relay
        if relay is None:
            relay = self._relay = Relay(
                self.conn or NOWHERE, self.route.dialect, swallow_usage=attempt.swallows_usage
            )
        elif not (reply.status == 200 and reply.content_type.lower().startswith(b"text/event-stream")):
            self._failed_reply = reply
            self._failed(attempt, payload, done)
            return
        else:
            relay.swallow_usage(attempt.swallows_usage)
        relay.open(reply, self._extra(attempt), payload, done=done, now=now)
        if done:
            self._answered(attempt, relay)
        elif self.conn is not None and self.conn.slow:
            attempt.pause()

    def attempt_payload(self, attempt: Attempt, payload: bytes, framed: bytes | None, done: bool, now: float) -> None:  # noqa: FBT001
        """Pass on more of it (called by the attempt)."""
        relay = self._relay
        if relay is None or self.over:
            return
        if self._failed_reply is not None:
            self._failed(attempt, payload, done)
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
            outcome = Outcome.COMPLETE
        self._settle(attempt, outcome, status=relay.status)

    def _failed(self, attempt: Attempt, payload: bytes, done: bool) -> None:  # noqa: FBT001
        """Make an event of an engine's answer that is no stream, for a client whose stream has begun already."""
        reply, relay = self._failed_reply, self._relay
        if reply is None or relay is None:
            return
        self._failed_body += payload[: ERROR_BODY_LIMIT - len(self._failed_body)]
        if done or len(self._failed_body) >= ERROR_BODY_LIMIT:
            if not done:
                attempt.abandon()
            self._attempt = None
            relay.fail(foreign_error_event(self._failed_body, status=reply.status, dialect=self.route.dialect))
            self._settle(attempt, Outcome.ENGINE_ERROR, status=reply.status, error_code="engine_failed")

    def _extra(self, attempt: Attempt | None) -> bytes:
        """Write our own header lines of the answer."""
        text = f"x-request-id: {self.id}\r\n"
        if attempt is not None:
            text += f"x-first-cluster: {attempt.route.cluster}\r\nx-first-instance: {attempt.route.instance}\r\n"
        for name, value in self._intake.headers:
            text += f"{name}: {value}\r\n"
        return text.encode("latin-1", "replace") + cors.lines(self.head, self.plane.settings.cors_origins)

    # ------------------------------------------------------------------------------------------------- waiting

    def on_due(self) -> None:
        """Begin the stream, or tell again how things stand (called by the connection)."""
        conn = self.conn
        relay = self._relay
        if self.over or conn is None or (relay is not None and self._attempt is not None and self._attempt.first_byte_at):
            return
        if self._ticket is not None:
            comment = hold.waiting_comment(self._ticket.status())
        elif self._attempt is not None:
            comment = hold.sent_comment(self._attempt.route)
        else:
            return
        if relay is None:
            self._relay = relay = Relay(conn, self.route.dialect)
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
        attempt, relay = self._attempt, self._relay
        if relay is not None:
            relay.redirect(NOWHERE)
        if attempt is None:
            self._settle(None, Outcome.CLIENT_GONE, status=0)
        elif attempt.abandon():
            self._attempt = None
            self._settle(attempt, Outcome.CLIENT_GONE, status=relay.status if relay else 0)
        else:
            self._intake.close()

    def fail(self, error: FirstError, *, attempt: Attempt | None = None) -> None:
        """Answer with an error of ours, in the route's dialect."""
        if self.over:
            return
        conn, relay = self.conn, self._relay
        if self._ticket is not None:
            self._ticket.leave()
            self._ticket = None
        if conn is None:
            status = 0
        elif relay is not None and relay.opened:
            relay.fail_with(error)
            status = relay.status
        else:
            status, data = write_error(
                error,
                dialect=self.route.dialect,
                request_id=self.id,
                extra=self._extra(attempt),
                close=conn.will_close(),
            )
            conn.write(data)
        outcome = Outcome.REJECTED
        if isinstance(error, UpstreamError):
            outcome = Outcome.TIMED_OUT if error.code == "engine_timeout" else Outcome.ENGINE_ERROR
        self._settle(attempt, outcome, status=status, error_code=error.code)

    def _settle(self, attempt: Attempt | None, outcome: Outcome, *, status: int, error_code: str = "") -> None:
        """Close the books on the request, once; then the connection may take the next one."""
        if self.over:
            return
        self.over = True
        self._intake.close()
        self.plane.record(self, attempt, outcome, status=status, ended=True, error_code=error_code)
        conn, self.conn = self.conn, None
        if conn is not None:
            conn.finished()

    @property
    def intake(self) -> Intake:
        """What was taken in."""
        return self._intake

    @property
    def relay(self) -> Relay | None:
        """The answer, once it has begun."""
        return self._relay

    @property
    def last_number(self) -> int:
        """The number of the last attempt, 0 before the first."""
        return self._last_number
