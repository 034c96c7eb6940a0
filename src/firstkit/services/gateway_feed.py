# SPDX-License-Identifier: Apache-2.0
"""Keep a gateway's picture fresh: routes, catalog and keys in, demand out; once a second, sooner when nudged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio

from firstkit.core.catalog import Catalog
from firstkit.core.errors import FirstError
from firstkit.core.topology import Snapshot
from firstkit.ports.clock import Clock
from firstkit.ports.store import Demand, GatewayStore, KeyRow, Revision
from firstkit.ports.telemetry import Journal
from firstkit.services.store_thread import StoreThread

HEARTBEAT_S = 2.0
"""An idle gateway says so this often: less than half of what the controller takes for a live one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sinks:
    """Where news goes."""

    snapshot: Callable[[Snapshot], None]
    still_holds: Callable[[float], None]
    catalog: Callable[[Catalog], None]
    keys: Callable[[Sequence[KeyRow]], None]
    used_keys: Callable[[], list[str]]
    demand: Callable[[], list[Demand]]
    acked: Callable[[], tuple[int, int]]


@dataclass(slots=True)
class _Seen:
    """What has been taken in so far."""

    version: tuple[int, int] = (-1, -1)
    revision: Revision | None = None
    keys: int = -1


class GatewayFeed:
    """One gateway's exchange with the store. The store being away is no event: what is known stays (law 1)."""

    def __init__(
        self,
        *,
        gateway: str,
        store: GatewayStore,
        thread: StoreThread,
        clock: Clock,
        sinks: Sinks,
        read_catalog: Callable[[Revision], Catalog],
        nudge: Callable[[str], None],
        journal: Journal,
    ) -> None:
        self._gateway = gateway
        self._store = store
        self._thread = thread
        self._clock = clock
        self._sinks = sinks
        self._read_catalog = read_catalog
        self._nudge = nudge
        self._journal = journal
        self._seen = _Seen()
        self._wake = anyio.Event()
        self._told: object = None
        self._told_at = float("-inf")
        self._acked = -1
        self._hurry = False
        self._away = False
        self._has_catalog = False

    @property
    def away(self) -> bool:
        """Tell whether the last exchange failed."""
        return self._away

    def wake(self) -> None:
        """Exchange at once."""
        self._wake.set()

    def demand_changed(self, _model: str = "") -> None:
        """Tell the controller at once that something is wanted."""
        self._hurry = True
        self.wake()

    async def run(self, *, ready: Callable[[], None]) -> None:
        """Exchange for ever; `ready` is called once catalog, keys and routes have been read."""
        told_ready = False
        while True:
            self._wake = anyio.Event()
            try:
                await self._exchange()
            except FirstError as error:
                if not self._away:
                    self._journal("store_away", code=error.code, detail=error.message)
                self._away = True
            else:
                if self._away:
                    self._journal("store_back")
                self._away = False
                if not told_ready and self._has_catalog:
                    told_ready = True
                    ready()
            with anyio.move_on_after(1.0):
                await self._wake.wait()

    async def leave(self) -> None:
        """Take this gateway's row away, so that no drain waits for it."""
        await self._thread.call(self._store.forget_gateway, self._gateway)

    async def _exchange(self) -> None:
        """Read what is new, then tell what has changed."""
        snapshot, age_s, revision, keys = await self._thread.call(self._read)
        if revision is not None:
            self._take_revision(revision)
        if snapshot is not None:
            self._sinks.snapshot(snapshot)
            self._seen.version = (snapshot.epoch, snapshot.version)
        elif self._seen.version >= (0, 0):
            self._sinks.still_holds(age_s)
        if keys is not None:
            self._sinks.keys(keys)
        await self._tell()

    def _read(self) -> tuple[Snapshot | None, float, Revision | None, list[KeyRow] | None]:
        """Read what is newer than what is known (store thread)."""
        return self._store.together(self._read_all)

    def _read_all(self) -> tuple[Snapshot | None, float, Revision | None, list[KeyRow] | None]:
        store, seen = self._store, self._seen
        revision = store.current_revision(seen.revision)
        if revision is seen.revision:
            revision = None
        snapshot, age_s = store.snapshot(newer_than=seen.version)
        version = store.keys_version()
        keys = store.keys() if version != seen.keys else None
        seen.keys = version
        return snapshot, age_s, revision, keys

    def _take_revision(self, revision: Revision) -> None:
        """Take in a catalog; one that this version cannot read is said once and the known one stays."""
        self._seen.revision = revision
        try:
            catalog = self._read_catalog(revision)
        except FirstError as error:
            self._journal("revision_unreadable", revision=revision.number, detail=error.message)
            return
        self._sinks.catalog(catalog)
        self._has_catalog = True

    async def _tell(self) -> None:
        """Write the demand row when it has changed, has been acted on, or was written too long ago."""
        demand = self._sinks.demand()
        acked = self._sinks.acked()[1]
        now = self._clock.monotonic_s()
        quiet = _outline(demand) == self._told and acked == self._acked and not self._hurry
        if quiet and now - self._told_at < HEARTBEAT_S:
            return
        news = self._hurry or acked != self._acked
        outline = _outline(demand)
        used = self._sinks.used_keys()

        def write() -> None:
            self._store.write_demand(gateway=self._gateway, acked=acked, demand=demand)
            if used:
                self._store.touch_keys(used)

        self._hurry = False
        try:
            await self._thread.call(write)
        except FirstError:
            self._hurry = news  # nobody has been told yet
            raise
        self._told, self._told_at, self._acked = outline, now, acked
        if news:
            self._nudge("demand")


def _outline(demand: Sequence[Demand]) -> object:
    """Reduce demand to what is worth a write before the next heartbeat: the passing of time alone is not."""
    return [(row.model, row.waiting, row.in_flight, row.lost, row.wanted_ago_s is None) for row in demand]
