# SPDX-License-Identifier: Apache-2.0
"""What a dialect needs on a cluster is there before the first look, and is put again where it is gone."""

import anyio
import anyio.lowlevel

from firstkit.ports.scheduler import Observation
from firstkit.services.cadence import Pace
from firstkit.services.job_watcher import ClusterWorker, Happening, Observed
from firstkit.testing.simulated_cluster import SimulatedCluster
from firstkit.testing.simulated_scheduler import SimulatedScheduler
from firstkit.testing.virtual_time import VirtualClock, virtually

CLOCK = VirtualClock()
PROGRAM = "/run/local/list.py"


class NeedsItsProgram(SimulatedScheduler):
    """A dialect with a program of its own; a listing without it comes to nothing."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        super().__init__(installation="aaaaaaaa")
        self._cluster = cluster

    def files(self) -> dict[str, bytes]:
        """Name the program."""
        return {"list.py": b"the program"}

    def parse(self, results: object) -> Observation:
        """Read the listing, as far as the program could have made it."""
        there = PROGRAM in self._cluster.files
        return Observation(complete=there, detail="" if there else f"can't open file {PROGRAM!r}")


def worker_of(cluster: SimulatedCluster, seen: list[Happening]) -> ClusterWorker:
    worker = ClusterWorker(
        cluster="local",
        run_dir="/run/local",
        scheduler=NeedsItsProgram(cluster),
        runner=cluster,
        clock=CLOCK,
        deliver=seen.append,
    )
    worker.configure(pace=lambda: Pace(look_s=30.0), wanted_files=lambda _: [], missing=lambda _: {})
    return worker


@virtually
async def test_the_first_look_finds_what_its_dialect_needs_and_a_look_puts_again_what_was_removed() -> None:
    cluster = SimulatedCluster(now=CLOCK.monotonic_s)
    seen: list[Happening] = []
    worker = worker_of(cluster, seen)
    async with anyio.create_task_group() as group:
        group.start_soon(cluster.live)
        await anyio.lowlevel.checkpoint()
        group.start_soon(worker.run)
        await anyio.sleep(10.0)
        assert [one.observation.complete for one in seen if isinstance(one, Observed)] == [True]
        assert worker.trouble == ""
        del cluster.files[PROGRAM]
        await anyio.sleep(30.0)
        assert "can't open" in worker.trouble
        await anyio.sleep(30.0)
        assert worker.trouble == ""
        group.cancel_scope.cancel()


@virtually
async def test_a_cluster_that_takes_no_file_is_looked_at_all_the_same() -> None:
    cluster = SimulatedCluster(now=CLOCK.monotonic_s)
    cluster.files[PROGRAM] = b"the program"
    cluster.faults.disk_full = True
    seen: list[Happening] = []
    worker = worker_of(cluster, seen)
    async with anyio.create_task_group() as group:
        group.start_soon(cluster.live)
        await anyio.lowlevel.checkpoint()
        group.start_soon(worker.run)
        await anyio.sleep(10.0)
        group.cancel_scope.cancel()
    assert [one.observation.complete for one in seen if isinstance(one, Observed)] == [True]
