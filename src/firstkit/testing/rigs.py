# SPDX-License-Identifier: Apache-2.0
"""A scheduler with its runner, ready to be tried: the local one with real processes here or over ssh, or simulated."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import anyio

from firstkit.adapters.runners.local import LocalRunner
from firstkit.adapters.runners.ssh import SshRunner
from firstkit.adapters.runners.ssh_master import SshMasters
from firstkit.adapters.runners.ssh_place import socket_folder
from firstkit.adapters.schedulers.local import LocalScheduler
from firstkit.adapters.schedulers.pbs import PbsScheduler
from firstkit.adapters.schedulers.slurm import SlurmScheduler
from firstkit.core.catalog import Resources, SchedulerSpec
from firstkit.core.ids import encode
from firstkit.ports.runner import Done, RemoteFile, Runner
from firstkit.ports.scheduler import Accepted, JobPhase, Observation, Rejected, Scheduler, SeenJob, Submission, Unsure
from firstkit.testing.records import make_cluster
from firstkit.testing.simulated_cluster import SimulatedCluster
from firstkit.testing.simulated_pbs.site import simulated_pbs
from firstkit.testing.simulated_scheduler import SimulatedScheduler
from firstkit.testing.slurm import RealSlurm
from firstkit.testing.sshd import Sshd

INSTALLATION = "abcdefgh"
DEADLINE_S = 30.0


@dataclass(slots=True)
class Rig:
    """One scheduler, one runner, a folder. `make_script` renders a job that lasts so long and ends with that code.

    `walltime_s` is a walltime that a test can wait for; None where the shortest one is too long. `unlimited`: a job
    without walltime has no end. `refusal`: an answer to a submission that says no for good.
    """

    scheduler: Scheduler
    runner: Runner
    run_dir: str
    make_script: Callable[[float, int], str]
    walltime_s: float | None = 0.6
    unlimited: bool = True
    refusal: str = "error: something"
    installation: str = INSTALLATION
    numbers: dict[str, str] = field(default_factory=dict[str, str])

    async def submit(
        self,
        job: str,
        *,
        lasts_s: float = 60.0,
        code: int = 0,
        walltime_s: float | None = None,
        installation: str | None = None,
    ) -> Accepted | Rejected | Unsure:
        """Put a job's script and submit it."""
        folder = f"{self.run_dir}/{job}"
        script = RemoteFile(path=f"{folder}/start.sh", data=self.make_script(lasts_s, code).encode(), mode=0o700)
        assert isinstance(await self.runner.put([script], deadline_s=DEADLINE_S), Done)
        submission = Submission(
            tag=f"first-{installation or self.installation}-{job}",
            run_dir=folder,
            script=script.path,
            resources=Resources(walltime_s=walltime_s),
        )
        (result,) = await self.runner.run([self.scheduler.submit(submission)], deadline_s=DEADLINE_S)
        return self.scheduler.parse_submit(result)

    async def accepted(self, job: str, **manner: float) -> str:
        """Submit a job that must be accepted; return its number."""
        answer = await self.submit(job, **manner)  # pyright: ignore[reportArgumentType]
        assert isinstance(answer, Accepted), answer
        self.numbers[job] = answer.scheduler_id
        return answer.scheduler_id

    async def observe(self) -> Observation:
        """Make the listing, and ask the second source about jobs that it lacks."""
        seen = self.scheduler.parse(await self.runner.run(self.scheduler.observe(), deadline_s=DEADLINE_S))
        listed = {job.scheduler_id for job in seen.jobs}
        missing = {job: number for job, number in self.numbers.items() if number not in listed}
        commands = self.scheduler.recall(missing) if seen.complete and missing else []
        told = self.scheduler.parse_recalled(await self.runner.run(commands, deadline_s=DEADLINE_S))
        return replace(seen, jobs=(*seen.jobs, *told))

    async def cancel(self, *numbers: str) -> None:
        """Cancel jobs; must succeed."""
        results = await self.runner.run(self.scheduler.cancel(numbers), deadline_s=DEADLINE_S)
        assert not self.scheduler.parse_cancel(results), results

    async def seen(self, number: str, *phases: JobPhase, within_s: float = 20.0) -> SeenJob:
        """Look until a job is in one of these phases."""
        with anyio.fail_after(within_s):
            while True:
                observation = await self.observe()
                found = [job for job in observation.jobs if job.scheduler_id == number and job.phase in phases]
                if found:
                    return found[0]
                await anyio.sleep(0.02)

    async def clear(self) -> None:
        """Cancel whatever still lives, and wait for its end."""
        while True:
            alive = [job.scheduler_id for job in (await self.observe()).jobs if job.phase is not JobPhase.ENDED]
            if not alive:
                return
            await self.cancel(*alive)
            for number in alive:
                await self.seen(number, JobPhase.ENDED)


