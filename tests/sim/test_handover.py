# SPDX-License-Identifier: Apache-2.0
"""The real controller and store on virtual time: jobs whose walltime ends hand over, and nobody notices."""

from dataclasses import replace
from pathlib import Path

import pytest

from firstkit.core.catalog import ClusterLimits, Deployment, Resources, Scaling
from firstkit.core.instance.record import InstanceState
from firstkit.core.job.record import JobState
from firstkit.core.reasons import Reason
from firstkit.testing.records import make_cluster, make_deployment
from firstkit.testing.simulated_cluster import SimulatedCluster
from firstkit.testing.simulated_faults import Reserved
from firstkit.testing.simulated_launcher import EngineManner
from firstkit.testing.simulated_world import SimulatedWorld, simulated_world
from firstkit.testing.virtual_time import virtually

KEPT = make_deployment(scaling=Scaling(min=1, max=1, in_flight=10, idle_s=300.0), resources=Resources(walltime_s=600.0))
WANTED = replace(KEPT, scaling=replace(KEPT.scaling, min=0))
LOAD_S = 60.0


def slow_engines(world: SimulatedWorld, *, queue_wait_s: float = 1.0) -> SimulatedCluster:
    cluster = world.cluster(queue_wait_s=queue_wait_s)
    cluster.engines = lambda _: EngineManner(load_s=LOAD_S)
    return cluster


async def serving(world: SimulatedWorld, deployment: Deployment = KEPT, *, limits: ClusterLimits | None = None) -> str:
    """Have the first instance serve, and name it."""
    world.apply(deployment, clusters=[make_cluster(limits=limits or ClusterLimits())])
    await world.start()
    if not deployment.scaling.min:
        world.gateways[0].wanted = {"demo-model"}
    await world.until(lambda: bool(world.routes()))
    return world.routes()[0].instance


async def gap_s(world: SimulatedWorld, seconds: float, *, least: int = 1) -> float:
    """Let time pass, and say for how much of it fewer instances took requests."""
    missing = 0.0
    for second in range(int(seconds)):
        await world.advance(1.0)
        takes = [route for route in world.routes() if route.ends_in_s is None or route.ends_in_s > 0]
        missing += len(takes) < least
        if second % 10 == 0:
            world.check()
    return missing


