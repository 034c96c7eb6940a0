# SPDX-License-Identifier: Apache-2.0
"""A node that engines find unfit: the next jobs are kept off it, until it is cleared."""

from pathlib import Path

from firstkit.core.catalog import Scaling
from firstkit.testing.records import make_deployment
from firstkit.testing.simulated_world import SimulatedWorld, simulated_world
from firstkit.testing.virtual_time import virtually

ONE = make_deployment(scaling=Scaling(min=1, max=2, idle_s=60.0))


def nodes(world: SimulatedWorld) -> list[str]:
    return [job.node for job in world.clusters["local"].jobs.values() if job.node]


@virtually
async def test_after_two_starts_on_a_broken_node_the_third_is_elsewhere(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.cluster().unfit = {"n1"}
        world.apply(ONE)
        await world.start()
        await world.until(lambda: bool(world.routes()))
        assert nodes(world) == ["n1", "n1", "n2"]
        assert not world.model().held


@virtually
async def test_a_controller_that_takes_over_keeps_off_the_same_node(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.cluster().unfit = {"n1"}
        world.apply(ONE)
        await world.start()
        await world.until(lambda: nodes(world) == ["n1", "n1"] and not world.clusters["local"].live_jobs())
        world.kill()
        await world.restart()
        await world.until(lambda: bool(world.routes()))
        assert nodes(world) == ["n1", "n1", "n2"]


@virtually
async def test_once_readmitted_the_node_is_used_again(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        cluster = world.cluster()
        cluster.unfit = {"n1"}
        world.apply(ONE)
        await world.start()
        await world.until(lambda: bool(world.routes()))
        cluster.unfit = set()
        world.override("readmit", "local")
        await world.advance(5.0)
        cluster.fail_node("3")
        await world.until(lambda: nodes(world)[3:] == ["n1"])


@virtually
async def test_where_every_node_is_unfit_none_is_left_out_beyond_the_first_and_the_deployment_is_held(
    tmp_path: Path,
) -> None:
    async with simulated_world(tmp_path) as world:
        cluster = world.cluster()
        cluster.unfit = {f"n{number}" for number in range(1, 9)}
        world.apply(ONE)
        await world.start()
        await world.until(lambda: world.model().held)
        assert nodes(world) == ["n1", "n1", "n2", "n2"]
