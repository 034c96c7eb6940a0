# SPDX-License-Identifier: Apache-2.0
"""Take a request in: who asks, whether it is admitted, its body, and the few fields read from it."""

from __future__ import annotations

import hashlib
import math
import time
from typing import TYPE_CHECKING

from firstkit.core.errors import FirstError, InternalError, InvalidRequest, TooLarge, Unauthenticated
from firstkit.core.principal import Principal
from firstkit.dataplane.body import Body
from firstkit.dataplane.form import read_form
from firstkit.dataplane.head import Head, Prepared
from firstkit.dataplane.peek import Buffer, Read
from firstkit.dataplane.routes import InferenceRoute

if TYPE_CHECKING:
    from firstkit.dataplane.connection import Connection
    from firstkit.dataplane.exchange import InferenceExchange

_FORWARDED = frozenset({b"content-type", b"accept", b"user-agent", b"traceparent", b"tracestate"})
_FORWARDED_PREFIX = b"anthropic-"
"""Headers that go on to an engine: these alone, so that no credential of any kind can be among them."""

CLIENT_ID_MOST = 128


def credential_of(head: Head) -> str | None:
    """Read the caller's credential; None when there is none. Raises Unauthenticated for one of another kind."""
    given = head.named.get(b"authorization")
    if given is not None:
        scheme, _, token = given.partition(b" ")
        if scheme.lower() != b"bearer" or not token.strip():
            raise Unauthenticated("Authorization must be of the form: Bearer API_KEY.")
        return token.strip().decode("latin-1")
    key = head.named.get(b"x-api-key")
    return key.decode("latin-1") if key else None


def digest_of(credential: str) -> bytes:
    """Return what a credential is looked up by."""
    return hashlib.sha256(credential.encode("latin-1")).digest()


def client_id_of(head: Head) -> str:
    """Read the client's own request id, cut to a sane length and to printable characters."""
    text = head.named.get(b"x-request-id", b"")[:CLIENT_ID_MOST].decode("latin-1")
    return text if text.isascii() and text.isprintable() else ""


def check_expectation(head: Head) -> None:
    """Refuse an Expect header that asks for anything but 100-continue."""
    expect = head.named.get(b"expect")
    if expect is not None and expect.lower() != b"100-continue":
        raise InvalidRequest("The only expectation met here is 100-continue.", code="expectation_failed")


def prepare(head: Head, route: InferenceRoute) -> Prepared:
    """Work out what follows from a head alone."""
    prepared = Prepared()
    prepared.client_id = client_id_of(head)
    lines = [
        b"%b: %b\r\n" % pair for pair in head.headers if pair[0] in _FORWARDED or pair[0].startswith(_FORWARDED_PREFIX)
    ]
    prepared.forwarded = b"".join(lines)
    try:
        _judge(head, route, prepared)
    except FirstError as error:
        prepared.refusal = error
    head.prepared = prepared
    return prepared


def _judge(head: Head, route: InferenceRoute, prepared: Prepared) -> None:
    if head.method != "POST":
        allow = (("allow", "POST, OPTIONS"),)
        raise InvalidRequest(f"{route.path} takes POST only.", code="method_not_allowed", headers=allow)
    check_expectation(head)
    named = head.named
    coding = named.get(b"content-encoding")
    if coding is not None and coding.lower() != b"identity":
        raise InvalidRequest("Send the body without Content-Encoding.", code="unsupported_media_type")
    wait = named.get(b"x-first-max-wait")
    if wait is not None:
        prepared.max_wait_s = _seconds(wait)
    prepared.credential = credential_of(head)
    if prepared.credential is None:
        raise Unauthenticated(
            "No API key was given. Send it as Authorization: Bearer API_KEY, or as x-api-key.", code="missing_api_key"
        )
    prepared.digest = digest_of(prepared.credential)


