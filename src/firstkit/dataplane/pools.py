# SPDX-License-Identifier: Apache-2.0
"""The connections to each instance: taken, given back, dialled, parked."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import ssl
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from firstkit.core.health.liveness import Failure
from firstkit.core.settings import GatewaySettings
from firstkit.core.topology import Address, AddressKind, Route
from firstkit.dataplane.cors import RESPONSE_HEADERS
from firstkit.dataplane.outbox import Outbox
from firstkit.dataplane.reply import ReplyReader
from firstkit.dataplane.timers import Wheel
from firstkit.dataplane.upstream import Upstream

IDLE_S = 30.0
"""How long an unused connection is kept."""

ENGINE_DROPPED = RESPONSE_HEADERS | {
    b"server",
    b"set-cookie",
    b"x-request-id",
    b"x-first-cluster",
    b"x-first-instance",
    b"strict-transport-security",
    b"alt-svc",
}
"""Headers of an engine that are not the client's business, or that the gateway sets itself."""

KEEPALIVE_IDLE_S, KEEPALIVE_EVERY_S, KEEPALIVE_COUNT = 10, 5, 3


class Dialled(Protocol):
    """Who waits for a connection hears one of these once, unless it has called the dial off."""

    def connected(self, upstream: Upstream) -> None: ...
    def not_connected(self, how: Failure, why: str) -> None: ...


class Dial:
    """A connection that somebody waits for: one that is being made, or one that is to be parked or given back."""

    __slots__ = ("asker", "task")

    def __init__(self, asker: Dialled) -> None:
        self.asker: Dialled | None = asker
        self.task: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        """Call it off; the asker hears nothing."""
        self.asker = None
        if self.task is not None:
            self.task.cancel()


class Dialler:
    """Makes connections; holds what all pools share."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        wheel: Wheel,
        settings: GatewaySettings,
        client_tls: ssl.SSLContext | None,
    ) -> None:
        self.loop = loop
        self.outbox = Outbox(loop)
        self.wheel = wheel
        self.settings = settings
        self.client_tls = client_tls
        self._public_tls: ssl.SSLContext | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a task that is waited for at the end."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Cancel what is under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def connect(self, address: Address, factory: Callable[[], asyncio.Protocol]) -> None:
        """Make one connection within the deadline; raises OSError, ssl.SSLError or TimeoutError."""
        async with asyncio.timeout(self.settings.connect_timeout_s):
            if address.kind is AddressKind.UNIX:
                await self._connect_unix(address.path, factory)
                return
            if address.kind is AddressKind.PARKED:
                raise ConnectionError("a parked connection is not dialled")
            context = self._context(address) if address.kind is AddressKind.TLS else None
            transport, _ = await self.loop.create_connection(
                factory,
                address.host,
                address.port,
                ssl=context,
                server_hostname=(address.server_name or address.host) if context else None,
            )
            watch_over(transport.get_extra_info("socket"), self.settings.user_timeout_s)

    async def _connect_unix(self, path: str, factory: Callable[[], asyncio.Protocol]) -> None:
        """Connect to a Unix socket; one whose queue is full (llama.cpp's holds five) refuses at once, so try again."""
        pause_s = 0.002
        while True:
            try:
                await self.loop.create_unix_connection(factory, path)
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    raise
                await asyncio.sleep(pause_s)
                pause_s = min(0.05, pause_s * 2)
            else:
                return

    def _context(self, address: Address) -> ssl.SSLContext:
        if address.mutual:
            if self.client_tls is None:
                raise ConnectionError("this gateway has no certificate for the doors")
            return self.client_tls
        if self._public_tls is None:
            self._public_tls = ssl.create_default_context()
        return self._public_tls


def watch_over(sock: socket.socket | None, user_timeout_s: float) -> None:
    """Have the kernel notice a vanished other side: by unacknowledged data, and by probes when there is none."""
    if sock is None or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_EVERY_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(user_timeout_s * 1000))


