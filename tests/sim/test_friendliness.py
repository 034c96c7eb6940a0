# SPDX-License-Identifier: Apache-2.0
"""How often a scheduler is asked: counted over a long time of virtual time."""

from pathlib import Path

from firstkit.core.catalog import Scaling
from firstkit.core.job.record import JobState
from firstkit.testing.records import make_cluster, make_deployment
from firstkit.testing.simulated_launcher import EngineManner
from firstkit.testing.simulated_world import simulated_world
from firstkit.testing.virtual_time import virtually

SPAN_S = 1200.0


@virtually
async def test_many_running_jobs_cost_one_command_in_thirty_seconds_and_no_more(tmp_path: Path) -> None:
    async with simulated_world(tmp_path, tick_s=5.0) as world:
        world.apply(make_deployment(scaling=Scaling(min=10, max=10, idle_s=None)))
        await world.start()
        await world.until(lambda: len(world.routes()) == 10)
        await world.advance(120)
        cluster = world.clusters["local"]
        before = cluster.commands
        await world.advance(SPAN_S)
        assert cluster.commands - before <= SPAN_S / 30
        assert cluster.commands - before >= SPAN_S / 40, "and it does look"


@virtually
async def test_a_job_that_waits_for_hours_is_looked_for_often_at_first_and_seldom_later(tmp_path: Path) -> None:
    async with simulated_world(tmp_path, tick_s=5.0) as world:
        world.cluster().faults.frozen_queue = True
        world.apply(make_deployment(scaling=Scaling(min=1, max=1)))
        await world.start()
        cluster = world.clusters["local"]
        await world.until(lambda: bool(world.jobs(JobState.QUEUED)))
        before = cluster.commands
        await world.advance(60)
        assert cluster.commands - before >= 5
        await world.advance(120)
        before = cluster.commands
        await world.advance(2 * SPAN_S)
        assert cluster.commands - before <= 2 * SPAN_S / 30
        cluster.faults.frozen_queue = False
        await world.until(lambda: bool(world.routes()))


@virtually
async def test_a_scheduler_that_does_not_answer_is_asked_less_and_less(tmp_path: Path) -> None:
    async with simulated_world(tmp_path, tick_s=5.0) as world:
        world.cluster().faults.frozen_queue = True
        world.apply(make_deployment(scaling=Scaling(min=1, max=1)))
        await world.start()
        cluster = world.clusters["local"]
        await world.until(lambda: bool(world.jobs(JobState.QUEUED)))
        cluster.faults.refused = True
        before = cluster.commands
        await world.advance(SPAN_S)
        assert cluster.commands - before <= 12 + SPAN_S / 60
        cluster.faults.refused = False
        await world.advance(65)
        assert not world.events("cluster_trouble") or world.events("cluster_well")


@virtually
async def test_where_only_files_tell_they_are_read_often_and_the_scheduler_is_asked_no_more_for_it(
    tmp_path: Path,
) -> None:
    async with simulated_world(tmp_path, tick_s=1.0) as world:
        cluster = world.cluster()
        cluster.faults.http_down = True
        cluster.engines = lambda _: EngineManner(load_s=600.0)
        world.apply(make_deployment(scaling=Scaling(min=1, max=1)), clusters=[make_cluster(control="files")])
        await world.start()
        await world.until(lambda: bool(cluster.live_jobs()) and cluster.live_jobs()[0].launcher is not None)
        before, began = cluster.commands, world.clock.monotonic_s()
        await world.until(lambda: bool(world.routes()), within_s=700)
        assert world.clock.monotonic_s() - began < 620, "READY is heard of within a few seconds"
        assert cluster.commands - before <= 600 / 30 + 10
