# SPDX-License-Identifier: Apache-2.0
"""Controllers that die, return, are superseded or stop: what runs goes on, versions grow, idleness writes little."""

import json
from pathlib import Path

import anyio

from firstkit.core.catalog import Resources, Scaling
from firstkit.core.instance.record import InstanceState
from firstkit.core.job.record import JobState
from firstkit.core.reasons import Reason
from firstkit.ports.store import StoreUnavailable
from firstkit.testing.records import make_deployment
from firstkit.testing.simulated_world import SimulatedWorld, simulated_world
from firstkit.testing.virtual_time import virtually

ONE = make_deployment(scaling=Scaling(min=1, max=1))
WRITES = ("take_term", "save", "set_desired", "store_all", "write_all", "prune")


async def started(world: SimulatedWorld) -> str:
    """Have one instance serving; return its id."""
    world.apply(ONE)
    await world.start()
    await world.until(lambda: bool(world.routes()))
    return world.routes()[0].instance


def desired_version(world: SimulatedWorld) -> int:
    (job,) = world.jobs()
    found = world.store.desired(job.id)
    assert found is not None
    return found[0]


@virtually
async def test_a_restarted_controller_adopts_what_runs_and_changes_nothing(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        first = await started(world)
        world.kill()
        await world.advance(300)
        await world.start()
        await world.advance(120)
        assert [route.instance for route in world.routes()] == [first]
        assert world.clusters["local"].submissions == 1
        assert [job.state for job in world.jobs()] == [JobState.RUNNING]


@virtually
async def test_an_instance_is_routed_without_a_gap_over_a_restart(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        first = await started(world)
        for _ in range(5):
            world.kill()
            world.begin(world.compose())
            for _ in range(10):
                await world.advance(1)
                assert [route.instance for route in world.routes()] == [first]


@virtually
async def test_an_old_report_in_the_store_does_not_take_a_ready_instance_back_after_a_restart(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.apply(ONE)
        await world.start()
        cluster = world.clusters["local"]
        await world.until(lambda: bool(world.instances(InstanceState.LOADING)))
        cluster.faults.http_down = True  # the last that HTTP brought says LOADING
        await world.until(lambda: bool(world.routes()))
        world.kill()
        world.begin(world.compose())
        for _ in range(60):
            await world.advance(1)
            assert len(world.routes()) == 1


@virtually
async def test_an_instance_that_ended_while_no_controller_was_there_is_replaced(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        first = await started(world)
        world.kill()
        world.clusters["local"].jobs["1"].cancelled.set()
        await world.advance(100)
        await world.start()
        await world.until(lambda: bool(world.routes()) and world.routes()[0].instance != first, within_s=60)
        assert world.jobs(JobState.ENDED)[0].reason is Reason.CANCELLED


@virtually
async def test_versions_only_grow_across_restarts_even_when_the_clock_is_set_back(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        await started(world)
        snapshots, documents = [world.snapshot().version], [desired_version(world)]
        for skew_s in (0.0, -3600.0, 7200.0, -7200.0):
            world.kill()
            world.clock.skew_s += skew_s
            await world.advance(20)
            await world.start()
            await world.advance(20)
            assert world.ready
            snapshots.append(world.snapshot().version)
            documents.append(desired_version(world))
        assert snapshots == sorted(set(snapshots))
        assert documents == sorted(set(documents))


def desired_of_all(world: SimulatedWorld) -> dict[str, dict[str, object]]:
    """Read the desired documents of all jobs but for their versions, which grow at each renewal before the fence."""
    documents = {job.id: json.loads((world.store.desired(job.id) or (0, b"{}"))[1]) for job in world.jobs()}
    return {job: document | {"version": 0} for job, document in documents.items()}


@virtually
async def test_an_installation_where_nothing_happens_publishes_nothing_new_and_writes_little(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.apply(make_deployment(scaling=Scaling(min=2, max=2), resources=Resources(walltime_s=86_400.0)))
        await world.start()
        await world.until(lambda: len(world.routes()) == 2)
        await world.advance(60)
        snapshot, wanted = world.snapshot(), desired_of_all(world)
        world.writes.clear()
        await world.advance(3600)
        assert world.snapshot().version == snapshot.version
        assert desired_of_all(world) == wanted
        counts = {name: count for name, count in world.writes.items() if name in WRITES}
        assert counts.get("save", 0) <= 250, counts  # signs of life of two jobs and two instances, once a minute
        assert sum(counts.values()) <= 200 + 3600 / 2.5 + 3600 / 2.5, counts


@virtually
async def test_a_controller_whose_term_another_has_taken_stops_and_touches_nothing(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        first = await started(world)
        paused = anyio.Event()
        go_on = anyio.Event()

        async def pause(name: str) -> None:
            if name == "before _gather" and not paused.is_set():
                paused.set()
                await go_on.wait()

        world.around_store = pause
        await world.until(paused.is_set)
        await world.advance(15)
        world.around_store = None
        old = world.reconciler
        other = world.compose("another")
        world.begin(other)
        await world.advance(30)
        commands = world.clusters["local"].submissions
        go_on.set()
        await world.until(lambda: world.fenced)
        assert old is not other
        assert [route.instance for route in world.routes()] == [first]
        assert world.clusters["local"].submissions == commands


@virtually
async def test_a_fenced_controller_cancels_none_of_its_successors_jobs(tmp_path: Path) -> None:
    """It wakes up with a listing in which the new controller's jobs look like nobody's."""
    async with simulated_world(tmp_path) as world:
        await started(world)
        paused, go_on = anyio.Event(), anyio.Event()

        async def pause(name: str) -> None:
            if name == "after _gather" and not paused.is_set():
                paused.set()
                await go_on.wait()

        world.around_store = pause
        await world.until(paused.is_set)
        await world.advance(15)
        world.around_store = None
        world.begin(world.compose("another"))
        world.override("scale", "demo", min=3, max=3)
        await world.until(lambda: len(world.routes()) == 3)
        await world.advance(40)
        go_on.set()
        await world.until(lambda: world.fenced)
        await world.advance(60)
        assert len(world.clusters["local"].live_jobs()) == 3
        assert len(world.routes()) == 3


@virtually
async def test_a_second_controller_waits_and_takes_over_when_the_first_is_gone(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        first = await started(world)
        waiting = world.compose("another")
        active = world.reconciler
        world.ready = False
        scope = anyio.CancelScope()

        async with anyio.create_task_group() as group:

            async def stand_by() -> None:
                def ready() -> None:
                    world.ready = True

                with scope:
                    await waiting.run(ready=ready)

            group.start_soon(stand_by)
            await world.advance(60)
            assert not world.ready
            assert world.reconciler is active
            world.kill()
            await world.until(lambda: world.ready, within_s=20)
            assert [route.instance for route in world.routes()] == [first]
            scope.cancel()


@virtually
async def test_a_revision_that_cannot_be_read_changes_nothing_not_even_over_a_restart(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        first = await started(world)
        world.apply_unreadable()
        await world.advance(30)
        assert world.events("revision_refused")
        await world.restart()
        await world.advance(120)
        assert [route.instance for route in world.routes()] == [first]
        assert world.clusters["local"].submissions == 1
        world.apply(make_deployment(scaling=Scaling(min=2, max=2)))
        await world.until(lambda: len(world.routes()) == 2)


@virtually
async def test_without_any_revision_that_can_be_read_nothing_is_ended(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        first = await started(world)
        world.kill()
        for document in world.store.revisions():
            world._catalogs[document.document] = None  # pyright: ignore[reportPrivateUsage]
        await world.start()
        await world.advance(120)
        assert [job.state for job in world.jobs()] == [JobState.RUNNING]
        assert [(route.instance, route.draining) for route in world.snapshot().routes] == [(first, False)]


@virtually
async def test_the_store_being_away_stops_nothing_and_is_said_once(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        first = await started(world)

        async def away(name: str) -> None:
            if name.startswith("before"):
                raise StoreUnavailable("the database does not answer")

        world.around_store = away
        await world.advance(300)
        world.around_store = None
        await world.advance(30)
        assert [route.instance for route in world.routes()] == [first]
        assert len(world.events("tick_failed")) == 1
        assert len(world.events("ticking_again")) == 1
        assert world.clusters["local"].submissions == 1


@virtually
async def test_a_save_that_fails_delays_a_submission_and_does_not_lose_it(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        failures = 0

        async def failing(name: str) -> None:
            nonlocal failures
            if name == "before save" and failures < 3:
                failures += 1
                raise StoreUnavailable("the database does not answer")

        world.around_store = failing
        world.apply(ONE)
        await world.start()
        assert await world.until(lambda: bool(world.routes())) < 30
        assert failures == 3
        assert len(world.jobs()) == 1


@virtually
async def test_retiring_drains_and_ends_everything_and_says_when_nothing_is_left(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        first = await started(world)
        world.gateways[0].in_flight = {first: 1}
        assert world.reconciler is not None
        world.reconciler.retire(within_s=30.0)
        await world.advance(10)
        assert [route.instance for route in world.routes(draining=True)] == [first]
        world.gateways[0].in_flight = {}
        await world.until(lambda: world.retired, within_s=30)
        assert not world.clusters["local"].live_jobs()
        assert [item.reason for item in world.instances()] == [Reason.STOPPED]
        assert not world.routes(draining=True)


@virtually
async def test_retiring_a_second_time_waits_for_nobody(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        first = await started(world)
        world.gateways[0].in_flight = {first: 1}
        assert world.reconciler is not None
        world.reconciler.retire(within_s=600.0)
        await world.advance(60)
        assert not world.retired
        world.reconciler.retire(within_s=0.0)
        await world.until(lambda: world.retired, within_s=30)


@virtually
async def test_retiring_while_things_start_leaves_nothing_behind(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.cluster().faults.lost_answers = 1
        world.apply(make_deployment(scaling=Scaling(min=5, max=5)))
        await world.start()
        assert world.reconciler is not None
        world.reconciler.retire(within_s=10.0)
        await world.until(lambda: world.retired, within_s=200)
        await world.advance(60)
        assert not world.clusters["local"].live_jobs()


@virtually
async def test_a_controller_that_waits_for_anothers_term_stops_when_told_and_ends_none_of_its_jobs(
    tmp_path: Path,
) -> None:
    async with simulated_world(tmp_path) as world:
        first = await started(world)
        waiting = world.compose("another")
        world.begin(waiting)
        await world.advance(3)
        assert not world.retired
        waiting.retire(within_s=0.0)
        await world.until(lambda: world.retired, within_s=5)
        await world.advance(60)
        assert [route.instance for route in world.routes()] == [first]
        assert [job.state for job in world.jobs()] == [JobState.RUNNING]