class Pool:
    """The connections to one address. `dropped` are headers of its answers that do not go on."""

    __slots__ = (
        "_dialler",
        "_heads",
        "_host",
        "_idle",
        "_names",
        "_open",
        "_place",
        "_place_route",
        "_reader",
        "address",
        "closed",
    )

    def __init__(self, dialler: Dialler, address: Address, *, dropped: frozenset[bytes]) -> None:
        self._dialler = dialler
        self._reader = ReplyReader(dropped)
        self._idle: list[Upstream] = []
        self._open: set[Upstream] = set()
        self.address = address
        self.closed = False
        self._heads: dict[tuple[str, str | None], bytes] = {}
        self._names: dict[str, bytes] = {}
        self._place = b""
        self._place_route: Route | None = None
        self._host = _host(address)

    def head(self, path: str, query: bytes, authorization: str | None) -> bytes:
        """Write the beginning of a request's head; without a query it is the same for all requests to a path."""
        key = path, authorization
        found = None if query else self._heads.get(key)
        if found is None:
            text = f" HTTP/1.1\r\nhost: {self._host}\r\n"
            if authorization:
                text += f"authorization: {authorization}\r\n"
            target = (self.address.base_path.rstrip("/") + path).encode() + query
            found = b"POST " + target + text.encode("latin-1")
            if not query:
                self._heads[key] = found
        return found

    def place(self, route: Route) -> bytes:
        """Write the header lines that tell which instance this is; an external engine is on no cluster."""
        if self._place_route is not route:
            self._place_route = route
            cluster = f"x-first-cluster: {route.cluster}\r\n" if route.cluster else ""
            text = f"{cluster}x-first-instance: {route.instance}\r\n"
            self._place = text.encode("latin-1", "replace")
        return self._place

    def name_json(self, served: str) -> bytes:
        """Write the engine's own name for the model as a JSON string."""
        found = self._names.get(served)
        if found is None:
            found = self._names[served] = json.dumps(served).encode()
        return found

    @property
    def open(self) -> frozenset[Upstream]:
        """List open connections."""
        return frozenset(self._open)

    def take(self) -> Upstream | None:
        """Take the connection used last, if an idle one is there."""
        idle = self._idle
        while idle:
            upstream = idle.pop()
            if not upstream.closed:
                return upstream
        return None

    def give(self, upstream: Upstream) -> None:
        """Give a connection back whose answer is complete; one that cannot be used again is closed."""
        if self.closed or upstream.closed or not upstream.keep_alive:
            upstream.abort()
            return
        self._idle.append(upstream)
        upstream.due = time.monotonic() + IDLE_S

    def dial(self, asker: Dialled) -> Dial:
        """Make a new connection for somebody."""
        dial = Dial(asker)
        dial.task = self._dialler.start(self._dial(dial))
        return dial

    def new(self) -> Upstream:
        """Make the protocol of a connection that is yet to be opened."""
        dialler = self._dialler
        return Upstream(dialler.wheel, dialler.outbox, dialler.settings.upstream_idle_s, self._reader)

    def close(self) -> None:
        """Close idle connections, and each of the others when it is given back."""
        self.closed = True
        for upstream in self._idle:
            upstream.abort()
        self._idle.clear()

    def cut(self) -> None:
        """Close every connection at once."""
        self.close()
        for upstream in list(self._open):
            user, upstream.user = upstream.user, None
            upstream.abort()
            if user is not None:
                user.lost("the instance was withdrawn")

    def adopt(self, upstream: Upstream) -> None:
        """Count a connection that is open as one of this pool's."""
        self._open.add(upstream)
        upstream.on_gone = self._gone

    def _gone(self, upstream: Upstream) -> None:
        self._open.discard(upstream)
        if upstream in self._idle:
            self._idle.remove(upstream)

    async def _dial(self, dial: Dial) -> None:
        upstream = self.new()
        try:
            await self._dialler.connect(self.address, lambda: upstream)
        except TimeoutError:
            self._failed(dial, Failure.TIMEOUT, "connecting took too long")
        except (OSError, ssl.SSLError) as error:
            self._failed(dial, Failure.REFUSED, f"cannot connect ({type(error).__name__})")
        except asyncio.CancelledError:
            upstream.abort()
            raise
        else:
            self.adopt(upstream)
            asker, dial.asker = dial.asker, None
            if asker is None or self.closed:
                upstream.abort()
                if asker is not None:
                    asker.not_connected(Failure.REFUSED, "the instance was withdrawn")
            else:
                asker.connected(upstream)

    def _failed(self, dial: Dial, how: Failure, why: str) -> None:
        asker, dial.asker = dial.asker, None
        if asker is not None:
            asker.not_connected(how, why)


def _host(address: Address) -> str:
    if address.kind in {AddressKind.UNIX, AddressKind.PARKED}:
        return "localhost"
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"
