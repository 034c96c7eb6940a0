# SPDX-License-Identifier: Apache-2.0
"""A gateway's exchange with the real store, on virtual time."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from firstkit.core.catalog import Catalog
from firstkit.core.topology import Snapshot
from firstkit.ports.store import Demand, StoreUnavailable
from firstkit.services.gateway_feed import GatewayFeed, Sinks
from firstkit.testing.records import make_deployment
from firstkit.testing.simulated_world import SimulatedWorld, simulated_world
from firstkit.testing.virtual_time import InlineStoreThread, virtually


class Gateway:
    """What a feed tells, and what it is told."""

    def __init__(self, world: SimulatedWorld) -> None:
        self.catalogs: list[Catalog] = []
        self.snapshots: list[Snapshot] = []
        self.held = 0
        self.keys = 0
        self.demand: list[Demand] = []
        self.nudges: list[str] = []
        self.journal: list[str] = []
        self.ready = False
        self.away = False
        self.feed = GatewayFeed(
            gateway="gw-feed",
            store=world.store,
            thread=InlineStoreThread(self._around),
            clock=world.clock,
            sinks=Sinks(
                snapshot=self.snapshots.append,
                still_holds=self._holds,
                catalog=self.catalogs.append,
                keys=self._keys,
                used_keys=list,
                demand=lambda: self.demand,
                acked=lambda: (self.snapshots[-1].epoch, self.snapshots[-1].version) if self.snapshots else (0, 0),
            ),
            read_catalog=world.read_catalog,
            nudge=self.nudges.append,
            journal=lambda event, **_: self.journal.append(event),
        )
        self.writes = 0

    def _holds(self, _age_s: float) -> None:
        self.held += 1

    def _keys(self, _rows: object) -> None:
        self.keys += 1

    async def _around(self, name: str) -> None:
        if self.away and name.startswith("before"):
            raise StoreUnavailable("away")
        self.writes += name == "after write"

    def become_ready(self) -> None:
        self.ready = True


@asynccontextmanager
async def feeding(world: SimulatedWorld) -> AsyncGenerator[Gateway]:
    async with anyio.create_task_group() as group:
        gateway = Gateway(world)
        group.start_soon(lambda: gateway.feed.run(ready=gateway.become_ready))
        yield gateway
        group.cancel_scope.cancel()


def wanted(waiting: int = 1) -> list[Demand]:
    return [
        Demand(
            gateway="gw-feed", model="demo-model", waiting=waiting, oldest_wait_s=0.1, in_flight={}, wanted_ago_s=0.0
        )
    ]


@virtually
async def test_a_gateway_is_ready_once_it_has_a_catalog(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world, feeding(world) as gateway:
        await anyio.sleep(5)
        assert not gateway.ready
        world.apply_unreadable()
        await anyio.sleep(5)
        assert not gateway.ready
        assert gateway.journal == ["revision_unreadable"]
        world.apply(make_deployment())
        await anyio.sleep(2)
        assert gateway.ready
        assert len(gateway.catalogs) == 1
        assert gateway.keys == 1


@virtually
async def test_a_catalog_that_cannot_be_read_leaves_the_one_that_is_there(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world, feeding(world) as gateway:
        world.apply(make_deployment())
        await anyio.sleep(2)
        world.apply_unreadable()
        await anyio.sleep(10)
        assert len(gateway.catalogs) == 1
        assert gateway.journal == ["revision_unreadable"], "said once"


@virtually
async def test_an_idle_gateway_writes_only_its_sign_of_life(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world, feeding(world) as gateway:
        world.apply(make_deployment())
        await anyio.sleep(2)
        writes = gateway.writes
        await anyio.sleep(600)
        assert 250 <= gateway.writes - writes <= 310
        (row,) = world.store.gateways(within_s=5.0)
        assert row.gateway == "gw-feed"


@virtually
async def test_new_demand_is_written_and_told_at_once(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world, feeding(world) as gateway:
        world.apply(make_deployment())
        await anyio.sleep(2.05)
        gateway.nudges.clear()
        gateway.demand = wanted()
        gateway.feed.demand_changed("demo-model")
        await anyio.sleep(0.01)
        (row,) = world.store.gateways(within_s=5.0)
        assert row.demand[0].waiting == 1
        assert gateway.nudges == ["demand"]


@virtually
async def test_demand_that_could_not_be_written_is_told_when_the_store_is_back(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world, feeding(world) as gateway:
        world.apply(make_deployment())
        await anyio.sleep(2)
        gateway.away = True
        gateway.nudges.clear()
        gateway.demand = wanted()
        gateway.feed.demand_changed("demo-model")
        await anyio.sleep(20)
        assert gateway.nudges == []
        gateway.away = False
        await anyio.sleep(1.5)
        assert gateway.nudges == ["demand"]
        assert gateway.journal == ["store_away", "store_back"]
        assert gateway.ready


@virtually
async def test_a_snapshot_is_taken_once_acknowledged_and_told(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world, feeding(world) as gateway:
        world.apply(make_deployment())
        await world.start()
        await anyio.sleep(5)
        versions = [snapshot.version for snapshot in gateway.snapshots]
        assert versions == sorted(set(versions))
        row = next(row for row in world.store.gateways(within_s=5.0) if row.gateway == "gw-feed")
        assert row.acked == versions[-1]
        assert "demand" in gateway.nudges
        assert gateway.held > 0


@virtually
async def test_a_gateway_that_leaves_holds_up_no_drain(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        async with feeding(world) as gateway:
            world.apply(make_deployment())
            await anyio.sleep(3)
            feed = gateway.feed
        await feed.leave()
        assert world.store.gateways(within_s=60.0) == []
