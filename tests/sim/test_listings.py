# SPDX-License-Identifier: Apache-2.0
"""What schedulers say: broken, doubled, late and foreign; and what is cancelled because of it."""

from pathlib import Path

import pytest

from firstkit.core.catalog import Scaling
from firstkit.core.job.record import JobState
from firstkit.core.reasons import Reason
from firstkit.testing.records import make_cluster, make_deployment
from firstkit.testing.simulated_faults import Faults
from firstkit.testing.simulated_world import SimulatedWorld, simulated_world
from firstkit.testing.virtual_time import virtually

ONE = make_deployment(scaling=Scaling(min=1, max=1))


async def started(world: SimulatedWorld) -> None:
    world.apply(ONE)
    await world.start()
    await world.until(lambda: bool(world.routes()))


@pytest.mark.parametrize(
    "fault", [{"truncated": True}, {"unknown_states": True}, {"repeated_lines": True}, {"unreachable": True}], ids=str
)
@virtually
async def test_a_listing_that_is_broken_for_half_an_hour_ends_nothing(tmp_path: Path, fault: dict[str, bool]) -> None:
    async with simulated_world(tmp_path, tick_s=5.0) as world:
        await started(world)
        cluster = world.clusters["local"]
        for name, value in fault.items():
            setattr(cluster.faults, name, value)
        await world.advance(1800)
        assert cluster.submissions == 1
        assert len(world.routes()) == 1
        cluster.faults = Faults()
        await world.advance(60)
        assert [job.state for job in world.jobs()] == [JobState.RUNNING]


