# SPDX-License-Identifier: Apache-2.0
"""Gateways that say nothing for a while: their requests count until they must be gone."""

from pathlib import Path

from firstkit.core.catalog import Scaling
from firstkit.core.instance.record import InstanceState
from firstkit.testing.records import make_deployment
from firstkit.testing.simulated_world import simulated_world
from firstkit.testing.virtual_time import virtually


@virtually
async def test_a_drain_waits_for_a_gateway_whose_heartbeat_a_busy_store_holds_up(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.apply(make_deployment(scaling=Scaling(min=1, max=1)))
        await world.start()
        await world.until(lambda: bool(world.routes()))
        world.gateways[0].in_flight = {world.routes()[0].instance: 1}
        await world.advance(2)
        world.override("drain", "demo")
        await world.until(lambda: bool(world.routes(draining=True)))
        await world.advance(2)
        stalled = world.gateways.pop()
        await world.advance(9)
        assert len(world.instances(InstanceState.DRAINING)) == 1
        world.gateways.append(stalled)
        await world.advance(20)
        assert len(world.instances(InstanceState.DRAINING)) == 1
        world.gateways[0].in_flight = {}
        await world.until(lambda: bool(world.instances(InstanceState.ENDED)), within_s=10)


@virtually
async def test_a_drain_does_not_wait_for_a_gateway_that_is_gone(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.apply(make_deployment(scaling=Scaling(min=1, max=1)))
        await world.start()
        await world.until(lambda: bool(world.routes()))
        world.gateways[0].in_flight = {world.routes()[0].instance: 1}
        await world.advance(2)
        world.override("drain", "demo")
        world.gateways.clear()
        await world.until(lambda: bool(world.instances(InstanceState.ENDED)), within_s=30)