@asynccontextmanager
async def local_rig(folder: Path) -> AsyncGenerator[Rig]:
    """Make the real local scheduler and runner in a folder."""
    async with _local_jobs(folder, LocalRunner(os.environ)) as rig:
        yield rig


@asynccontextmanager
async def ssh_rig(folder: Path) -> AsyncGenerator[Rig]:
    """Make the real local scheduler behind a real sshd."""
    sshd = Sshd(folder / "sshd")
    masters = SshMasters(folder=lambda: socket_folder(folder), environment=os.environ, keeper=True)
    sshd.start()
    try:
        async with _local_jobs(folder / "jobs", SshRunner(masters.at(sshd.place(python=sys.executable)))) as rig:
            yield rig
    finally:
        await masters.close()
        sshd.stop()


@asynccontextmanager
async def _local_jobs(folder: Path, runner: Runner) -> AsyncGenerator[Rig]:
    """Run jobs of the local scheduler through a runner."""
    scheduler = LocalScheduler(make_cluster(run_dir=str(folder)), installation=INSTALLATION, python=sys.executable)
    program = [RemoteFile(path=f"{folder}/{name}", data=data) for name, data in scheduler.files().items()]
    assert isinstance(await runner.put(program, deadline_s=DEADLINE_S), Done)

    def script(lasts_s: float, code: int) -> str:
        return f"trap 'exit 143' TERM\nsleep {lasts_s} & wait $!\nexit {code}\n"

    rig = Rig(scheduler=scheduler, runner=runner, run_dir=str(folder), make_script=script)
    try:
        yield rig
    finally:
        with anyio.CancelScope(shield=True):
            await rig.clear()


@asynccontextmanager
async def slurm_rig(folder: Path, cluster: RealSlurm) -> AsyncGenerator[Rig]:
    """Make a real Slurm's dialect, with commands run on this machine."""
    options = {"partition": "gpu", "conf": str(cluster.conf)}
    installation = encode(sha256(str(folder).encode()).digest(), 8)  # others' jobs stay in its listings for a while
    scheduler = SlurmScheduler(
        make_cluster(run_dir=str(folder), scheduler=SchedulerSpec(kind="slurm", options=options)),
        installation=installation,
    )

    def script(lasts_s: float, code: int) -> str:
        return f"#!/bin/bash\ntrap 'exit 143' TERM\nsleep {lasts_s} & wait $!\nexit {code}\n"

    rig = Rig(
        scheduler=scheduler,
        runner=LocalRunner(os.environ),
        run_dir=str(folder),
        make_script=script,
        walltime_s=None,
        unlimited=False,
        refusal="sbatch: error: Batch job submission failed: Invalid qos specification",
        installation=installation,
    )
    try:
        yield rig
    finally:
        with anyio.CancelScope(shield=True):
            await rig.clear()


@asynccontextmanager
async def pbs_rig(folder: Path) -> AsyncGenerator[Rig]:
    """Make the `pbs` dialect over a simulated site, whose jobs are real processes."""
    with simulated_pbs(kill_delay_s=0.5) as site:

        def script(lasts_s: float, code: int) -> str:
            return f"#!/bin/bash\ntrap 'exit 143' TERM\nsleep {lasts_s} & wait $!\nexit {code}\n"

        yield Rig(
            scheduler=PbsScheduler(make_cluster(run_dir=str(folder)), installation=INSTALLATION),
            runner=LocalRunner({**os.environ, "PATH": site.path}),
            run_dir=str(folder),
            make_script=script,
            walltime_s=1.0,
        )


@asynccontextmanager
async def simulated_rig(_folder: Path) -> AsyncGenerator[Rig]:
    """Make the simulated ones, on real time."""
    cluster = SimulatedCluster(now=anyio.current_time, queue_wait_s=0.05, round_trip_s=0.001, kill_wait_s=0.1)

    def script(lasts_s: float, code: int) -> str:
        return json.dumps({"lasts_s": lasts_s, "code": code})

    async with anyio.create_task_group() as group:
        group.start_soon(cluster.live)
        yield Rig(
            scheduler=SimulatedScheduler(installation=INSTALLATION),
            runner=cluster,
            run_dir="/simulated",
            make_script=script,
        )
        group.cancel_scope.cancel()
