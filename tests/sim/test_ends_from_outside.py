# SPDX-License-Identifier: Apache-2.0
"""Real services on virtual time: jobs that others end. Each has its reason, and is replaced; only reapers hold."""

from pathlib import Path

import pytest

from firstkit.core.catalog import Scaling
from firstkit.core.job.record import JobState
from firstkit.core.reasons import Reason
from firstkit.testing.records import make_deployment
from firstkit.testing.simulated_launcher import EngineManner
from firstkit.testing.simulated_world import simulated_world
from firstkit.testing.virtual_time import virtually

KEPT = make_deployment(scaling=Scaling(min=1, max=1, in_flight=10, idle_s=7200.0))


@pytest.mark.parametrize(("why", "grace_s"), [("CANCELLED", 0.5), ("PREEMPTED", 0.5), ("PREEMPTED", 20.0)])
@virtually
async def test_what_somebody_else_cancels_or_preempts_is_replaced_at_once_and_never_held(
    tmp_path: Path, why: str, grace_s: float
) -> None:
    async with simulated_world(tmp_path) as world:
        cluster = world.cluster()
        cluster.engines = lambda _: EngineManner(stop_s=grace_s)
        world.apply(KEPT)
        await world.start()
        for _ in range(5):
            await world.until(lambda: bool(world.routes()))
            world.gateways[0].in_flight = {world.routes()[0].instance: 1}
            await world.advance(60)
            (job,) = [one for one in cluster.live_jobs() if one.state == "RUNNING"]
            cluster.cancel(job.number, why=why)
            await world.until(lambda number=job.number: number not in {one.number for one in cluster.live_jobs()})
        await world.until(lambda: bool(world.routes()))
        await world.until(lambda: len(world.jobs(JobState.ENDED)) == 5)
        assert {one.reason for one in world.jobs(JobState.ENDED)} == {Reason(why)}
        assert not world.model().held


@virtually
async def test_a_lost_node_is_the_sites_failure_and_holds_nothing(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        cluster = world.cluster()
        world.apply(KEPT)
        await world.start()
        for number in range(5):
            await world.until(lambda: bool(world.routes()), within_s=900)
            (job,) = [one for one in cluster.live_jobs() if one.state == "RUNNING"]
            cluster.fail_node(job.number)
            await world.until(lambda many=number + 1: len(world.jobs(JobState.ENDED)) == many)
        await world.until(lambda: bool(world.routes()), within_s=900)
        assert {one.reason for one in world.jobs(JobState.ENDED)} == {Reason.NODE_FAILURE}


@virtually
async def test_a_site_that_ends_what_is_idle_is_not_asked_again_and_again(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        cluster = world.cluster()
        world.apply(KEPT)
        await world.start()
        for _ in range(3):
            await world.until(lambda: bool(world.routes()))
            world.gateways[0].wanted = {"demo-model"}
            await world.advance(40)
            world.gateways[0].wanted = set()
            await world.advance(600)
            (job,) = [one for one in cluster.live_jobs() if one.state == "RUNNING"]
            cluster.cancel(job.number)
            await world.until(lambda: not world.routes())
        await world.until(lambda: world.model().held)
        assert world.model().reason is Reason.CANCELLED_BY_SITE
        assert "10 min without a request" in world.model().detail
        submissions = cluster.submissions
        await world.advance(300)
        assert cluster.submissions == submissions == 3
        world.override("release", "demo")
        await world.until(lambda: bool(world.routes()))
