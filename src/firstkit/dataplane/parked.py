# SPDX-License-Identifier: Apache-2.0
"""Connections that a door has dialled out to us: pooled like dialled ones, but none can be made from here."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from firstkit.core.health.liveness import Failure
from firstkit.core.topology import Address
from firstkit.dataplane import peer
from firstkit.dataplane.pools import Dial, Dialled, Dialler, Pool
from firstkit.dataplane.timers import NEVER
from firstkit.dataplane.upstream import Upstream

UNUSED_MOST = 256
"""So many unused connections of one instance are kept; a door parks a few more than are in use."""

PROVEN_S = 2.0
"""A connection on which something was heard or sent more recently than this is taken as it is."""

UNHEARD_S = 3.0
"""So long after a request was sent over a connection that had been idle, it is looked whether it arrives at all."""


class ParkedPool(Pool):
    """The connections of one instance's door.

    A firewall on the way may forget an idle connection without a word: neither side hears of it, and what is sent is
    lost. Probes of the kernel notice it within seconds, and a request that met such a connection before is sent over
    another one. While there is none at all the instance is dead; `routed` tells whether anybody is to hear of that.
    """

    __slots__ = ("_instance", "_leaving", "_on_alive", "_on_dead", "_unused", "_waiting", "routed")

    def __init__(
        self,
        dialler: Dialler,
        address: Address,
        *,
        instance: str,
        dropped: frozenset[bytes],
        on_alive: Callable[[str], None],
        on_dead: Callable[[str], None],
    ) -> None:
        super().__init__(dialler, address, dropped=dropped)
        self.routed = False
        self._instance = instance
        self._on_alive = on_alive
        self._on_dead = on_dead
        self._unused: list[Upstream] = []
        self._waiting: deque[Dial] = deque()
        self._leaving = False

    def route(self) -> None:
        """Take in that requests may come."""
        if not self.routed:
            self.routed = True
            if not self._open:
                self._on_dead(self._instance)

    @property
    def unused(self) -> int:
        """Count connections that no request has used yet."""
        return len(self._unused)

    def park(self, upstream: Upstream) -> None:
        """Take in a connection that the door has opened; more than anybody needs is closed."""
        if self.closed or self._leaving or len(self._unused) >= UNUSED_MOST:
            upstream.abort()
            return
        first = not self._open
        self.adopt(upstream)
        upstream.fresh = False
        upstream.due = NEVER
        if asker := self._next():
            asker.connected(upstream)
        else:
            self._unused.append(upstream)
        if first and self.routed:
            self._on_alive(self._instance)

    def take(self) -> Upstream | None:
        """Take a connection used before, so that unused ones stay, or else an unused one."""
        now = time.monotonic()
        for among in (self._idle, self._unused):
            while among:
                upstream = among.pop()
                if upstream.closed:
                    continue
                if now - upstream.heard_at < PROVEN_S:
                    return upstream
                transport = upstream.transport
                if transport is None or peer.unacknowledged(transport):
                    upstream.abort()
                    continue
                self._dialler.wheel.later(UNHEARD_S, lambda taken=upstream: _look(taken))
                return upstream
        return None

    def give(self, upstream: Upstream) -> None:
        """Give a connection back: to whoever waits for one, or to those that are taken first."""
        if self._waiting and upstream.keep_alive and not upstream.closed and (asker := self._next()):
            asker.connected(upstream)
            return
        if self._leaving:
            upstream.abort()
            return
        super().give(upstream)

    def dial(self, asker: Dialled) -> Dial:
        """Wait for a connection: one that is there, is given back, or is parked by then."""
        dial = Dial(asker)
        self._waiting.append(dial)
        dial.task = self._dialler.start(self._wait(dial))
        return dial

    def leave(self) -> None:
        """Keep no connection that is not needed any more: the doors are to park at a successor."""
        self._leaving = True
        for upstream in [*self._unused, *self._idle]:
            upstream.abort()
        self._unused.clear()
        self._idle.clear()

    def close(self) -> None:
        """Close idle connections, and each of the others when it is given back."""
        super().close()
        for upstream in self._unused:
            upstream.abort()
        self._unused.clear()

    def _gone(self, upstream: Upstream) -> None:
        super()._gone(upstream)
        if upstream in self._unused:
            self._unused.remove(upstream)
        if self._open or self.closed:
            return
        if self.routed:
            self._on_dead(self._instance)
        while asker := self._next():
            asker.not_connected(Failure.REFUSED, "the door has gone")

    def _next(self) -> Dialled | None:
        while self._waiting:
            dial = self._waiting.popleft()
            asker, dial.asker = dial.asker, None
            if asker is not None:
                if dial.task is not None:
                    dial.task.cancel()
                return asker
        return None

    async def _wait(self, dial: Dial) -> None:
        if dial.asker is not None and (upstream := self.take()) is not None:
            asker, dial.asker = dial.asker, None
            asker.connected(upstream)
            return
        if not self._open:
            self._failed(dial, Failure.REFUSED, "the door has parked no connection here")
            return
        await asyncio.sleep(self._dialler.settings.connect_timeout_s)
        self._failed(dial, Failure.TIMEOUT, "no connection from the door is free")


def _look(upstream: Upstream) -> None:
    """Give up a connection over which a request was sent that does not arrive."""
    transport = upstream.transport
    if upstream.closed or upstream.user is None or upstream.heard or transport is None:
        return
    if peer.unacknowledged(transport):
        upstream.give_up("the door did not acknowledge what it was sent")
