# SPDX-License-Identifier: Apache-2.0
"""The way to each instance: a pool of connections that are dialled, or of those that its door has parked here."""

from __future__ import annotations

from collections.abc import Callable

from firstkit.core.topology import Address, AddressKind, Route
from firstkit.dataplane.parked import ParkedPool
from firstkit.dataplane.pools import ENGINE_DROPPED, Dialler, Pool
from firstkit.dataplane.upstream import Upstream


class Pools:
    """The pools of all instances, by instance id; `on_alive` and `on_dead` hear how those behind parked ones are."""

    def __init__(self, dialler: Dialler, *, on_alive: Callable[[str], None], on_dead: Callable[[str], None]) -> None:
        self._dialler = dialler
        self._on_alive = on_alive
        self._on_dead = on_dead
        self._dialled: dict[str, Pool] = {}
        self._parked: dict[str, ParkedPool] = {}
        self._leaving = False

    def of(self, route: Route) -> Pool:
        """Find the pool of a route's instance; another address makes a new one."""
        if route.address.kind is AddressKind.PARKED:
            return self.parked(route.instance)
        pool = self._dialled.get(route.instance)
        if pool is None or pool.address is not route.address:
            if pool is not None and pool.address == route.address:
                pool.address = route.address
                return pool
            if pool is not None:
                pool.close()
            pool = self._dialled[route.instance] = Pool(self._dialler, route.address, dropped=ENGINE_DROPPED)
        return pool

    def parked(self, instance: str) -> ParkedPool:
        """Find or make the pool of an instance whose door opens the connections, routed or not yet."""
        pool = self._parked.get(instance)
        if pool is None:
            pool = self._parked[instance] = ParkedPool(
                self._dialler,
                Address(kind=AddressKind.PARKED),
                instance=instance,
                dropped=ENGINE_DROPPED,
                on_alive=self._on_alive,
                on_dead=self._on_dead,
            )
            if self._leaving:
                pool.leave()
        return pool

    def set_routes(self, routes: tuple[Route, ...]) -> None:
        """Close the pools of instances that are gone.

        What a door has parked for an instance without a route stays: its route is yet to come, or comes again.
        """
        instances = {route.instance for route in routes}
        for name in [name for name in self._dialled if name not in instances]:
            self._dialled.pop(name).close()
        for name in [name for name in self._parked if name not in instances]:
            self._parked[name].routed = False
            if not self._parked[name].open:
                del self._parked[name]
        for route in routes:
            if route.address.kind is AddressKind.PARKED:
                self.parked(route.instance).route()

    def leave(self) -> None:
        """Have the doors park elsewhere: this gateway is about to end."""
        self._leaving = True
        for pool in self._parked.values():
            pool.leave()

    def close(self) -> None:
        """Cut every connection."""
        for pool in [*self._dialled.values(), *self._parked.values()]:
            pool.cut()
        self._dialled.clear()
        self._parked.clear()

    def open(self) -> list[Upstream]:
        """List open connections."""
        return [upstream for pool in [*self._dialled.values(), *self._parked.values()] for upstream in pool.open]

    def unused(self) -> int:
        """Count parked connections that no request has used yet."""
        return sum(pool.unused for pool in self._parked.values())
