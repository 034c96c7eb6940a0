# SPDX-License-Identifier: Apache-2.0
"""Everything that is no inference route goes to the api process: streamed both ways, `Upgrade` as a tunnel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firstkit.core.errors import FirstError, SiteError, TooLarge
from firstkit.core.health.liveness import Failure
from firstkit.core.principal import Principal
from firstkit.core.request import Dialect
from firstkit.dataplane import cors
from firstkit.dataplane.answers import write_error
from firstkit.dataplane.framing import LAST_CHUNK, chunk
from firstkit.dataplane.head import HOP_BY_HOP
from firstkit.dataplane.intake import check_expectation, credential_of, digest_of, unknown_key
from firstkit.dataplane.pools import Dial
from firstkit.dataplane.relay import Relay
from firstkit.dataplane.reply import Reply
from firstkit.dataplane.timers import NEVER
from firstkit.dataplane.upstream import Upstream
from firstkit.wire.caller import ADMIN, PRINCIPAL, encode_principal

if TYPE_CHECKING:
    from firstkit.dataplane.connection import Connection
    from firstkit.dataplane.head import Head

CONTROL = "/control/"
"""Below it, launchers talk to the api with tokens of their own."""

_OURS = b"x-first-"
_PASSED = frozenset({b"x-first-max-wait", b"x-first-desired-version"})
_CREDENTIALS = frozenset({b"authorization", b"x-api-key"})
_FRAMING = frozenset({b"content-length", b"expect", b"x-request-id"})
API_DROPPED = cors.RESPONSE_HEADERS | {b"server", b"x-request-id"}
"""Headers of the api's answers that the gateway sets itself."""