@virtually
async def test_a_job_that_is_missing_from_one_listing_goes_on(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.cluster().faults.http_down = True
        await started(world)
        cluster = world.clusters["local"]
        cluster.faults.hidden = {"1"}
        await world.advance(35)
        cluster.faults.hidden = set()
        await world.advance(120)
        assert [job.state for job in world.jobs()] == [JobState.RUNNING]
        assert world.jobs()[0].absent_since is None


@virtually
async def test_a_job_that_is_missing_while_its_launcher_reports_goes_on(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        await started(world)
        world.clusters["local"].faults.hidden = {"1"}
        await world.advance(900)
        assert [job.state for job in world.jobs()] == [JobState.RUNNING]
        assert len(world.routes()) == 1


@virtually
async def test_a_job_that_the_scheduler_forgot_and_whose_launcher_is_silent_is_lost_after_a_while(
    tmp_path: Path,
) -> None:
    async with simulated_world(tmp_path) as world:
        await started(world)
        cluster = world.clusters["local"]
        cluster.faults.forgetful = True
        cluster.fail_node("1")
        took = await world.until(lambda: bool(world.jobs(JobState.ENDED)))
        assert 60 <= took <= 150
        assert world.jobs(JobState.ENDED)[0].reason is Reason.JOB_LOST
        await world.until(lambda: bool(world.routes()))


@virtually
async def test_what_the_accounting_knows_of_a_job_that_the_listing_forgot_ends_it_at_once_with_its_reason(
    tmp_path: Path,
) -> None:
    async with simulated_world(tmp_path) as world:
        await started(world)
        cluster = world.clusters["local"]
        cluster.faults.forgetful, cluster.faults.accounting = True, True
        cluster.fail_node("1")
        took = await world.until(lambda: bool(world.jobs(JobState.ENDED)))
        assert took < 40, "one look is enough"
        assert world.jobs(JobState.ENDED)[0].reason is Reason.NODE_FAILURE
        await world.until(lambda: bool(world.routes()))


@virtually
async def test_the_accounting_is_asked_only_about_what_is_missing_and_once_a_minute_at_most(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        await started(world)
        cluster = world.clusters["local"]
        cluster.faults.accounting = True
        await world.advance(600)
        assert cluster.recalls == 0
        cluster.faults.hidden = {"1"}
        await world.advance(600)
        assert 1 <= cluster.recalls <= 11
        assert [job.state for job in world.jobs()] == [JobState.RUNNING], "that it knows nothing proves nothing"


@virtually
async def test_a_scheduler_that_answers_with_long_silences_confirms_nothing_by_itself(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        await started(world)
        cluster = world.clusters["local"]
        cluster.faults.forgetful = True
        cluster.fail_node("1")
        for _ in range(5):
            cluster.faults.unreachable = False
            listings = cluster.listings
            await world.until(lambda listings=listings: cluster.listings > listings, within_s=120)
            await world.advance(2)
            assert world.jobs()[0].absent_since is not None
            cluster.faults.unreachable = True
            await world.advance(200)
            assert not world.jobs(JobState.ENDED)
        cluster.faults.unreachable = False
        await world.until(lambda: bool(world.jobs(JobState.ENDED)), within_s=200)


@virtually
async def test_a_last_report_is_the_second_source_for_an_end_that_the_scheduler_forgot(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        await started(world)
        cluster = world.clusters["local"]
        cluster.faults.forgetful = True
        cluster.jobs["1"].cancelled.set()
        assert await world.until(lambda: bool(world.jobs(JobState.ENDED))) < 40
        assert world.jobs(JobState.ENDED)[0].reason is Reason.CANCELLED
        await world.until(lambda: bool(world.routes()))
        assert not world.model().held


@virtually
async def test_a_job_of_ours_that_nobody_knows_is_cancelled_and_another_installations_is_not(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        await started(world)
        cluster = world.clusters["local"]
        ours = cluster.add(f"first-{world.installation}-j-zzzzzzzzzzzz", script="/x/start.sh")
        other = cluster.add("first-00000000-j-zzzzzzzzzzzz", script="/y/start.sh")
        stranger = cluster.add("somebody-elses", script="/z/start.sh")
        for job in (ours, other, stranger):
            job.script = '{"lasts_s": 100000}'
        await world.until(lambda: ours.state == "ENDED")
        assert ours.why == "CANCELLED"
        await world.advance(200)
        assert (other.state, stranger.state) == ("RUNNING", "RUNNING")
        assert len(world.routes()) == 1


@virtually
async def test_two_clusters_that_are_parts_of_one_scheduler_leave_each_others_jobs_alone(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.clusters["b"] = world.cluster("a")
        places = [make_cluster("a"), make_cluster("b")]
        first = make_deployment("one", cluster="a", scaling=Scaling(min=1))
        world.apply(first, make_deployment("two", cluster="b", model="other", scaling=Scaling(min=1)), clusters=places)
        await world.start()
        await world.until(lambda: len(world.routes()) == 2)
        await world.advance(300)
        assert world.clusters["a"].submissions == 2
        assert len(world.routes()) == 2


@virtually
async def test_a_second_job_of_the_same_tag_is_cancelled_and_never_serves(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        await started(world)
        cluster = world.clusters["local"]
        first = cluster.jobs["1"]
        second = cluster.add(first.tag, script=f"{first.run_dir}/start.sh")
        await world.until(lambda: second.state == "ENDED")
        await world.advance(60)
        assert (first.state, len(world.routes()), cluster.submissions) == ("RUNNING", 1, 2)


@virtually
async def test_a_cancellation_that_the_scheduler_refuses_is_asked_again_and_keeps_nothing_else_waiting(
    tmp_path: Path,
) -> None:
    async with simulated_world(tmp_path) as world:
        world.cluster().faults.cancel_refused = True
        await started(world)
        world.apply(ONE, make_deployment("more", model="more", scaling=Scaling(min=1)))
        world.override("drain", "demo")
        await world.until(lambda: any(route.model == "more" for route in world.routes()))
        world.clusters["local"].faults.cancel_refused = False
        await world.until(lambda: len(world.clusters["local"].live_jobs()) == 1)


@virtually
async def test_a_cancellation_while_the_cluster_is_out_of_reach_is_done_when_it_is_back(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        world.cluster().queue_wait_s = 10_000.0
        world.apply(ONE)
        await world.start()
        await world.until(lambda: bool(world.jobs(JobState.QUEUED)))
        world.clusters["local"].faults.unreachable = True
        world.override("stop", "local")
        await world.advance(300)
        assert world.clusters["local"].live_jobs()
        world.clusters["local"].faults.unreachable = False
        await world.until(lambda: not world.clusters["local"].live_jobs(), within_s=200)


@virtually
async def test_a_cluster_that_cannot_be_reached_is_said_once_and_that_it_is_back_too(tmp_path: Path) -> None:
    async with simulated_world(tmp_path) as world:
        await started(world)
        world.clusters["local"].faults.unreachable = True
        await world.advance(120)
        assert [facts["cluster"] for facts in world.events("cluster_trouble")] == ["local"]
        assert not world.events("cluster_well")
        world.clusters["local"].faults = Faults()
        await world.advance(120)
        assert len(world.events("cluster_well")) == 1