class Intake:
    """Ends in exactly one of the exchange's `taken_in` and `fail`, unless the client leaves before."""

    principal: Principal | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: Body | None = None
    read: Read | None = None
    _limit = 0
    _complete = False
    _closed = False

    def __init__(self, exchange: InferenceExchange) -> None:
        self._exchange = exchange

    def begin(self, conn: Connection, head: Head, route: InferenceRoute) -> None:
        """Find the caller, at once if it is known; raises FirstError."""
        prepared = head.prepared or prepare(head, route)
        if prepared.refusal is not None:
            raise prepared.refusal
        plane = conn.plane
        settings = plane.settings
        self._limit = limit = settings.body_limits.get(route.path, settings.body_limit)
        if head.length is not None and head.length > limit:
            raise self._too_large()
        principal = plane.identity.lookup(prepared.digest)
        if principal is not None:
            self._admit(conn, principal)
        elif prepared.credential is not None:
            plane.resolve(prepared.credential, self._resolved)

    def _resolved(self, found: Principal | None, error: FirstError | None) -> None:
        conn = self._exchange.conn
        if self._closed or conn is None:
            return
        if error is not None:
            self._exchange.fail(error)
        elif found is None:
            self._exchange.fail(unknown_key())
        else:
            try:
                self._admit(conn, found)
            except FirstError as refused:
                self._exchange.fail(refused)

    def _admit(self, conn: Connection, principal: Principal) -> None:
        plane = conn.plane
        self.principal = principal
        self.headers = plane.admission.admit(principal, time.monotonic())
        self.body = Body(plane.bodies)
        conn.read_body()

    # -------------------------------------------------------------------------------------------------- the body

    def piece(self, piece: bytes) -> None:
        """Take a piece of the body; raises FirstError."""
        body, conn = self.body, self._exchange.conn
        if body is None or conn is None:
            return
        if body.size + len(piece) > self._limit:
            raise self._too_large()
        if body.add(piece, self._kept):
            conn.pause_reading()

    def end(self) -> None:
        """Take the body's end; raises FirstError."""
        self._complete = True
        if self.body is not None and self.body.complete():
            self._examine(self.body)

    def close(self) -> None:
        """Give the body up; nothing is told any more."""
        self._closed = True
        if self.body is not None:
            self.body.release()

    def _kept(self, error: FirstError | None) -> None:
        """Go on after a piece has been written to its file."""
        exchange, body = self._exchange, self.body
        if self._closed or exchange.conn is None or body is None:
            return
        if error is not None:
            exchange.fail(error)
            return
        exchange.conn.resume_reading()
        if self._complete and body.complete():
            self._examine(body)

    def _examine(self, body: Body) -> None:
        exchange = self._exchange
        route, peeker = exchange.route, exchange.plane.peeker
        if not route.form:
            if not body.size:
                raise InvalidRequest("The body is empty; a JSON object was expected.", code="invalid_json")
            if not body.spilled:
                self._read(peeker.read(body.buffer()))
            else:
                body.examine(peeker.read, self._examined)
            return
        content_type = exchange.head.get(b"content-type")

        def work(buffer: Buffer) -> Read:
            return read_form(buffer, content_type, peeker)

        if not body.size:
            raise InvalidRequest("The body is empty; a multipart form was expected.", code="invalid_form")
        if not body.spilled:
            self._read(work(body.buffer()))
        else:
            body.examine(work, self._examined)

    def _examined(self, result: object) -> None:
        """Go on after a spilled body has been looked at in a thread."""
        if self._closed:
            return
        if isinstance(result, Read):
            self._read(result)
        elif isinstance(result, FirstError):
            self._exchange.fail(result)
        else:
            self._exchange.fail(InternalError("The gateway could not read the request's body."))

    def _read(self, read: Read) -> None:
        self.read = read
        self._exchange.taken_in(read)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The body is longer than the {self._limit} bytes that this route takes.")


def unknown_key() -> Unauthenticated:
    """Build the error for a credential that nobody knows."""
    return Unauthenticated("The API key is not known, has expired or was revoked.")


def _seconds(given: bytes) -> float:
    try:
        value = float(given)
    except ValueError:
        value = -1.0
    if not math.isfinite(value) or value < 0:
        raise InvalidRequest("x-first-max-wait must be a number of seconds, zero or more.", code="invalid_header")
    return value
