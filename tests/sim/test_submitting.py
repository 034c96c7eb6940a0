# SPDX-License-Identifier: Apache-2.0
"""Submissions whose fate is unknown: no job twice, none lost, none left behind."""

from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from firstkit.core.catalog import Scaling
from firstkit.core.job.record import JobState
from firstkit.core.reasons import Reason
from firstkit.testing.records import make_deployment
from firstkit.testing.simulated_world import SimulatedWorld, simulated_world
from firstkit.testing.virtual_time import virtually

ONE = make_deployment(scaling=Scaling(min=1, max=1))


def live(world: SimulatedWorld) -> list[str]:
    """List the run directories of jobs that the scheduler has and that have not ended."""
    return [job.run_dir for job in world.clusters["local"].live_jobs()]


async def settled(world: SimulatedWorld, *, within_s: float = 600.0) -> None:
    """Wait until one instance serves, and see that nothing else is there a while later."""
    await world.until(lambda: len(world.routes()) == 1, within_s=within_s)
    await world.advance(150)
    world.check()
    assert len(live(world)) == 1, world.describe()
    assert len(world.jobs(JobState.RUNNING)) == 1
    assert not world.jobs(JobState.PLANNED, JobState.SUBMITTING, JobState.QUEUED, JobState.ENDING)
    assert live(world) == [job.run_dir for job in world.jobs(JobState.RUNNING)]


