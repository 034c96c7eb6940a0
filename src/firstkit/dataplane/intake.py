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
    from firstkit.dataplane.plane import Plane

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
    """The part of an exchange that takes its request in; ends in `taken_in` or `fail`, unless the client leaves before.

    A base class of the exchange, not an object beside it: the two would refer to one another, and what refers in a
    circle has to be collected, for every request.
    """

    __slots__ = ("_complete", "_limit", "conn", "head", "kept", "limits", "over", "plane", "principal", "read", "route")

    def __init__(self, conn: Connection, head: Head, route: InferenceRoute) -> None:
        self.conn: Connection | None = conn
        self.plane: Plane = conn.plane
        self.head = head
        self.route = route
        self.principal: Principal | None = None
        self.limits: tuple[tuple[str, str], ...] = ()
        """Header lines that tell what is left of the caller's rate limits."""
        self.kept: Body | None = None
        self.read: Read | None = None
        self.over = False
        self._limit = 0
        self._complete = False

    def taken_in(self, principal: Principal, body: Body, read: Read) -> None:
        """Go on: everything of the request is here."""
        raise NotImplementedError

    def fail(self, error: FirstError) -> None:
        """End with an error."""
        raise NotImplementedError

    def begin(self) -> None:
        """Find the caller, at once if it is known (called by the connection)."""
        head, route, plane = self.head, self.route, self.plane
        prepared = head.prepared or prepare(head, route)
        settings = plane.settings
        limits = settings.body_limits
        self._limit = limit = limits.get(route.path, settings.body_limit) if limits else settings.body_limit
        if prepared.refusal is not None:
            self.fail(prepared.refusal)
        elif head.length is not None and head.length > limit:
            self.fail(self._too_large())
        else:
            principal = plane.identity.lookup(prepared.digest)
            if principal is not None:
                self._admit(principal)
            elif prepared.credential is not None:
                plane.resolve(prepared.credential, self._resolved)

    def _resolved(self, found: Principal | None, error: FirstError | None) -> None:
        if self.over or self.conn is None:
            return
        if error is not None:
            self.fail(error)
        elif found is None:
            self.fail(unknown_key())
        else:
            self._admit(found)

    def _admit(self, principal: Principal) -> None:
        plane, conn = self.plane, self.conn
        self.principal = principal
        if conn is None:
            return
        try:
            self.limits = plane.admission.admit(principal, time.monotonic())
        except FirstError as error:
            self.fail(error)
            return
        self.kept = body = Body(plane.bodies)
        whole = conn.take_whole()
        if whole is None or not body.take(whole):
            conn.read_body(whole)
        else:
            self._examine(body)

    # -------------------------------------------------------------------------------------------------- the body

    def body(self, piece: bytes) -> None:
        """Take a piece of the body (called by the connection)."""
        body, conn = self.kept, self.conn
        if body is None or conn is None:
            return
        try:
            if body.size + len(piece) > self._limit:
                raise self._too_large()
            if body.add(piece, self._written):
                conn.pause_reading()
        except FirstError as error:
            self.fail(error)

    def body_end(self) -> None:
        """Take the body's end (called by the connection)."""
        if self.over:
            return
        self._complete = True
        body = self.kept
        if body is not None and body.complete():
            self._examine(body)

    def release(self) -> None:
        """Give the body up."""
        if self.kept is not None:
            self.kept.release()

    def _written(self, error: FirstError | None) -> None:
        """Go on after a piece has been written to its file."""
        body, conn = self.kept, self.conn
        if self.over or conn is None or body is None:
            return
        if error is not None:
            self.fail(error)
            return
        conn.resume_reading()
        if self._complete and body.complete():
            self._examine(body)

    def _examine(self, body: Body) -> None:
        peeker = self.plane.peeker
        work = self._read_form if self.route.form else peeker.read
        if body.spilled:
            body.examine(work, self._examined)
            return
        try:
            read = work(body.buffer())
        except FirstError as error:
            self.fail(error)
            return
        self.read = read
        if self.principal is not None:
            self.taken_in(self.principal, body, read)

    def _read_form(self, buffer: Buffer) -> Read:
        return read_form(buffer, self.head.get(b"content-type"), self.plane.peeker)

    def _examined(self, result: object) -> None:
        """Go on after a spilled body has been looked at in a thread."""
        if self.over or self.conn is None or self.kept is None or self.principal is None:
            return
        if isinstance(result, Read):
            self.read = result
            self.taken_in(self.principal, self.kept, result)
        elif isinstance(result, FirstError):
            self.fail(result)
        else:
            self.fail(InternalError("The gateway could not read the request's body."))

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
