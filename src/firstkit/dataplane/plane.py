# SPDX-License-Identifier: Apache-2.0
"""The data plane's face: listens, hands each request to whoever answers it, keeps the books, ends in good order."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from firstkit.core.errors import FirstError, InternalError, NotFound, SiteError
from firstkit.core.health.liveness import Failure
from firstkit.core.principal import Principal
from firstkit.core.request import AttemptRecord
from firstkit.core.settings import GatewaySettings
from firstkit.core.topology import Address, Snapshot
from firstkit.dataplane import cors
from firstkit.dataplane.answers import Local, LocalAnswer
from firstkit.dataplane.api import API_DROPPED, CONTROL, ApiExchange
from firstkit.dataplane.attempt import Attempt
from firstkit.dataplane.body import BodyAccount
from firstkit.dataplane.books import AttemptLine, Books
from firstkit.dataplane.connection import Connection, Exchange
from firstkit.dataplane.doors import HANDSHAKE_S, Arrival
from firstkit.dataplane.exchange import InferenceExchange
from firstkit.dataplane.head import Head
from firstkit.dataplane.local import LocalExchange
from firstkit.dataplane.peek import Peeker
from firstkit.dataplane.pools import Dialler, Pool, watch_over
from firstkit.dataplane.routes import Kind
from firstkit.dataplane.timers import Wheel
from firstkit.dataplane.watch import Watches
from firstkit.dataplane.ways import Pools
from firstkit.ports.engine import EngineTraits
from firstkit.ports.identity import Identity
from firstkit.ports.telemetry import Telemetry
from firstkit.services.admission import Admission
from firstkit.services.dispatcher import Dispatcher, Lease

if TYPE_CHECKING:
    from collections.abc import Coroutine

log = logging.getLogger(__name__)

BACKLOG = 4096
METRICS_PATH = "/metrics"


class EngineManners(Protocol):
    """What the data plane must know of an engine; every `Engine` adapter is one."""

    traits: EngineTraits

    def retryable(self, status: int, body_start: bytes) -> bool: ...


class Plane:
    """One gateway's data plane, on the running loop and in its thread.

    `local` are the routes answered in-process on the public listener, `admin_local` those on the admin listener.
    Whoever makes the dispatcher gives it `cut` of this plane and `later` of its wheel.
    """

    def __init__(
        self,
        *,
        settings: GatewaySettings,
        wheel: Wheel,
        dispatcher: Dispatcher,
        admission: Admission,
        identity: Identity,
        engines: Mapping[str, EngineManners],
        records: Callable[[AttemptRecord], None],
        records_together: Callable[[Sequence[AttemptLine]], None] | None = None,
        telemetry: Telemetry,
        api: Address | None = None,
        server_tls: ssl.SSLContext | None = None,
        client_tls: ssl.SSLContext | None = None,
        local: Mapping[str, Local] | None = None,
        admin_local: Mapping[str, Local] | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.settings = settings
        self.wheel = wheel
        self.dispatcher = dispatcher
        self.admission = admission
        self.identity = identity
        self.engines = engines
        self.leases: dict[Lease, Attempt] = {}
        self.connections: set[Connection] = set()
        self.draining = False
        self.peeker = self._make_peeker()
        self._server_tls = server_tls
        self._local = dict(local or {})
        self._admin_local = dict(admin_local or {})
        self._servers: list[asyncio.AbstractServer] = []
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="first-bodies")
        self._random = ""
        self._random_at = 0
        self.bodies = BodyAccount(
            memory_limit=settings.body_memory,
            disk_limit=settings.body_disk,
            folder=settings.uploads,
            elsewhere=self.elsewhere,
        )
        self._dialler = Dialler(loop=self.loop, wheel=wheel, settings=settings, client_tls=client_tls)
        self.outbox = self._dialler.outbox
        self.pools = Pools(self._dialler, on_alive=dispatcher.alive, on_dead=dispatcher.dead)
        self.api_pool = Pool(self._dialler, api, dropped=API_DROPPED) if api is not None else None
        self._watches = Watches(self._dialler, on_alive=dispatcher.alive, on_dead=dispatcher.dead)
        self.books = Books(
            telemetry,
            outbox=self.outbox,
            admission=admission,
            records=records_together or _one_by_one(records),
        )
        self._gauges(telemetry)

    # ---------------------------------------------------------------------------------------------------- life

    async def listen(self, sock: socket.socket, *, admin: bool = False) -> None:
        """Serve on a bound socket, TCP or Unix; the caller keeps it, and may hand it on to a successor."""
        own = socket.socket(fileno=os.dup(sock.fileno()))
        own.setblocking(False)
        context = None if admin or own.family == socket.AF_UNIX else self._server_tls
        factory = self._admin_connection if admin else self._public_connection
        if own.family == socket.AF_UNIX:
            server = await self.loop.create_unix_server(factory, sock=own, backlog=BACKLOG)
        else:
            watch_over(own, self.settings.user_timeout_s)
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server = await self.loop.create_server(factory, sock=own, backlog=BACKLOG, ssl=context)
        self._servers.append(server)

    async def listen_for_doors(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        """Let doors park, and jobs report, on a bound socket; `context` asks for their certificates."""
        own = socket.socket(fileno=os.dup(sock.fileno()))
        own.setblocking(False)
        watch_over(own, self.settings.user_timeout_s)
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = await self.loop.create_server(
            self._arrival, sock=own, backlog=BACKLOG, ssl=context, ssl_handshake_timeout=HANDSHAKE_S
        )
        self._servers.append(server)

    def set_snapshot(self, snapshot: Snapshot) -> None:
        """Take in which instances there are, after the dispatcher has."""
        self._watches.set_routes(snapshot.routes)
        self.pools.set_routes(snapshot.routes)

    def use_client_tls(self, context: ssl.SSLContext) -> None:
        """Dial doors with this context's certificate from now on."""
        self._dialler.client_tls = context

    def reload(self, settings: GatewaySettings) -> None:
        """Take other settings for requests to come; sockets and what is under way stay as they are."""
        self.settings = settings
        self._dialler.settings = settings
        self.bodies.memory_limit = settings.body_memory
        self.bodies.disk_limit = settings.body_disk
        self.bodies.folder = settings.uploads
        self.peeker = self._make_peeker()

    async def drain(self, deadline_s: float) -> bool:
        """Take no more connections, finish what is under way, then close; tell whether all of it finished in time."""
        self.draining = True
        for server in self._servers:
            server.close()
        self.pools.leave()
        for connection in list(self.connections):
            connection.close_if_idle()
        end = self.loop.time() + deadline_s
        while self.busy and self.loop.time() < end:
            await asyncio.sleep(0.02)
            for connection in list(self.connections):
                connection.close_if_idle()
        finished = not self.busy
        await self.close()
        return finished

    async def close(self) -> None:
        """End everything at once: who waits is refused, streams end in an error event."""
        self.draining = True
        for server in self._servers:
            server.close()
        self.dispatcher.close(_stopping())
        for attempt in list(self.leases.values()):
            attempt.withdraw()
        self.books.flush()
        for connection in list(self.connections):
            connection.shut()
        self.books.flush()
        for _ in range(50):
            if not self.connections:
                break
            await asyncio.sleep(0.01)
        for connection in list(self.connections):
            connection.transport.abort()
        self._watches.close()
        self.pools.close()
        if self.api_pool is not None:
            self.api_pool.cut()
        await self._dialler.close()
        self.wheel.close()
        self._threads.shutdown(wait=True)
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()

    @property
    def busy(self) -> int:
        """Count what is under way: requests of clients that are here, and leases of those that have left."""
        return max(len(self.leases), sum(not connection.idle for connection in self.connections))

    # ------------------------------------------------------------------------------------------------- requests

    def exchange_for(self, conn: Connection, head: Head) -> Exchange:
        """Decide who answers a request."""
        target = head.target
        if conn.only and (target.kind is not Kind.API or not target.path.startswith(conn.only)):
            return LocalExchange(conn, head, NotFound("There is nothing at this path."))
        if head.method == "OPTIONS" and cors.is_preflight(head):
            told = LocalAnswer(status=204, body=b"")
            return LocalExchange(conn, head, told, extra=cors.preflight(head, self.settings.cors_origins))
        route = target.route
        if route is not None and head.method != "OPTIONS":
            return InferenceExchange(conn, head, target, route)
        if target.kind is not Kind.API:
            told = LocalAnswer(status=204, body=b"", headers=(("allow", cors.ALLOWED_METHODS.decode()),))
            return LocalExchange(conn, head, told)
        extra = cors.lines(head, self.settings.cors_origins)
        local = (self._admin_local if conn.admin else self._local).get(target.path)
        if local is not None and head.method in {"GET", "HEAD"}:
            return LocalExchange(conn, head, local(), extra=extra)
        if target.path == METRICS_PATH and not conn.admin:
            return LocalExchange(conn, head, NotFound("There is nothing at this path."), extra=extra)
        return ApiExchange(conn, head)

    def refused_head(self, error: FirstError) -> None:
        """Count a request that was none."""
        self.books.refused(error.code)

    def count_api(self, status: int) -> None:
        """Count a request relayed to the api."""
        self.books.api(status)

    def resolve(self, credential: str, then: Callable[[Principal | None, FirstError | None], None]) -> None:
        """Ask whoever knows who a credential belongs to."""
        self._dialler.start(self._resolve(credential, then))

    async def _resolve(self, credential: str, then: Callable[[Principal | None, FirstError | None], None]) -> None:
        try:
            found, error = await self.identity.resolve(credential), None
        except FirstError as raised:
            found, error = None, raised
        except Exception:
            log.exception("identity could not be resolved")
            found, error = None, InternalError("The gateway could not check the API key.")
        then(found, error)

    def unreachable(self, instance: str, how: Failure) -> None:
        """Take in that a request did not reach an instance, and look at it again."""
        self.dispatcher.failed(instance, how)
        self._watches.verify(instance)

    def cut(self, lease: Lease) -> None:
        """End the request at an instance whose route is gone (called by the dispatcher)."""
        attempt = self.leases.get(lease)
        if attempt is not None:
            attempt.withdraw()

    def new_id(self) -> str:
        """Make an id for a request: the milliseconds since 1970, then 52 random bits.

        Ids that grow with time are added at the end of the store's index, which costs less than all over it.
        """
        at = self._random_at
        if at >= len(self._random):
            self._random = os.urandom(7 * 256).hex()
            at = 0
        self._random_at = at + 14
        return f"req-{int(time.time() * 1000):011x}{self._random[at : at + 13]}"

    def elsewhere(self, work: Callable[[], object], then: Callable[[object], None]) -> None:
        """Run blocking work in a thread and call back here with its result or exception."""

        def done(future: Future[object]) -> None:
            error = future.exception()
            self.loop.call_soon_threadsafe(then, future.result() if error is None else error)

        self._threads.submit(work).add_done_callback(done)

    def start(self, coroutine: Coroutine[None, None, None]) -> None:
        """Run a task that ends with the plane."""
        self._dialler.start(coroutine)

    # --------------------------------------------------------------------------------------------------- inside

    def _public_connection(self) -> Connection:
        return Connection(self)

    def _admin_connection(self) -> Connection:
        return Connection(self, admin=True)

    def _arrival(self) -> Arrival:
        return Arrival(
            pools=self.pools,
            settings=self.settings,
            report=lambda: Connection(self, only=CONTROL),
            refuse=self._turned_away,
        )

    def _turned_away(self, why: str) -> None:
        log.warning("turned away at the port for doors: %s", why)

    def _make_peeker(self) -> Peeker:
        reserved = {name for engine in self.engines.values() for name in engine.traits.reserved}
        return Peeker(reserved=reserved, choices_limit=self.settings.choices_limit)

    def _gauges(self, telemetry: Telemetry) -> None:
        telemetry.gauge("first_requests_in_flight", lambda: self.dispatcher.in_flight)
        telemetry.gauge("first_requests_waiting", lambda: self.dispatcher.waiting)
        telemetry.gauge("first_client_connections", lambda: len(self.connections))
        telemetry.gauge("first_upstream_connections", lambda: len(self.pools.open()))
        telemetry.gauge("first_parked_connections", self.pools.unused)
        telemetry.gauge("first_body_memory_bytes", lambda: self.bodies.memory)
        telemetry.gauge("first_body_disk_bytes", lambda: self.bodies.disk)
        telemetry.gauge("first_unread_requests", lambda: sum(attempt.exchange.gone for attempt in self.leases.values()))


def _stopping() -> SiteError:
    return SiteError("The gateway is stopping. Try again in a moment.", code="stopping", retry_after_s=2.0)


def _one_by_one(record: Callable[[AttemptRecord], None]) -> Callable[[Sequence[AttemptLine]], None]:
    def records(lines: Sequence[AttemptLine]) -> None:
        for line in lines:
            record(line.record())

    return records
