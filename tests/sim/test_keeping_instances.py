# SPDX-License-Identifier: Apache-2.0
"""The real controller and store on virtual time: how many instances there are, and how one takes over from another."""

from dataclasses import replace
from pathlib import Path

import pytest

from firstkit.core.catalog import ClusterLimits, Deployment, EngineSpec, Resources, Scaling, UpdateStyle
from firstkit.core.instance.record import InstanceState
from firstkit.core.job.record import JobState
from firstkit.core.reasons import Reason
from firstkit.core.topology import Heat
from firstkit.services import reconciler
from firstkit.testing.records import make_cluster, make_deployment
from firstkit.testing.simulated_launcher import EngineManner
from firstkit.testing.simulated_world import SimulatedWorld, simulated_world
from firstkit.testing.virtual_time import virtually

ON_DEMAND = make_deployment(scaling=Scaling(min=0, max=3, in_flight=10, idle_s=120.0))
ALWAYS = make_deployment(scaling=Scaling(min=1, max=3, in_flight=10, idle_s=120.0))


def other_engine(deployment: Deployment) -> Deployment:
    """Change what instances are made from."""
    return replace(deployment, engine=EngineSpec(kind="command", options={"argv": ["serve", "{socket}", "2"]}))


def ready(world: SimulatedWorld) -> int:
    return len(world.instances(InstanceState.READY))


async def started(world: SimulatedWorld, deployment: Deployment = ALWAYS) -> None:
    """Have one instance of the deployment serving."""
    world.apply(deployment)
    await world.start()
    await world.until(lambda: len(world.routes()) == max(1, deployment.scaling.min))