@virtually
async def test_a_submission_whose_answer_is_lost_is_found_by_its_tag_and_not_made_again(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.cluster().faults.lost_answers = 1
        world.apply(ONE)
        await world.start()
        await settled(world)
        assert world.clusters["local"].submissions == 1


@virtually
async def test_a_submission_that_never_arrived_is_made_again_only_after_the_scheduler_has_answered_for_a_while(
    tmp_path: Path,
) -> None:
    async with simulated_world(tmp_path) as world:
        world.cluster().faults.lost_submissions = 1
        world.apply(ONE)
        await world.start()
        assert await world.until(lambda: world.clusters["local"].submissions == 1) >= 60
        await settled(world)
        assert [job.reason for job in world.jobs(JobState.ENDED)] == [Reason.SUBMIT_FAILED]


@virtually
async def test_a_submission_that_takes_effect_after_it_was_given_up_is_cancelled(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.cluster().faults.delayed_submissions_s = 200.0
        world.apply(ONE)
        await world.start()
        await world.until(lambda: len(world.jobs()) == 2)
        world.clusters["local"].faults.delayed_submissions_s = 0.0
        await world.until(lambda: bool(world.routes()))
        await world.advance(300)
        await settled(world)


@virtually
async def test_a_submission_that_takes_effect_late_but_in_time_is_the_one_that_serves(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.cluster().faults.delayed_submissions_s = 40.0
        world.apply(ONE)
        await world.start()
        await settled(world)
        assert world.clusters["local"].submissions == 1


@virtually
async def test_polls_that_fail_for_an_hour_bring_no_second_submission(tmp_path: Path) -> None:
    async with simulated_world(tmp_path, tick_s=5.0) as world:
        world.apply(make_deployment(scaling=Scaling(min=3, max=3)))
        await world.start()
        await world.until(lambda: len(world.routes()) == 3)
        cluster = world.clusters["local"]
        cluster.faults.unreachable = True
        for _ in range(60):
            await world.advance(60)
            assert cluster.submissions == 3
            assert len(world.routes()) == 3
        cluster.faults.unreachable = False
        await world.advance(120)
        assert cluster.submissions == 3
        assert len(world.jobs()) == 3


@virtually
async def test_submissions_of_unknown_fate_stay_within_the_bound_through_an_hour_of_silence(tmp_path: Path) -> None:
    async with simulated_world(tmp_path, tick_s=5.0) as world:
        cluster = world.cluster()
        cluster.faults.unreachable = True
        world.apply(make_deployment(scaling=Scaling(min=2, max=2)))
        await world.start()
        for _ in range(60):
            await world.advance(60)
            unknown = world.jobs(JobState.PLANNED, JobState.SUBMITTING, JobState.QUEUED)
            assert len(unknown) <= 2
        cluster.faults.unreachable = False
        await world.until(lambda: len(world.routes()) == 2, within_s=900)
        await world.advance(200)
        assert len(live(world)) == 2


@virtually
async def test_a_refused_submission_is_tried_again_with_growing_pauses_and_then_held_with_the_schedulers_words(
    tmp_path: Path,
) -> None:
    async with simulated_world(tmp_path) as world:
        world.cluster().faults.submit_refused = "sbatch: error: invalid account"
        world.apply(ONE)
        await world.start()
        await world.until(lambda: world.model().held)
        assert (world.model().reason, world.model().detail) == (
            Reason.SUBMIT_REJECTED,
            "sbatch: error: invalid account",
        )
        await world.advance(600)
        assert len(world.jobs()) == 2, "what waiting cannot mend is tried twice"
        world.clusters["local"].faults.submit_refused = ""
        world.override("release", "demo")
        await settled(world)


@virtually
async def test_a_job_that_can_never_start_gives_its_place_back_and_holds_its_deployment(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        faults = world.cluster().faults
        faults.frozen_queue = faults.impossible = True
        world.apply(ONE)
        await world.start()
        await world.until(lambda: world.model().held)
        assert world.model().reason is Reason.SUBMIT_REJECTED
        await world.until(lambda: not world.clusters["local"].live_jobs())
        assert [job.reason for job in world.jobs(JobState.ENDED)] == [Reason.SUBMIT_REJECTED] * 2
        await world.advance(600)
        assert world.clusters["local"].submissions == 2


@virtually
async def test_a_cluster_that_cannot_be_reached_for_an_hour_holds_nothing(tmp_path: Path) -> None:
    async with simulated_world(tmp_path, tick_s=5.0) as world:
        world.cluster().faults.refused = True
        world.apply(ONE)
        await world.start()
        await world.advance(3600)
        assert not world.model().held
        world.clusters["local"].faults.refused = False
        await settled(world)


@virtually
async def test_a_full_disk_on_the_cluster_is_waited_out(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.cluster().faults.disk_full = True
        world.apply(ONE)
        await world.start()
        await world.until(lambda: world.model().reason is Reason.BACKING_OFF)
        assert world.model().detail == "No space left on device"
        assert world.clusters["local"].submissions == 0
        world.clusters["local"].faults.disk_full = False
        await settled(world)


@virtually
async def test_a_job_that_is_unwanted_while_its_submission_hangs_is_cancelled_when_it_shows(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.cluster().faults.delayed_submissions_s = 30.0
        world.apply(ONE)
        await world.start()
        await world.until(lambda: bool(world.jobs(JobState.SUBMITTING)))
        world.apply(make_deployment("other", model="other", scaling=Scaling(min=0)))
        await world.until(lambda: world.clusters["local"].submissions == 1)
        await world.until(lambda: not live(world))
        await world.until(lambda: not world.jobs(*(one for one in JobState if one is not JobState.ENDED)))
        assert [job.reason for job in world.jobs()] == [Reason.REMOVED]


STEPS = ["before put", "after put", "before submit", "after submit"]


@pytest.mark.parametrize("answer_lost", [False, True])
@pytest.mark.parametrize("step", STEPS)
@virtually
async def test_a_controller_killed_at_a_step_of_a_submission_leaves_one_job(
    tmp_path: Path, step: str, answer_lost: bool
) -> None:
    async with simulated_world(tmp_path) as world:
        cluster = world.cluster()
        cluster.faults.lost_answers = int(answer_lost)
        killed = False

        async def kill(name: str) -> None:
            nonlocal killed
            if name == step and not killed and world.reconciler is not None:
                killed = True
                world.kill()
                await anyio.lowlevel.checkpoint()

        cluster.at_step = kill
        world.apply(ONE)
        await world.start()
        await world.until(lambda: killed)
        await world.advance(5)
        await world.start()
        await settled(world)


@virtually
async def test_a_controller_killed_before_or_after_any_call_of_the_store_leaves_one_job(tmp_path: Path) -> None:
    """Kill it at the n-th moment, for every n until it serves; each time another takes over."""
    moments = 0
    for number in range(200):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with simulated_world(folder, tick_s=5.0, settle_s=15.0, observe_s=5.0) as world:
            seen = 0

            async def kill(_name: str) -> None:
                nonlocal seen
                seen += 1
                if seen == number + 1:  # noqa: B023 — called within this round alone
                    world.kill()
                    await anyio.lowlevel.checkpoint()

            world.around_store = kill
            world.apply(ONE)
            world.begin(world.compose())
            await world.until(lambda: world.reconciler is None or bool(world.routes()), within_s=120)
            if world.reconciler is not None:
                break
            moments += 1
            world.around_store = None
            await world.start()
            await world.until(lambda: len(world.routes()) == 1, within_s=300)
            await world.advance(60)
            world.check()
            assert len(live(world)) == 1, (number, world.describe())
            assert [job.run_dir for job in world.jobs(JobState.RUNNING)] == live(world)
    assert 20 < moments < 200
