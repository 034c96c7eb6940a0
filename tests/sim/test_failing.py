# SPDX-License-Identifier: Apache-2.0
"""Engines, jobs and nodes that fail: tried again with pauses, held with the reason, replaced when out of reach."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

from firstkit.core.catalog import Deployment, EngineSpec, Scaling
from firstkit.core.instance.record import InstanceState
from firstkit.core.job.record import JobState
from firstkit.core.reasons import Reason
from firstkit.core.topology import Heat
from firstkit.ports.probe import Probed
from firstkit.testing.records import make_deployment
from firstkit.testing.simulated_launcher import EngineManner
from firstkit.testing.simulated_world import SimulatedWorld, simulated_world
from firstkit.testing.virtual_time import virtually

ONE = make_deployment(scaling=Scaling(min=1, max=2, idle_s=60.0))


def pauses(world: SimulatedWorld) -> list[float]:
    """List the seconds between each failure and the next start."""
    items = sorted(world.instances(), key=lambda item: item.created_at)
    return [round(after.created_at - (before.ended_at or 0.0), 1) for before, after in itertools.pairwise(items)]


@virtually
async def test_a_crashing_engine_is_started_again_with_growing_pauses_and_then_held_until_released(
    tmp_path: Path,
) -> None:
    async with simulated_world(tmp_path) as world:
        world.cluster().engines = lambda _: EngineManner(crash_s=3.0, crash_reason="OUT_OF_MEMORY", load_s=None)
        world.apply(ONE)
        await world.start()
        await world.until(lambda: world.model().held)
        model = world.model()
        assert (model.heat, model.reason, model.detail) == (Heat.COLD, Reason.OUT_OF_MEMORY, "exit code 1")
        first, second, third = pauses(world)
        assert 1.9 <= first < second < third
        assert len(world.jobs()) == 4
        assert world.instances()[0].exit_tail[-1] == "RuntimeError: it broke"
        await world.advance(1000)
        assert len(world.jobs()) == 4, "held means that nothing is tried"
        world.clusters["local"].engines = lambda _: EngineManner()
        world.override("release", "demo")
        await world.until(lambda: bool(world.routes()))
        assert not world.model().held


@virtually
async def test_a_changed_deployment_is_not_held_for_what_the_old_one_did(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.cluster().engines = lambda _: EngineManner(crash_s=3.0, load_s=None)
        world.apply(ONE)
        await world.start()
        await world.until(lambda: world.model().held)
        world.clusters["local"].engines = lambda _: EngineManner()
        world.apply(replace(ONE, engine=EngineSpec(kind="command", options={"argv": ["better", "{socket}"]})))
        await world.until(lambda: bool(world.routes()))


@virtually
async def test_an_instance_that_crashes_once_in_a_while_is_just_replaced(tmp_path: Path) -> None:
    async with simulated_world(tmp_path, tick_s=5.0) as world:
        world.cluster().engines = lambda _: EngineManner(crash_s=300.0)
        world.apply(ONE)
        await world.start()
        await world.advance(3600)
        assert len(world.jobs()) >= 10
        assert not world.model().held


@virtually
async def test_a_failing_setup_line_ends_in_its_own_words(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        words = "ModuleNotFoundError: conda\nlmod: the module conda is unknown"
        world.cluster().engines = lambda _: EngineManner(setup=words)
        world.apply(ONE)
        await world.start()
        await world.until(lambda: world.model().held)
        assert world.model().reason is Reason.SETUP_FAILED
        assert world.model().detail == "exit code 1 at line 20 of start.sh: module load conda"
        assert world.instances()[0].exit_tail == tuple(words.splitlines())
        assert len(world.jobs()) == 2
        assert {job.reason for job in world.jobs()} == {Reason.SETUP_FAILED}


@virtually
async def test_a_job_whose_launcher_never_says_a_word_is_ended_and_counts_as_a_failure(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.cluster().engines = lambda _: EngineManner(mute=True)
        world.apply(ONE)
        await world.start()
        took = await world.until(lambda: any(job.state is JobState.ENDED for job in world.jobs()))
        assert 90 <= took <= 140
        assert world.jobs(JobState.ENDED)[0].reason is Reason.NEVER_REGISTERED


@virtually
async def test_a_silent_launcher_is_not_judged_while_its_files_cannot_be_read(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        cluster = world.cluster()
        cluster.faults.http_down = cluster.faults.unreadable = True
        world.apply(ONE)
        await world.start()
        await world.until(lambda: bool(world.jobs(JobState.RUNNING)))
        await world.advance(600)
        await world.restart()
        await world.advance(600)
        assert not world.jobs(JobState.ENDING, JobState.ENDED)
        cluster.faults.unreadable = False
        await world.until(lambda: bool(world.routes()), within_s=100)
        assert cluster.submissions == 1


@virtually
async def test_without_http_everything_goes_through_files(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.cluster().faults.http_down = True
        world.apply(ONE)
        await world.start()
        await world.until(lambda: bool(world.routes()), within_s=60)
        world.override("drain", "demo")
        await world.until(lambda: not world.clusters["local"].live_jobs(), within_s=60)
        assert [job.reason for job in world.jobs()] == [Reason.OVERRIDE]


@virtually
async def test_a_dead_node_brings_a_new_instance_and_holds_nothing(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.apply(ONE)
        await world.start()
        for _ in range(5):
            await world.until(lambda: bool(world.routes()), within_s=900)
            cluster = world.clusters["local"]
            before = world.routes()[0].instance
            cluster.fail_node(cluster.live_jobs()[0].number)
            await world.until(
                lambda before=before: all(route.instance != before for route in world.routes()),
                within_s=200,
            )
        await world.until(lambda: bool(world.routes()), within_s=900)
        assert not world.model().held
        assert {job.reason for job in world.jobs(JobState.ENDED)} == {Reason.NODE_FAILURE}


@virtually
async def test_an_instance_that_gateways_cannot_reach_and_whose_launcher_is_silent_is_unrouted_and_replaced(
    tmp_path: Path,
) -> None:
    async with simulated_world(tmp_path) as world:
        world.apply(ONE)
        await world.start()
        await world.until(lambda: bool(world.routes()))
        cluster = world.clusters["local"]
        first = world.routes()[0].instance
        world.gateways[0].lost = {first}
        await world.advance(60)
        assert [route.instance for route in world.routes()] == [first], "its launcher still speaks"
        frozen = cluster.jobs["1"].launcher
        assert frozen is not None
        frozen.report = lambda _job, _seq, _data: False
        frozen.files = {}
        await world.until(lambda: bool(world.routes()) and world.routes()[0].instance != first)
        assert len(cluster.live_jobs()) == 2, "what cannot be reached is not killed for it"


EXTERNAL: Deployment = make_deployment(
    cluster=None,
    resources=None,
    engine=EngineSpec(kind="external", options={"url": "http://engine:8000", "key_file": "/keys/engine"}),
    scaling=Scaling(min=1, max=1),
)


def listing(*names: str) -> Probed:
    body = json.dumps({"object": "list", "data": [{"id": name, "max_model_len": 4096} for name in names]})
    return Probed(ready=True, body=body.encode())


@virtually
async def test_an_external_engine_goes_away_and_comes_back(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.apply(EXTERNAL)
        await world.start()
        await world.advance(5)
        assert (world.model().heat, world.routes()) == (Heat.WARM, [])
        world.external["engine"] = listing("demo-model")
        await world.until(lambda: bool(world.routes()), within_s=5)
        (route,) = world.routes()
        assert (route.authorization, route.max_model_len) == ("Bearer key of /keys/engine", 4096)
        assert world.questions[-1] == ("/v1/models", "Bearer key of /keys/engine")
        del world.external["engine"]
        await world.until(lambda: not world.routes(), within_s=15)
        assert world.instances()[0].detail == "no answer"
        world.external["engine"] = listing("demo-model")
        await world.until(lambda: bool(world.routes()), within_s=5)
        assert len(world.instances()) == 1
        assert not world.jobs()


@virtually
async def test_an_external_engine_that_serves_another_model_is_not_routed(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.external["engine"] = listing("something-else")
        world.apply(EXTERNAL)
        await world.start()
        await world.advance(20)
        assert not world.routes()
        assert world.instances()[0].detail == ("the engine does not serve demo-model: it lists something-else")


@virtually
async def test_a_removed_external_engine_drains_and_is_left_alone(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.external["engine"] = listing("demo-model")
        world.apply(EXTERNAL)
        await world.start()
        await world.until(lambda: bool(world.routes()))
        world.apply(make_deployment("other", model="other", scaling=Scaling(min=0)))
        await world.until(lambda: not world.instances(InstanceState.READY, InstanceState.DRAINING))
        asked = len(world.questions)
        await world.advance(60)
        assert len(world.questions) == asked


@virtually
async def test_a_status_that_a_dead_launcher_left_in_its_file_is_no_sign_of_life_after_a_restart(
    tmp_path: Path,
) -> None:
    async with simulated_world(tmp_path) as world:
        cluster = world.cluster()
        cluster.faults.http_down = True
        world.apply(ONE)
        await world.start()
        await world.until(lambda: bool(world.routes()))
        await world.advance(60)
        (before,) = world.instances()
        world.kill()
        cluster.faults.hidden = {"1"}
        cluster.fail_node("1")
        await world.advance(600)
        await world.start()
        killed_at = world.clock.wall_s() - 600
        await world.until(lambda: world.jobs()[0].absent_since is not None)
        (after,) = world.instances()
        assert before.heard_at is not None
        assert after.heard_at is not None
        assert before.heard_at <= after.heard_at <= killed_at
