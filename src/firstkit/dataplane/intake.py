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
from firstkit.dataplane.head import Head
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


class Intake:
    """Ends in exactly one of the exchange's `taken_in` and `fail`, unless the client leaves before."""

    __slots__ = ("_closed", "_complete", "_exchange", "_limit", "body", "forwarded", "headers", "max_wait_s", "principal", "read")

    def __init__(self, exchange: InferenceExchange) -> None:
        self._exchange = exchange
        self._limit = 0
        self._complete = False
        self._closed = False
        self.principal: Principal | None = None
        self.headers: tuple[tuple[str, str], ...] = ()
        self.max_wait_s: float | None = None
        self.forwarded = b""
        self.body: Body | None = None
        self.read: Read | None = None

    def begin(self, conn: Connection, head: Head, route: InferenceRoute) -> None:
        """Judge the head and find the caller, at once if it is known; raises FirstError."""
        if head.method != "POST":
            raise InvalidRequest(
                f"{route.path} takes POST only.", code="method_not_allowed", headers=(("allow", "POST, OPTIONS"),)
            )
        plane = conn.plane
        self._limit = plane.settings.body_limits.get(route.path, plane.settings.body_limit)
        self._judge(head)
        credential = credential_of(head)
        if credential is None:
            raise Unauthenticated(
                "No API key was given. Send it as Authorization: Bearer API_KEY, or as x-api-key.", code="missing_api_key"
            )
        principal = plane.identity.lookup(digest_of(credential))
        if principal is not None:
            self._admit(principal)
        else:
            plane.resolve(credential, self._resolved)

    def _judge(self, head: Head) -> None:
        named = head.named
        expect = named.get(b"expect")
        if expect is not None and expect.lower() != b"100-continue":
            raise InvalidRequest("The only expectation met here is 100-continue.", code="expectation_failed")
        coding = named.get(b"content-encoding")
        if coding is not None and coding.lower() != b"identity":
            raise InvalidRequest("Send the body without Content-Encoding.", code="unsupported_media_type")
        if head.length is not None and head.length > self._limit:
            raise self._too_large()
        wait = named.get(b"x-first-max-wait")
        if wait is not None:
            self.max_wait_s = _seconds(wait)

    def _resolved(self, found: Principal | None, error: FirstError | None) -> None:
        if self._closed:
            return
        if error is not None:
            self._exchange.fail(error)
        elif found is None:
            self._exchange.fail(Unauthenticated("The API key is not known, has expired or was revoked."))
        else:
            try:
                self._admit(found)
            except FirstError as refused:
                self._exchange.fail(refused)

    def _admit(self, principal: Principal) -> None:
        exchange = self._exchange
        self.principal = principal
        plane = exchange.plane
        try:
            self.headers = plane.admission.admit(principal, time.monotonic())
        except FirstError as error:
            self.headers = ()
            raise error from None
        self.body = plane.bodies.body()
        if exchange.conn is not None:
            exchange.conn.read_body()

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
        route, peeker = self._exchange.route, self._exchange.plane.peeker
        if not route.form:
            if not body.size:
                raise InvalidRequest("The body is empty; a JSON object was expected.", code="invalid_json")
            body.examine(peeker.read, self._examined)
            return
        content_type = self._exchange.head.get(b"content-type")

        def work(buffer: Buffer) -> Read:
            return Read(peek=read_form(buffer, content_type, peeker), opening=0, gives_stream_options=True)

        if not body.size:
            raise InvalidRequest("The body is empty; a multipart form was expected.", code="invalid_form")
        body.examine(work, self._examined)

    def _examined(self, result: object) -> None:
        if self._closed:
            return
        if isinstance(result, Read):
            self.read = result
            self._exchange.taken_in(result)
        elif isinstance(result, FirstError):
            self._exchange.fail(result)
        else:
            self._exchange.fail(InternalError("The gateway could not read the request's body."))

    def forward(self, head: Head, request_id: str) -> None:
        """Write the header lines that go on to an engine."""
        parts: list[bytes] = []
        for pair in head.headers:
            name = pair[0]
            if name in _FORWARDED or name.startswith(_FORWARDED_PREFIX):
                parts.append(b"%b: %b\r\n" % pair)
        parts.append(f"x-request-id: {request_id}\r\n".encode())
        self.forwarded = b"".join(parts)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The body is longer than the {self._limit} bytes that this route takes.")


def _seconds(given: bytes) -> float:
    try:
        value = float(given)
    except ValueError:
        value = -1.0
    if not math.isfinite(value) or value < 0:
        raise InvalidRequest("x-first-max-wait must be a number of seconds, zero or more.", code="invalid_header")
    return value