@virtually
async def test_there_is_always_an_instance_however_often_walltimes_end(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        cluster = slow_engines(world, queue_wait_s=20.0)
        await serving(world)
        assert await gap_s(world, 1800) == 0
        ended = world.jobs(JobState.ENDED)
        assert 3 <= len(ended) <= 1800 / (600 * 0.5), "and no more often than at half time"
        assert {job.reason for job in ended} == {Reason.WALLTIME}
        assert len(cluster.live_jobs()) <= 2


@virtually
async def test_a_successor_is_not_counted_beside_its_predecessor_and_no_third_one_comes(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        cluster = slow_engines(world)
        await serving(world)
        for _ in range(700):
            await world.advance(1.0)
            assert len(cluster.live_jobs()) <= 2
            assert len(world.routes()) <= 2


@virtually
async def test_the_predecessor_leaves_as_soon_as_the_successor_serves(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        slow_engines(world)
        first = await serving(world)
        await world.until(lambda: bool(world.instances(InstanceState.ENDED)))
        (old,) = world.instances(InstanceState.ENDED)
        (new,) = world.instances(InstanceState.READY)
        assert (old.id, new.replaces) == (first, first)
        assert old.reason is Reason.WALLTIME
        await world.until(lambda: bool(world.jobs(JobState.ENDED)), within_s=30)
        (job,) = world.jobs(JobState.ENDED)
        assert (job.ended_at or 0.0) - (job.running_at or 0.0) < 600 - 30, "it did not wait for its end"


@virtually
async def test_what_is_in_flight_at_the_predecessor_finishes_there_even_beyond_the_usual_time_to_drain(
    tmp_path: Path,
) -> None:
    async with simulated_world(tmp_path, drain_s=5.0) as world:
        slow_engines(world)
        first = await serving(world)
        world.gateways[0].in_flight = {first: 1}
        await world.until(lambda: first in {route.instance for route in world.routes(draining=True)}, within_s=600)
        (route,) = world.routes(draining=True)
        assert (route.ends_in_s or 0.0) > 10
        await world.advance(10)
        assert first in {route.instance for route in world.routes(draining=True)}
        world.gateways[0].in_flight = {}
        await world.until(lambda: len(world.clusters["local"].live_jobs()) == 1, within_s=10)


@virtually
async def test_without_handover_the_next_one_begins_after_the_end(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        cluster = slow_engines(world)
        await serving(world, replace(KEPT, scaling=replace(KEPT.scaling, handover=False)))
        assert await gap_s(world, 750) >= LOAD_S
        assert len(cluster.live_jobs()) == 1


@virtually
async def test_what_nobody_would_be_kept_for_gets_no_successor(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        cluster = slow_engines(world)
        await serving(world, replace(WANTED, scaling=replace(WANTED.scaling, idle_s=400.0)))
        await world.advance(60)
        world.gateways[0].wanted = set()
        await world.until(lambda: not cluster.live_jobs(), within_s=700)
        assert cluster.submissions == 1


@virtually
async def test_what_idle_keeps_beyond_the_end_gets_a_successor_that_is_no_longer_wanted_than_it_was(
    tmp_path: Path,
) -> None:
    async with simulated_world(tmp_path) as world:
        cluster = slow_engines(world)
        await serving(world, replace(WANTED, scaling=replace(WANTED.scaling, idle_s=900.0)))
        world.gateways[0].wanted = set()
        assert await gap_s(world, 850) == 0
        assert cluster.submissions == 2
        await world.until(lambda: not cluster.live_jobs(), within_s=200)


@virtually
async def test_where_the_limit_leaves_no_room_the_next_one_begins_after_the_end_and_says_why(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        cluster = slow_engines(world)
        first = await serving(world, limits=ClusterLimits(jobs=1))
        await world.until(lambda: not any(route.instance == first for route in world.routes()), within_s=700)
        assert cluster.submissions <= 2
        await world.until(lambda: bool(world.routes()), within_s=300)
        assert world.clusters["local"].submissions == 2


@virtually
async def test_two_that_end_together_hand_over_one_after_the_other_where_there_is_room_for_one(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        cluster = slow_engines(world)
        two = replace(KEPT, scaling=replace(KEPT.scaling, min=2, max=2), resources=Resources(walltime_s=1200.0))
        await serving(world, two, limits=ClusterLimits(jobs=3))
        await world.until(lambda: len(world.routes()) == 2)
        assert await gap_s(world, 2000, least=2) == 0
        assert len(world.jobs(JobState.ENDED)) >= 2
        assert len(cluster.live_jobs()) <= 3


@virtually
async def test_one_place_is_kept_for_successors_by_those_who_would_like_to_grow(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        cluster = slow_engines(world)
        growing = replace(KEPT, scaling=replace(KEPT.scaling, max=4))
        first = await serving(world, growing, limits=ClusterLimits(jobs=3))
        world.gateways[0].in_flight = {first: 40}
        await world.until(lambda: len(world.routes()) == 2)
        await world.advance(60)
        assert len(cluster.live_jobs()) == 2


@virtually
async def test_a_successor_that_fails_is_tried_again_and_the_predecessor_serves_meanwhile(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        cluster = slow_engines(world)
        first = await serving(world, replace(KEPT, resources=Resources(walltime_s=900.0)))
        starts: list[str] = []

        def manner(instance: str) -> EngineManner:
            starts.append(instance)
            return EngineManner(load_s=LOAD_S, crash_s=5.0 if len(starts) <= 2 else None)

        cluster.engines = manner
        assert await gap_s(world, 900) == 0
        failed = [item for item in world.instances(InstanceState.ENDED) if item.reason is Reason.ENGINE_EXIT]
        assert len(failed) >= 1
        assert {item.replaces for item in failed} == {first}


@virtually
async def test_a_controller_that_dies_in_the_middle_of_a_handover_carries_it_on(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        cluster = slow_engines(world)
        await serving(world)
        await world.until(lambda: len(cluster.live_jobs()) == 2, within_s=600)
        await world.restart()
        assert await gap_s(world, 700) == 0
        assert len(cluster.live_jobs()) <= 2


# -------------------------------------------------------------------------------------------------------- maintenance
HOUR = 3600.0
LONG = replace(KEPT, resources=Resources(walltime_s=4 * HOUR))


def reserve(
    world: SimulatedWorld, in_s: float, *, lasts_s: float = 900.0, nodes: tuple[str, ...] | None = None
) -> None:
    now = world.clock.monotonic_s()
    found = Reserved(name="maint1", starts_at=now + in_s, ends_at=now + in_s + lasts_s, nodes=nodes)
    world.clusters["local"].reservations.append(found)


@virtually
async def test_jobs_before_a_reservation_are_shorter_and_none_runs_into_it(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        cluster = slow_engines(world)
        reserve(world, 2000)
        world.apply(LONG)
        await world.start()
        await world.advance(600)  # the first job was submitted before anybody had looked: it waits for the end
        assert await gap_s(world, 900) == 0
        (running,) = [job for job in cluster.live_jobs() if job.state == "RUNNING"]
        assert running.walltime_s < 2000
        await world.advance(500)
        assert not [job for job in cluster.live_jobs() if job.state == "RUNNING"]
        assert world.model().reason is Reason.MAINTENANCE
        assert "reservation maint1" in world.model().detail
        assert (world.model().to_hot_s or 0.0) > 500
        assert not world.model().held
        submissions = cluster.submissions
        await world.advance(700)
        assert cluster.submissions == submissions
        await world.until(lambda: bool(world.routes()), within_s=400)
        assert {job.reason for job in world.jobs(JobState.ENDED)} <= {Reason.WALLTIME, Reason.MAINTENANCE}


@virtually
async def test_a_running_job_is_drained_before_a_maintenance_that_is_announced_later(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        cluster = slow_engines(world)
        first = await serving(world, LONG)
        announced = int(world.clock.wall_s())
        world.override("maintenance", "local", starts_at=announced + 900, ends_at=announced + 1800)
        await world.advance(5)
        (notice,) = world.model().notices
        assert notice.startswith("maintenance of local from ")
        (route,) = world.routes()
        assert (route.instance, route.ends_in_s) == (first, pytest.approx(900 - 30, abs=10))
        world.gateways[0].in_flight = {first: 1}
        assert await gap_s(world, 840) == 0, "nothing could run long enough in between: it serves until then"
        await world.until(lambda: not cluster.live_jobs(), within_s=60)
        await world.until(lambda: bool(world.jobs(JobState.ENDED)), within_s=60)
        assert world.jobs(JobState.ENDED)[0].reason is Reason.MAINTENANCE
        world.gateways[0].in_flight = {}
        await world.until(lambda: bool(world.routes()), within_s=1200)


@virtually
async def test_a_maintenance_far_enough_away_hands_over_to_jobs_that_end_before_it(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        slow_engines(world)
        await serving(world, replace(KEPT, resources=Resources(walltime_s=900.0)))
        reserve(world, 1700)
        assert await gap_s(world, 1350) == 0
        assert len(world.jobs(JobState.ENDED)) >= 1


@virtually
async def test_a_notice_that_is_taken_back_changes_nothing(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        cluster = slow_engines(world)
        first = await serving(world, LONG)
        announced = int(world.clock.wall_s())
        world.override("maintenance", "local", starts_at=announced + 600, ends_at=announced + 1200)
        await world.advance(60)
        world.store.clear_override(kind="maintenance", subject="local")
        assert await gap_s(world, 1200) == 0
        assert [route.instance for route in world.routes()] == [first]
        assert not world.model().notices
        assert cluster.submissions == 1


@virtually
async def test_a_maintenance_of_other_nodes_changes_nothing_and_one_of_its_own_node_moves_it(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        cluster = slow_engines(world)
        first = await serving(world, LONG)
        (job,) = cluster.live_jobs()
        reserve(world, 700, nodes=("n99",))
        await world.advance(400)
        assert cluster.submissions == 1
        reserve(world, 700, nodes=(job.node,))
        assert await gap_s(world, 700) == 0
        assert first not in {route.instance for route in world.routes()}
        assert world.jobs(JobState.ENDED)[0].reason is Reason.MAINTENANCE
        (now_running,) = cluster.live_jobs()
        assert now_running.walltime_s == 4 * HOUR


@virtually
async def test_what_a_scheduler_does_not_say_of_its_reservations_leaves_what_was_known(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        cluster = slow_engines(world)
        await serving(world, LONG)
        reserve(world, 1500)
        await world.until(lambda: bool(world.model().notices), within_s=700)
        cluster.faults.unreachable = True
        await world.advance(400)
        assert world.model().notices
        cluster.faults.unreachable = False
        cluster.reservations.clear()
        await world.until(lambda: not world.model().notices, within_s=900)
