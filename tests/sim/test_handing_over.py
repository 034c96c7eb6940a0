# SPDX-License-Identifier: Apache-2.0
"""A cluster's worker that is replaced while it is at something: its successor does what came to nothing."""

import anyio
import anyio.lowlevel

from firstkit.ports.runner import RemoteFile
from firstkit.services.cadence import Pace
from firstkit.services.job_watcher import ClusterWorker
from firstkit.testing.simulated_cluster import SimulatedCluster
from firstkit.testing.simulated_scheduler import SimulatedScheduler
from firstkit.testing.virtual_time import VirtualClock, virtually

CLOCK = VirtualClock()


def worker(cluster: SimulatedCluster) -> ClusterWorker:
    one = ClusterWorker(
        cluster="local",
        run_dir="/run/local",
        scheduler=SimulatedScheduler(installation="aaaaaaaa"),
        runner=cluster,
        clock=CLOCK,
        deliver=lambda _: None,
    )
    one.configure(pace=lambda: Pace(look_s=3600.0), missing=lambda _: {}, wanted_files=lambda _: [])
    return one


@virtually
async def test_a_cancellation_that_fails_after_the_handover_is_done_by_the_last_successor() -> None:
    cluster = SimulatedCluster(now=CLOCK.monotonic_s)
    async with anyio.create_task_group() as group:
        group.start_soon(cluster.live)
        await anyio.lowlevel.checkpoint()
        cluster.files["/run/j/start.sh"] = b'{"lasts_s": 1000}'
        job = cluster.add("first-aaaaaaaa-j-000000000001", script="/run/j/start.sh")
        old, middle, last = worker(cluster), worker(cluster), worker(cluster)
        cluster.faults.unreachable = True
        old.cancel(job.number)
        group.start_soon(old.run)
        await anyio.sleep(1.0)
        middle.succeed(old)
        last.succeed(middle)
        await anyio.sleep(70.0)
        cluster.faults.unreachable = False
        group.start_soon(last.run)
        await anyio.sleep(90.0)
        assert job.cancelled.is_set()
        group.cancel_scope.cancel()


@virtually
async def test_a_file_that_is_not_written_after_the_handover_is_written_by_the_successor_unless_it_has_a_newer() -> (
    None
):
    cluster = SimulatedCluster(now=CLOCK.monotonic_s)
    async with anyio.create_task_group() as group:
        group.start_soon(cluster.live)
        old, new = worker(cluster), worker(cluster)
        cluster.faults.unreachable = True
        old.put(RemoteFile(path="/run/a", data=b"old"))
        old.put(RemoteFile(path="/run/b", data=b"old"))
        group.start_soon(old.run)
        await anyio.sleep(1.0)
        new.succeed(old)
        new.put(RemoteFile(path="/run/b", data=b"new"))
        await anyio.sleep(70.0)
        cluster.faults.unreachable = False
        group.start_soon(new.run)
        await anyio.sleep(90.0)
        assert cluster.files == {"/run/a": b"old", "/run/b": b"new"}
        group.cancel_scope.cancel()