@virtually
async def test_min_is_kept_and_nothing_more(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.apply(make_deployment(scaling=Scaling(min=2, max=4)))
        await world.start()
        assert await world.until(lambda: len(world.routes()) == 2) < 20
        await world.advance(300)
        assert len(world.jobs()) == 2
        assert world.clusters["local"].submissions == 2
        world.check()


@virtually
async def test_a_model_starts_at_the_first_request_and_goes_when_nobody_has_asked_for_idle(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.apply(ON_DEMAND)
        await world.start()
        await world.advance(60)
        assert not world.jobs()
        assert (world.model().heat, world.model().reason) == (Heat.COLD, Reason.NO_DEMAND)
        world.gateways[0].waiting = {"demo-model": 1}
        await world.until(lambda: world.model().heat is Heat.HOT)
        world.gateways[0].waiting = {}
        left = await world.until(lambda: not world.routes())
        assert 115 <= left <= 150
        await world.until(lambda: not world.clusters["local"].live_jobs())
        assert [job.reason for job in world.jobs()] == [Reason.SCALED_IN]


@virtually
async def test_the_folder_of_a_job_that_is_forgotten_is_removed_and_those_of_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "MEMORY_S", 600.0)  # a day of virtual time takes a minute of real time
    async with simulated_world(tmp_path) as world:
        world.apply(ON_DEMAND)
        await world.start()
        world.gateways[0].waiting = {"demo-model": 1}
        await world.until(lambda: world.model().heat is Heat.HOT)
        world.gateways[0].waiting = {}
        await world.until(lambda: not world.clusters["local"].live_jobs())
        (job,) = world.jobs()
        files = world.clusters["local"].files
        assert any(path.startswith(job.run_dir) for path in files)
        world.gateways[0].waiting = {"demo-model": 1}
        await world.until(lambda: world.model().heat is Heat.HOT)
        await world.until(lambda: not any(path.startswith(job.run_dir) for path in files), within_s=900)
        (other,) = world.clusters["local"].live_jobs()
        assert any(path.startswith(other.run_dir) for path in files)


@virtually
async def test_a_request_that_came_and_went_between_two_looks_starts_the_model(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.apply(ON_DEMAND)
        await world.start()
        world.gateways[0].wanted = {"demo-model"}
        await world.advance(2)
        world.gateways[0].wanted = set()
        await world.until(lambda: bool(world.routes()))


@virtually
async def test_a_short_idle_counts_from_the_last_request_and_what_is_asked_for_every_second_stays(
    tmp_path: Path,
) -> None:
    async with simulated_world(tmp_path) as world:
        (gateway,) = world.gateways
        gateway.waiting = {"demo-model": 1}
        await started(world, make_deployment(scaling=Scaling(min=0, max=3, in_flight=10, idle_s=1.0)))
        gateway.waiting, gateway.wanted = {}, {"demo-model"}
        await world.advance(120)
        assert len(world.instances()) == 1
        gateway.wanted = set()
        await world.until(lambda: not world.routes(), within_s=8.0)


@virtually
async def test_a_model_in_use_stays_however_long_one_answer_takes(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.gateways[0].waiting = {"demo-model": 1}
        await started(world, ON_DEMAND)
        world.gateways[0].waiting = {}
        world.gateways[0].in_flight = {world.routes()[0].instance: 1}
        await world.advance(600)
        assert len(world.routes()) == 1
        world.gateways[0].in_flight = {}
        await world.until(lambda: not world.routes(), within_s=200)


@virtually
async def test_more_requests_in_flight_than_one_carries_start_more_up_to_max(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        await started(world)
        world.gateways[0].in_flight = {world.routes()[0].instance: 11}
        await world.until(lambda: len(world.routes()) == 2)
        world.gateways[0].in_flight = {route.instance: 100 for route in world.routes()}
        await world.until(lambda: len(world.routes()) == 3)
        await world.advance(100)
        assert len(world.jobs()) == 3


@virtually
async def test_a_queue_that_does_not_drain_starts_more_and_a_short_burst_does_not(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        await started(world)
        gateway = world.gateways[0]
        gateway.in_flight, gateway.waiting, gateway.oldest_wait_s = (
            {world.routes()[0].instance: 10},
            {"demo-model": 5},
            1.0,
        )
        await world.advance(30)
        assert len(world.jobs()) == 1
        gateway.oldest_wait_s = 3.0
        await world.until(lambda: len(world.routes()) == 2)


@virtually
async def test_the_end_of_the_walltime_of_the_one_that_is_kept_brings_a_new_one(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        await started(world, replace(ALWAYS, resources=Resources(walltime_s=600.0)))
        (first,) = world.routes()
        assert first.ends_in_s is not None
        await world.until(lambda: any(job.state is JobState.ENDED for job in world.jobs()), within_s=700)
        await world.until(lambda: bool(world.routes()))
        (job,) = world.jobs(JobState.ENDED)
        assert job.reason is Reason.WALLTIME
        assert world.routes()[0].instance != first.instance
        assert world.model().held is False
        (old,) = world.instances(InstanceState.ENDED)
        assert old.reason is Reason.WALLTIME


@virtually
async def test_an_instance_that_is_about_to_end_by_itself_takes_no_new_requests(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.cluster().engines = lambda _: EngineManner(stop_s=20.0)
        await started(world, replace(ALWAYS, resources=Resources(walltime_s=600.0)))
        first = world.routes()[0].instance
        world.gateways[0].in_flight = {first: 1}
        await world.until(lambda: [route.instance for route in world.routes(draining=True)] == [first])
        assert len(world.clusters["local"].live_jobs()) == 2, "its successor is on its way at once"
        assert not [job for job in world.jobs() if job.cancelled_at is not None]


@virtually
async def test_scale_overrides_the_bounds_until_it_is_taken_back(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        await started(world)
        world.override("scale", "demo", min=3, max=3)
        await world.until(lambda: len(world.routes()) == 3)
        world.override("scale", "demo", min=1, max=1)
        await world.until(lambda: len(world.routes()) == 1)
        world.store.clear_override(kind="scale", subject="demo")
        await world.advance(30)
        assert len(world.routes()) == 1


@virtually
async def test_a_cordoned_deployment_starts_nothing_and_goes_on_with_what_is_in_flight(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        await started(world)
        world.override("cordon", "demo")
        await world.until(lambda: bool(world.routes(draining=True)))
        await world.advance(100)
        assert ready(world) == 1
        assert not world.routes()
        world.store.clear_override(kind="cordon", subject="demo")
        await world.until(lambda: bool(world.routes()))


@virtually
async def test_a_drained_deployment_ends_and_stays_down(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        await started(world)
        world.override("drain", "demo")
        await world.until(lambda: not world.clusters["local"].live_jobs())
        await world.advance(100)
        assert len(world.jobs()) == 1
        assert [item.reason for item in world.instances()] == [Reason.OVERRIDE]


@virtually
async def test_one_drained_instance_is_replaced(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        await started(world)
        first = world.routes()[0].instance
        world.override("drain", first)
        await world.until(lambda: bool(world.routes()) and world.routes()[0].instance != first)


@virtually
async def test_a_stopped_cluster_has_no_job_of_ours_and_a_resumed_one_starts_again(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        await started(world)
        world.override("stop", "local")
        await world.until(lambda: not world.clusters["local"].live_jobs(), within_s=30)
        await world.advance(120)
        assert not world.clusters["local"].live_jobs()
        assert (world.model().heat, world.model().reason, world.model().held) == (
            Heat.COLD,
            Reason.CLUSTER_STOPPED,
            True,
        )
        world.store.clear_override(kind="stop", subject="local")
        await world.until(lambda: bool(world.routes()))


@pytest.mark.parametrize(
    ("limits", "most"),
    [(ClusterLimits(jobs=2), 2), (ClusterLimits(nodes=5), 2), (ClusterLimits(submits_per_hour=1), 1)],
)
@virtually
async def test_limits_of_a_cluster_are_never_exceeded(tmp_path: Path, limits: ClusterLimits, most: int) -> None:
    async with simulated_world(tmp_path) as world:
        wide = make_deployment(scaling=Scaling(min=4, max=4), resources=Resources(nodes=2))
        world.apply(wide, clusters=[make_cluster(limits=limits)])
        await world.start()
        await world.until(lambda: len(world.routes()) == most)
        await world.advance(120)
        assert world.clusters["local"].submissions == most
        (view,) = world.snapshot().models
        assert view.heat is Heat.HOT


@virtually
async def test_a_model_that_a_limit_keeps_down_says_which(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        first = make_deployment("first", scaling=Scaling(min=1, max=1))
        second = make_deployment("second", model="other", scaling=Scaling(min=1, max=1))
        world.apply(first, second, clusters=[make_cluster(limits=ClusterLimits(jobs=1))])
        await world.start()
        await world.until(lambda: bool(world.routes()))
        assert world.model("other").reason is Reason.CLUSTER_LIMIT
        assert world.model("other").detail == "limits.jobs of the cluster is reached"


@virtually
async def test_one_request_wakes_one_of_two_deployments_of_a_model(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.apply(replace(ON_DEMAND, name="a"), replace(ON_DEMAND, name="b"))
        await world.start()
        world.gateways[0].waiting = {"demo-model": 1}
        await world.until(lambda: bool(world.routes()))
        world.gateways[0].wanted = {"demo-model"}
        await world.advance(60)
        assert {job.deployment for job in world.jobs()} == {"a"}


@virtually
async def test_the_second_deployment_of_a_model_takes_what_the_first_cannot(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        first = make_deployment("a", cluster="full", scaling=Scaling(max=1, in_flight=2))
        world.apply(
            first, replace(first, name="b", cluster="free"), clusters=[make_cluster("full"), make_cluster("free")]
        )
        await world.start()
        world.gateways[0].waiting, world.gateways[0].oldest_wait_s = {"demo-model": 3}, 5.0
        await world.until(lambda: {route.cluster for route in world.routes()} == {"full", "free"})


# -------------------------------------------------------------------------------------------------- drains and updates
@virtually
async def test_a_drain_waits_until_nothing_is_in_flight(tmp_path: Path) -> None:
    async with simulated_world(tmp_path, drain_s=300.0) as world:
        await started(world)
        first = world.routes()[0].instance
        world.gateways[0].in_flight = {first: 2}
        world.override("drain", "demo")
        await world.until(lambda: bool(world.routes(draining=True)))
        await world.advance(100)
        assert len(world.clusters["local"].ready()) == 0  # the launcher says DRAINING
        assert len(world.clusters["local"].live_jobs()) == 1
        world.gateways[0].in_flight = {}
        await world.until(lambda: not world.clusters["local"].live_jobs(), within_s=20)


@virtually
async def test_a_drain_waits_for_a_gateway_that_has_not_read_of_it_yet(tmp_path: Path) -> None:
    async with simulated_world(tmp_path, drain_s=300.0) as world:
        await started(world)
        world.gateways[0].reads = False
        world.override("drain", "demo")
        await world.advance(60)
        assert len(world.clusters["local"].live_jobs()) == 1
        world.gateways[0].reads = True
        await world.until(lambda: not world.clusters["local"].live_jobs(), within_s=20)


@virtually
async def test_a_drain_ends_at_its_deadline_whatever_is_in_flight(tmp_path: Path) -> None:
    async with simulated_world(tmp_path, drain_s=90.0) as world:
        await started(world)
        world.gateways[0].in_flight = {world.routes()[0].instance: 1}
        world.override("drain", "demo")
        took = await world.until(lambda: not world.clusters["local"].live_jobs(), within_s=120)
        assert took >= 85


@virtually
async def test_a_drain_does_not_wait_for_a_gateway_that_is_gone(tmp_path: Path) -> None:
    async with simulated_world(tmp_path, drain_s=300.0) as world:
        await started(world)
        world.gateways[0].in_flight = {world.routes()[0].instance: 1}
        await world.advance(2)
        world.gateways.clear()
        world.override("drain", "demo")
        await world.until(lambda: not world.clusters["local"].live_jobs(), within_s=30)


@virtually
async def test_a_drain_after_a_cordon_that_was_taken_back_waits_for_the_new_snapshot(tmp_path: Path) -> None:
    async with simulated_world(tmp_path, drain_s=300.0) as world:
        await started(world)
        world.override("cordon", "demo")
        await world.until(lambda: bool(world.routes(draining=True)))
        world.store.clear_override(kind="cordon", subject="demo")
        await world.until(lambda: bool(world.routes()))
        await world.advance(3)
        world.gateways[0].reads = False  # it still takes the route for open
        world.override("drain", "demo")
        await world.advance(30)
        assert len(world.clusters["local"].live_jobs()) == 1


@virtually
async def test_a_rolled_deployment_serves_all_the_time(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        await started(world, replace(ALWAYS, scaling=Scaling(min=2, max=3)))
        olds = {route.instance for route in world.routes()}
        world.apply(other_engine(replace(ALWAYS, scaling=Scaling(min=2, max=3))))
        while {route.instance for route in world.routes()} & olds or world.routes(draining=True):
            await world.advance(1)
            assert len(world.routes()) >= 2
            world.check()
        assert len(world.routes()) == 2
        assert {item.reason for item in world.instances(InstanceState.ENDED)} <= {Reason.UPDATED}


@virtually
async def test_an_old_instance_is_routed_by_what_it_was_made_from(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.cluster().engines = lambda _: EngineManner(load_s=60.0)
        first = replace(ALWAYS, engine=EngineSpec(kind="command", options={"argv": ["{socket}"], "served_name": "one"}))
        await started(world, first)
        second = replace(first, engine=EngineSpec(kind="command", options={"argv": ["{socket}"], "served_name": "two"}))
        world.apply(second)
        await world.advance(10)
        assert [route.served_name for route in world.routes()] == ["one"]
        await world.restart()
        await world.advance(5)
        assert [route.served_name for route in world.routes()] == ["one"]
        await world.until(lambda: [route.served_name for route in world.routes()] == ["two"])


@virtually
async def test_drain_first_ends_the_old_before_the_new_begins(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        style = replace(ALWAYS, update=UpdateStyle.DRAIN_FIRST)
        await started(world, style)
        first = world.routes()[0].instance
        world.apply(other_engine(style))
        while not any(route.instance != first for route in world.routes()):
            await world.advance(1)
            assert len(world.clusters["local"].ready()) <= 1
        assert world.clusters["local"].submissions == 2


@virtually
async def test_a_roll_where_the_old_one_fills_the_limit_still_comes_to_its_end(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        places = [make_cluster(limits=ClusterLimits(jobs=1))]
        world.apply(ALWAYS, clusters=places)
        await world.start()
        await world.until(lambda: bool(world.routes()))
        first = world.routes()[0].instance
        world.apply(other_engine(ALWAYS), clusters=places)
        await world.until(lambda: any(route.instance != first for route in world.routes()))
        assert world.clusters["local"].submissions == 2


@virtually
async def test_a_change_of_scaling_or_limits_replaces_nothing(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        await started(world)
        first = world.routes()[0].instance
        world.apply(replace(ALWAYS, scaling=replace(ALWAYS.scaling, in_flight=99)))
        await world.until(lambda: [route.cap for route in world.routes()] == [99])
        assert world.routes()[0].instance == first


@virtually
async def test_a_removed_deployment_finishes_what_is_in_flight_and_ends(tmp_path: Path) -> None:
    async with simulated_world(tmp_path, drain_s=300.0) as world:
        await started(world)
        world.gateways[0].in_flight = {world.routes()[0].instance: 1}
        world.apply(make_deployment("other", model="other", scaling=Scaling(min=0)))
        await world.until(lambda: bool(world.routes(draining=True)))
        await world.restart()
        await world.advance(60)
        assert len(world.routes(draining=True)) == 1
        assert len(world.clusters["local"].live_jobs()) == 1
        world.gateways[0].in_flight = {}
        await world.until(lambda: not world.clusters["local"].live_jobs(), within_s=30)
        assert [item.reason for item in world.instances()] == [Reason.REMOVED]


@virtually
async def test_a_removed_cluster_is_looked_at_until_its_jobs_have_ended(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.cluster("old")
        world.apply(make_deployment(cluster="old", scaling=Scaling(min=1)), clusters=[make_cluster("old")])
        await world.start()
        await world.until(lambda: bool(world.routes()))
        world.apply(ON_DEMAND, clusters=[make_cluster()])
        await world.restart()
        await world.until(lambda: not world.clusters["old"].live_jobs())
        await world.until(lambda: all(job.state is JobState.ENDED for job in world.jobs()))
        commands = world.clusters["old"].commands
        await world.advance(200)
        assert world.clusters["old"].commands <= commands + 1


@virtually
async def test_a_cluster_that_changes_while_things_are_under_way_loses_none_of_them(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        deployment = make_deployment(scaling=Scaling(min=6, max=6))
        world.apply(deployment, clusters=[make_cluster()])
        world.clusters["local"].faults.unreachable = True
        await world.start()
        for number in range(5):
            limits = ClusterLimits(jobs=100 + number)
            world.apply(deployment, clusters=[make_cluster(limits=limits)])
            await world.advance(30)
        world.clusters["local"].faults.unreachable = False
        await world.until(lambda: len(world.routes()) == 6, within_s=900)
        await world.advance(150)
        assert len(world.clusters["local"].live_jobs()) == 6
