# SPDX-License-Identifier: Apache-2.0
"""One idle connection to each instance: when it closes and cannot be made again, the instance is dead, and known so at once."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

from firstkit.core.topology import Route
from firstkit.dataplane.pools import Dialler
from firstkit.dataplane.timers import Call

FIRST_RETRY_S, LAST_RETRY_S = 0.1, 2.0
"""How long after a failed connection it is tried again: doubled each time, up to the last."""

SHORT_LIVED_S = 0.5
"""A connection that the other side closes sooner is not made anew at once."""


class Watch(asyncio.Protocol):
    """Holds the connection to one instance, which says nothing.

    Engines close idle connections for reasons of their own, so a closed one is made anew at once, and only a refusal counts.
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
        self._alive: bool | None = None
        self._made_at = 0.0
        self._closed = False

    def start(self) -> None:
        """Connect."""
        if not self._closed and self._task is None:
            self._task = self._dialler.start(self._connect())

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
        if self._closed:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Drop what an engine says unasked, and the connection with it (called by the loop)."""
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Connect anew (called by the loop)."""
        self._transport = None
        if self._closed:
            return
        lived_s = self._dialler.loop.time() - self._made_at
        if lived_s < SHORT_LIVED_S:
            self._try_later()
        else:
            self.start()

    async def _connect(self) -> None:
        try:
            await self._dialler.connect(self.route.address, lambda: self)
        except (OSError, ssl.SSLError, TimeoutError) as error:
            self._task = None
            self._not_made(error)
        else:
            self._task = None
            self._made_at = self._dialler.loop.time()
            self._wait_s = FIRST_RETRY_S
            if self._alive is not True and not self._closed:
                # the first connection says nothing new; one after a refusal says that the instance is back
                back, self._alive = self._alive is False, True
                if back:
                    self._on_alive(self.route.instance)

    def _not_made(self, error: Exception) -> None:
        if self._closed:
            return
        if not isinstance(error, TimeoutError):
            self._alive = False
            self._on_dead(self.route.instance)
        self._try_later()

    def _try_later(self) -> None:
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
        """Watch these instances and no others."""
        wanted = {route.instance: route for route in routes}
        for name in list(self._watches):
            route = wanted.get(name)
            if route is None or route.address != self._watches[name].route.address:
                self._watches.pop(name).close()
        for name, route in wanted.items():
            if name not in self._watches:
                watch = Watch(self._dialler, route, on_alive=self._on_alive, on_dead=self._on_dead)
                self._watches[name] = watch
                watch.start()

    def close(self) -> None:
        """Stop watching."""
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()
