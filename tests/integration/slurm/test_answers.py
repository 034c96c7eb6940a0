# SPDX-License-Identifier: Apache-2.0
"""The dialect against the real Slurm beyond the contract of all schedulers: what it forgets, refuses and reserves."""

from pathlib import Path
from signal import SIGCONT, SIGSTOP

import anyio
import pytest

from firstkit.core.catalog import Resources
from firstkit.core.reasons import Reason
from firstkit.ports.runner import Done, RemoteFile
from firstkit.ports.scheduler import JobPhase, Observation, Rejected, Submission, Unsure, Window
from firstkit.testing.rigs import DEADLINE_S, Rig, slurm_rig
from firstkit.testing.slurm import RealSlurm

pytestmark = [pytest.mark.anyio, pytest.mark.slurm, pytest.mark.timeout(120)]


async def refused(rig: Rig, resources: Resources) -> Rejected:
    """Submit what must be refused."""
    script = RemoteFile(path=f"{rig.run_dir}/j-1/start.sh", data=b"", mode=0o700)
    submission = Submission(tag="first-x", run_dir=f"{rig.run_dir}/j-1", script=script.path, resources=resources)
    text = rig.scheduler.script(submission, setup="", launcher="/none")
    put = RemoteFile(path=script.path, data=text.encode(), mode=0o700)
    assert isinstance(await rig.runner.put([put], deadline_s=DEADLINE_S), Done)
    (result,) = await rig.runner.run([rig.scheduler.submit(submission)], deadline_s=DEADLINE_S)
    answer = rig.scheduler.parse_submit(result)
    assert isinstance(answer, Rejected), answer
    return answer


async def test_what_cannot_be_had_is_refused_in_slurms_words(slurm: RealSlurm, tmp_path: Path) -> None:
    asked = {
        "Invalid partition name specified": Resources(walltime_s=60.0, options={"partition": "nosuch"}),
        "Requested time limit is invalid": Resources(walltime_s=360000.0),
        "Requested reservation is invalid": Resources(walltime_s=60.0, options={"reservation": "nosuch"}),
        "Invalid feature specification": Resources(walltime_s=60.0, options={"constraint": "nosuch"}),
        "More processors requested than permitted": Resources(walltime_s=60.0, nodes=99),
        "Requested node configuration is not available": Resources(walltime_s=60.0, gpus=99),
        "Memory specification can not be satisfied": Resources(walltime_s=60.0, memory_bytes=10**15),
        "Invalid generic resource (gres) specification": Resources(walltime_s=60.0, options={"extra": ["--gres=no:1"]}),
    }
    async with slurm_rig(tmp_path, slurm) as rig:
        for words, resources in asked.items():
            answer = await refused(rig, resources)
            assert words in answer.detail
            assert answer.reason is Reason.SUBMIT_REJECTED


async def test_how_a_job_ended_is_recalled_from_another_source_than_the_listing(
    slurm: RealSlurm, tmp_path: Path
) -> None:
    async with slurm_rig(tmp_path, slurm) as rig:
        number = await rig.accepted("j-000000000001", lasts_s=0.05, code=3)
        await rig.seen(number, JobPhase.ENDED)
        commands = rig.scheduler.recall({"j-000000000001": number, "j-000000000002": ""})
        (job,) = rig.scheduler.parse_recalled(await rig.runner.run(commands, deadline_s=DEADLINE_S))
        assert (job.scheduler_id, job.phase, job.detail) == (number, JobPhase.ENDED, "exit code 3")


async def test_a_hung_controller_is_neither_an_empty_queue_nor_a_refusal(
    fragile_slurm: RealSlurm, tmp_path: Path
) -> None:
    async with slurm_rig(tmp_path, fragile_slurm) as rig:
        number = await rig.accepted("j-000000000001", walltime_s=600.0)
        told: list[object] = []
        seen: list[Observation] = []

        async def submit() -> None:
            told.append(await rig.submit("j-000000000002", walltime_s=600.0))

        async def observe() -> None:
            seen.append(await rig.observe())

        fragile_slurm.signal_controller(SIGSTOP)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(submit)
                group.start_soon(observe)
        finally:
            fragile_slurm.signal_controller(SIGCONT)
        (observation,) = seen
        assert (observation.complete, observation.jobs) == (False, ())
        assert "timed out" in observation.detail
        assert isinstance(told[0], Unsure), told
        with anyio.fail_after(60):
            while True:
                found = {job.tag[-14:]: job.scheduler_id for job in (await rig.observe()).jobs}
                if len(found) > 1:
                    break
                await anyio.sleep(0.1)
        assert found.keys() == {"j-000000000001", "j-000000000002"}, "it ran when it came back"
        assert found["j-000000000001"] == number


async def test_reservations_and_nodes_are_seen(slurm: RealSlurm, tmp_path: Path) -> None:
    create = ["scontrol", "create", "reservation", "Users=root"]
    async with slurm_rig(tmp_path, slurm) as rig:
        number = await rig.accepted("j-000000000001", walltime_s=120.0)
        running = await rig.seen(number, JobPhase.RUNNING)
        assert running.nodes <= set(slurm.nodes)
        assert len(running.nodes) == 1
        flags = [
            "ReservationName=maint1",
            "StartTime=now+20hours",
            "Duration=60",
            "Nodes=ALL",
            "Flags=maint,ignore_jobs",
        ]
        made = slurm.run(*create, *flags)
        assert made.returncode == 0, made.stderr
        try:
            windows = rig.scheduler.parse_windows(await rig.runner.run(rig.scheduler.windows(), deadline_s=DEADLINE_S))
        finally:
            slurm.run("scontrol", "delete", "ReservationName=maint1")
        assert windows is not None
        (window,) = windows
        assert window == Window(
            name="maint1",
            starts_in_s=window.starts_in_s,
            ends_in_s=window.starts_in_s + 3600.0,
            nodes=None,
            jobs=False,
        )
        assert 0 < window.starts_in_s <= 20 * 3600
        assert rig.scheduler.parse_windows(await rig.runner.run(rig.scheduler.windows(), deadline_s=DEADLINE_S)) == ()