class ApiExchange:
    """One request to the api and its answer. A stale pooled connection is used only where there is no body to lose."""

    __slots__ = (
        "_answering",
        "_body_over",
        "_conn",
        "_dial",
        "_head",
        "_id",
        "_left",
        "_over",
        "_plane",
        "_principal",
        "_relay",
        "_tunnel",
        "_upstream",
    )

    def __init__(self, conn: Connection, head: Head) -> None:
        self._conn: Connection | None = conn
        self._plane = conn.plane
        self._head = head
        self._id = conn.plane.new_id()
        self._principal: Principal | None = None
        self._upstream: Upstream | None = None
        self._dial: Dial | None = None
        self._relay: Relay | None = None
        self._left = 0
        self._body_over = False
        self._answering = False
        self._tunnel = False
        self._over = False

    # ------------------------------------------------------------------------------------------------- the request

    def begin(self) -> None:
        """Find the caller, then the api (called by the connection)."""
        try:
            self._judge()
            credential = None if self._head.target.path.startswith(CONTROL) else credential_of(self._head)
        except FirstError as error:
            self._fail(error)
            return
        if credential is None:
            self._connect()
            return
        principal = self._plane.identity.lookup(digest_of(credential))
        if principal is not None:
            self._resolved(principal, None)
        else:
            self._plane.resolve(credential, self._resolved)

    def _judge(self) -> None:
        head, settings = self._head, self._plane.settings
        check_expectation(head)
        self._left = settings.body_limits.get(head.target.path, settings.body_limit)
        if head.length is not None and head.length > self._left:
            raise TooLarge(f"The body is longer than the {self._left} bytes that this route takes.")

    def _resolved(self, principal: Principal | None, error: FirstError | None) -> None:
        if self._over:
            return
        if error is not None:
            self._fail(error)
        elif principal is None:
            self._fail(unknown_key())
        else:
            self._principal = principal
            self._connect()

    def _connect(self) -> None:
        pool = self._plane.api_pool
        if pool is None:
            self._fail(_no_api())
            return
        reusable = not self._head.has_body and not self._head.upgrade
        upstream = pool.take() if reusable else None
        if upstream is not None:
            self.connected(upstream)
        else:
            self._dial = pool.dial(self)

    def connected(self, upstream: Upstream) -> None:
        """Send the head, and ask for the body (called by the pool)."""
        self._dial = None
        if self._over or self._conn is None:
            upstream.abort()
            return
        self._upstream = upstream
        upstream.begin(self, self._request_head(), to_head=self._head.method == "HEAD")
        if not self._body_over:
            self._conn.read_body()

    def not_connected(self, how: Failure, why: str) -> None:  # noqa: ARG002 — the dialler's callback
        """Say that the api is away (called by the pool)."""
        self._dial = None
        if not self._over:
            self._fail(_no_api())

    def _request_head(self) -> bytes:
        head = self._head
        control = head.target.path.startswith(CONTROL)
        named_hops = {token.strip().lower() for token in head.get(b"connection").split(b",")}
        lines = [f"{head.method} ".encode(), head.target.origin_form, b" HTTP/1.1\r\n"]
        for name, value in head.headers:
            if name in HOP_BY_HOP or name in _FRAMING or name in named_hops:
                continue
            if name.startswith(_OURS) and name not in _PASSED:
                continue
            if name in _CREDENTIALS and not control:
                continue
            lines.append(b"%b: %b\r\n" % (name, value))
        if not head.minor and not head.get(b"host"):
            lines.append(b"host: localhost\r\n")
        lines.append(f"x-first-request-id: {self._id}\r\n".encode())
        if self._principal is not None:
            lines.append(f"{PRINCIPAL}: {encode_principal(self._principal)}\r\n".encode())
        if self._conn is not None and self._conn.admin:
            lines.append(f"{ADMIN}: 1\r\n".encode())
        if head.chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        elif head.length is not None:
            lines.append(b"content-length: %d\r\n" % head.length)
        if head.upgrade:
            lines.append(b"connection: upgrade\r\nupgrade: " + head.get(b"upgrade") + b"\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)

    def body(self, piece: bytes) -> None:
        """Send a piece of the body on (called by the connection)."""
        self._left -= len(piece)
        if self._left < 0:
            self._fail(TooLarge("The body is longer than this route takes."))
        elif self._upstream is not None:
            self._upstream.write(chunk(piece) if self._head.chunked else piece)

    def body_end(self) -> None:
        """Send the body's end on (called by the connection)."""
        self._body_over = True
        if self._head.chunked and self._upstream is not None:
            self._upstream.write(LAST_CHUNK)

    def upstream_slow(self) -> None:
        """Have the client wait (called by the upstream connection)."""
        if self._conn is not None and (self._tunnel or not self._body_over):
            self._conn.pause_reading()

    def upstream_ready(self) -> None:
        """Let the client go on (called by the upstream connection)."""
        if self._conn is not None:
            self._conn.resume_reading()

    # -------------------------------------------------------------------------------------------------- the answer

    def answered(self, reply: Reply, payload: bytes, done: bool, now: float) -> None:  # noqa: FBT001 see User
        """Pass on the answer's head (called by the upstream connection)."""
        conn = self._conn
        if conn is None or self._over:
            return
        self._plane.count_api(reply.status)
        if reply.status == 101:
            self._open_tunnel(reply, payload)
            return
        self._answering = True
        if not self._body_over and self._upstream is not None:
            self._upstream.keep_alive = False
        self._relay = Relay(conn, Dialect.OPENAI, events=False)
        self._relay.open(reply, self._extra(), payload, done=done, now=now)
        if done:
            conn.write(self._relay.last)
            self._end()
        elif conn.slow:
            self.client_slow()

    def payload(self, payload: bytes, framed: bytes | None, done: bool, now: float) -> None:  # noqa: FBT001 see User
        """Pass on more of it (called by the upstream connection)."""
        conn = self._conn
        if conn is None or self._over:
            return
        if self._tunnel:
            conn.write(payload)
            if done:
                self._close_tunnel()
            return
        if self._relay is not None:
            self._relay.payload(payload, framed, done=done, now=now)
            if done:
                conn.write(self._relay.last)
                self._end()

    def lost(self, why: str) -> None:  # noqa: ARG002 — the upstream's callback
        """Try again unseen where nothing can have happened, else say so (called by the upstream connection)."""
        upstream, self._upstream = self._upstream, None
        if self._over or self._conn is None:
            return
        pool = self._plane.api_pool
        if self._tunnel:
            self._close_tunnel()
        elif self._answering and self._relay is not None:
            self._relay.cut()
            self._finish()
        elif upstream is not None and not upstream.fresh and not upstream.heard and pool is not None:
            self._dial = pool.dial(self)
        else:
            self._fail(_no_api())

    def silent(self) -> None:
        """Give up on the api (called by the upstream connection)."""
        if self._upstream is not None:
            self._upstream.abort()
        self.lost("it said nothing")

    def _open_tunnel(self, reply: Reply, payload: bytes) -> None:
        conn, upstream = self._conn, self._upstream
        if conn is None or upstream is None or not self._head.upgrade:
            self._fail(_no_api())
            return
        self._tunnel = True
        upstream.idle_s = NEVER
        upstream.due = NEVER
        shape = reply.shape
        upgrade = b"connection: upgrade\r\nupgrade: " + (shape.upgrade or self._head.get(b"upgrade")) + b"\r\n"
        conn.close_after_answer()
        conn.write(shape.block + upgrade + self._extra() + b"\r\n" + payload)
        conn.become_tunnel(upstream.write)

    def _close_tunnel(self) -> None:
        if self._upstream is not None:
            self._upstream.abort()
        self._finish()

    def _extra(self) -> bytes:
        return f"x-request-id: {self._id}\r\n".encode() + cors.lines(self._head, self._plane.settings.cors_origins)

    # -------------------------------------------------------------------------------------------------- the end

    def client_gone(self) -> None:
        """Let go of the api (called by the connection)."""
        self._conn = None
        self._over = True
        self._drop_upstream()

    def client_slow(self) -> None:
        """Have the api wait (called by the connection)."""
        if self._upstream is not None:
            self._upstream.pause()

    def client_ready(self) -> None:
        """Let the api go on (called by the connection)."""
        if self._upstream is not None:
            self._upstream.resume()

    def refuse(self, error: FirstError) -> None:
        """Answer with an error of the connection's making (called by the connection)."""
        self._fail(error)

    def on_due(self) -> None:
        """No deadline is set."""

    def _fail(self, error: FirstError) -> None:
        conn = self._conn
        if self._over or conn is None:
            return
        self._drop_upstream()
        if self._answering:
            if self._relay is not None and not self._relay.ended:
                self._relay.cut()
        else:
            status, data = write_error(
                error, extra=self._extra(), close=conn.will_close(), to_head=self._head.method == "HEAD"
            )
            self._plane.count_api(status)
            conn.write(data)
        self._finish()

    def _end(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None and self._plane.api_pool is not None:
            self._plane.api_pool.give(upstream)
        self._finish()

    def _finish(self) -> None:
        self._over = True
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.finished()

    def _drop_upstream(self) -> None:
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()


def _no_api() -> SiteError:
    return SiteError(
        "The management api does not answer at present; inference goes on. Try again in a moment.",
        code="api_unavailable",
        retry_after_s=2.0,
    )
