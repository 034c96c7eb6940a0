# SPDX-License-Identifier: Apache-2.0
"""The fence of a launcher: it ends a job that no controller looks after, and no other."""

from dataclasses import replace
from pathlib import Path

from firstkit.core.catalog import Scaling
from firstkit.core.job.record import JobState
from firstkit.core.reasons import Reason
from firstkit.testing.records import make_cluster, make_deployment
from firstkit.testing.simulated_world import FENCE_S, simulated_world
from firstkit.testing.virtual_time import virtually

ONE = make_deployment(scaling=Scaling(min=1, max=1))


@virtually
async def test_a_job_that_only_files_reach_lives_past_its_fence_while_a_controller_runs(tmp_path: Path) -> None:
    async with simulated_world(tmp_path, tick_s=5.0) as world:
        world.apply(ONE, clusters=[replace(make_cluster(), control="files")])
        await world.start()
        await world.until(lambda: bool(world.routes()))
        await world.advance(2.2 * FENCE_S)
        assert [job.state for job in world.jobs()] == [JobState.RUNNING]
        assert len(world.routes()) == 1


@virtually
async def test_a_job_whose_api_is_away_for_long_lives_on_by_files(tmp_path: Path) -> None:
    async with simulated_world(tmp_path, tick_s=5.0) as world:
        world.apply(ONE)
        await world.start()
        await world.until(lambda: bool(world.routes()))
        world.clusters["local"].faults.http_down = True
        await world.advance(1.5 * FENCE_S)
        assert [job.state for job in world.jobs()] == [JobState.RUNNING]


@virtually
async def test_a_job_without_a_controller_and_without_an_api_ends_itself(tmp_path: Path) -> None:
    async with simulated_world(tmp_path, tick_s=5.0) as world:
        world.apply(ONE)
        await world.start()
        await world.until(lambda: bool(world.routes()))
        world.clusters["local"].faults.http_down = True
        world.kill()
        left = await world.until(lambda: not world.clusters["local"].live_jobs(), within_s=1.5 * FENCE_S)
        assert left >= 0.6 * FENCE_S
        await world.start()
        await world.until(lambda: bool(world.jobs(JobState.ENDED)))
        assert world.jobs(JobState.ENDED)[0].reason is Reason.UNSUPERVISED
