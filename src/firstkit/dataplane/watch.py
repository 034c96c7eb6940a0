# SPDX-License-Identifier: Apache-2.0
"""One idle connection to each instance: when it closes and no other stands, the instance is dead, known at once."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

from firstkit.core.topology import AddressKind, Route
from firstkit.dataplane.pools import Dialler
from firstkit.dataplane.timers import Call

SETTLED_S = 0.2
"""A connection that lasts so long stands: a door whose engine is gone accepts, and closes at once."""

FIRST_RETRY_S, LAST_RETRY_S = 0.1, 2.0
"""How long after a failed connection it is tried again: doubled each time, up to the last."""


class Watch(asyncio.Protocol):
    """Holds the connection to one instance, on which nothing is said.

    Engines close idle connections for reasons of their own, so a closed one is made anew at once, and only when that
    does not stand either the instance is taken for dead. It is alive again as soon as one does.
    """

    def __init__(
        self, dialler: Dialler, route: Route, *, on_alive: Callable[[str], None], on_dead: Callable[[str], None]
    ) -> None:
        self.route = route
        self._dialler = dialler
        self._on_alive = on_alive
        self._on_dead = on_dead
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._later: Call | None = None
        self._wait_s = FIRST_RETRY_S
        self._stands = False
        self._in_doubt = False
        self._closed = False

    def start(self) -> None:
        """Connect."""
        if not self._closed and self._task is None and self._transport is None:
            self._task = self._dialler.start(self._connect())

    def verify(self) -> None:
        """Try a new connection because a request found the instance unreachable; tell if it stands."""
        self._in_doubt = True
        transport = self._transport
        if transport is not None:
            transport.abort()
        elif self._later is not None and self._task is None:
            self._later.cancel()
            self.start()

    def close(self) -> None:
        """Stop watching."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        if self._later is not None:
            self._later.cancel()
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (called by the loop)."""
        self._transport = cast("asyncio.Transport", transport)
        self._stands = False
        if self._closed:
            self._transport.abort()
        else:
            self._later = self._dialler.wheel.later(SETTLED_S, self._settle)

    def data_received(self, data: bytes) -> None:
        """Ignore what an engine says unasked (called by the loop)."""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 — the loop's signature
        """Connect anew (called by the loop)."""
        stood, self._stands, self._transport = self._stands, False, None
        if self._later is not None:
            self._later.cancel()
        if self._closed:
            return
        if stood or self._in_doubt:
            self.start()
        else:
            self._fail()

    def _settle(self) -> None:
        self._later = None
        self._stands = True
        self._wait_s = FIRST_RETRY_S
        if self._in_doubt:
            self._in_doubt = False
            self._on_alive(self.route.instance)

    async def _connect(self) -> None:
        in_doubt, self._in_doubt = self._in_doubt, False
        try:
            await self._dialler.connect(self.route.address, lambda: self)
        except TimeoutError:
            self._task = None
            self._in_doubt = in_doubt
            self._try_later()
        except (OSError, ssl.SSLError):
            self._task = None
            self._fail()
        else:
            self._task = None
            self._in_doubt = in_doubt
            if self._transport is None and not self._closed:
                self._fail()  # it closed before the connection had been reported

    def _fail(self) -> None:
        self._in_doubt = True
        if not self._closed:
            self._on_dead(self.route.instance)
            self._try_later()

    def _try_later(self) -> None:
        if not self._closed:
            self._later = self._dialler.wheel.later(self._wait_s, self.start)
            self._wait_s = min(LAST_RETRY_S, self._wait_s * 2)


class Watches:
    """The watch connections of all instances in the current snapshot."""

    def __init__(self, dialler: Dialler, *, on_alive: Callable[[str], None], on_dead: Callable[[str], None]) -> None:
        self._dialler = dialler
        self._on_alive = on_alive
        self._on_dead = on_dead
        self._watches: dict[str, Watch] = {}

    def set_routes(self, routes: tuple[Route, ...]) -> None:
        """Watch these instances and no others; parked connections speak for themselves."""
        wanted = {route.instance: route for route in routes if route.address.kind is not AddressKind.PARKED}
        for name in list(self._watches):
            route = wanted.get(name)
            if route is None or route.address != self._watches[name].route.address:
                self._watches.pop(name).close()
        for name, route in wanted.items():
            if name not in self._watches:
                watch = Watch(self._dialler, route, on_alive=self._on_alive, on_dead=self._on_dead)
                self._watches[name] = watch
                watch.start()

    def verify(self, instance: str) -> None:
        """Look again at an instance that a request could not reach."""
        watch = self._watches.get(instance)
        if watch is not None:
            watch.verify()

    def close(self) -> None:
        """Stop watching."""
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()
