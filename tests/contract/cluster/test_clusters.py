# SPDX-License-Identifier: Apache-2.0
"""What every scheduler with its runner keeps to: the local one and Slurm, both real, and simulated ones."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import pytest

from firstkit.core.reasons import HEALING, Reason
from firstkit.ports.runner import Done, Refused, RemoteFile, Unknown
from firstkit.ports.scheduler import Accepted, JobPhase, Rejected, Unsure
from firstkit.testing.rigs import DEADLINE_S, Rig, local_rig, pbs_rig, simulated_rig, slurm_rig, ssh_rig
from firstkit.testing.slurm import RealSlurm
from firstkit.testing.sshd import installed

Opened = Callable[[Path], AbstractAsyncContextManager[Rig]]
pytestmark = pytest.mark.anyio


@pytest.fixture(
    scope="session",
    params=["local", "ssh", pytest.param("slurm", marks=pytest.mark.slurm), "simulated", "simulated-pbs"],
)
def rig_of(request: pytest.FixtureRequest) -> Opened:
    if request.param == "slurm":
        cluster: RealSlurm = request.getfixturevalue("slurm")
        return lambda folder: slurm_rig(folder, cluster)
    if request.param == "ssh" and not installed():
        pytest.skip("openssh-server is not installed; run `make debian` as root")
    rigs = {"local": local_rig, "ssh": ssh_rig, "simulated": simulated_rig, "simulated-pbs": pbs_rig}
    return rigs[request.param]


async def test_a_job_is_listed_by_its_tag_and_number_until_it_has_ended(rig_of: Opened, tmp_path: Path) -> None:
    async with rig_of(tmp_path) as rig:
        number = await rig.accepted("j-000000000001", lasts_s=0.3)
        seen = await rig.seen(number, JobPhase.WAITING, JobPhase.RUNNING, JobPhase.ENDED)
        assert seen.tag == f"first-{rig.installation}-j-000000000001"
        ended = await rig.seen(number, JobPhase.ENDED)
        assert (ended.reason, ended.detail) == (None, "exit code 0")


async def test_the_exit_code_of_a_job_that_fails_is_told(rig_of: Opened, tmp_path: Path) -> None:
    async with rig_of(tmp_path) as rig:
        number = await rig.accepted("j-000000000001", lasts_s=0.05, code=3)
        assert (await rig.seen(number, JobPhase.ENDED)).detail == "exit code 3"


async def test_a_cancelled_job_ends_for_that_reason(rig_of: Opened, tmp_path: Path) -> None:
    async with rig_of(tmp_path) as rig:
        number = await rig.accepted("j-000000000001")
        await rig.seen(number, JobPhase.RUNNING)
        await rig.cancel(number)
        assert (await rig.seen(number, JobPhase.ENDED)).reason is Reason.CANCELLED


async def test_cancelling_what_has_ended_or_never_was_is_no_error(rig_of: Opened, tmp_path: Path) -> None:
    async with rig_of(tmp_path) as rig:
        number = await rig.accepted("j-000000000001", lasts_s=0.05)
        await rig.seen(number, JobPhase.ENDED)
        await rig.cancel(number, "4711")
        assert rig.scheduler.cancel([]) == []


async def test_a_job_past_its_walltime_ends_for_that_reason(rig_of: Opened, tmp_path: Path) -> None:
    async with rig_of(tmp_path) as rig:
        if rig.walltime_s is None:
            pytest.skip("allowed: the shortest walltime of this scheduler is too long for a test")
        long = await rig.accepted("j-000000000001", walltime_s=300.0)
        running = await rig.seen(long, JobPhase.RUNNING)
        assert running.time_left_s is not None
        assert running.time_left_s <= 300.0
        short = await rig.accepted("j-000000000002", walltime_s=rig.walltime_s)
        assert (await rig.seen(short, JobPhase.ENDED)).reason is Reason.WALLTIME


async def test_a_job_without_walltime_has_no_time_left_to_tell(rig_of: Opened, tmp_path: Path) -> None:
    async with rig_of(tmp_path) as rig:
        if not rig.unlimited:
            pytest.skip("allowed: every job of this scheduler has a walltime, if need be its partition's")
        number = await rig.accepted("j-000000000001")
        assert (await rig.seen(number, JobPhase.RUNNING)).time_left_s is None


async def test_jobs_of_another_installation_are_not_seen(rig_of: Opened, tmp_path: Path) -> None:
    async with rig_of(tmp_path) as rig:
        await rig.submit("j-000000000001", lasts_s=0.2, installation="zzzzzzzz")
        observation = await rig.observe()
        assert (observation.complete, observation.jobs) == (True, ())


async def test_submissions_at_once_get_numbers_of_their_own(rig_of: Opened, tmp_path: Path) -> None:
    async with rig_of(tmp_path) as rig:
        numbers: list[str] = []

        async def submit(index: int) -> None:
            numbers.append(await rig.accepted(f"j-{index:012}", lasts_s=0.1))

        async with anyio.create_task_group() as group:
            for index in range(8):
                group.start_soon(submit, index)
        assert len(set(numbers)) == 8
        observation = await rig.observe()
        assert {job.scheduler_id for job in observation.jobs} == set(numbers)


async def test_a_listing_cut_off_anywhere_proves_no_absence(rig_of: Opened, tmp_path: Path) -> None:
    async with rig_of(tmp_path) as rig:
        for index in range(3):
            await rig.accepted(f"j-{index:012}")
        *before, whole = await rig.runner.run(rig.scheduler.observe(), deadline_s=DEADLINE_S)
        assert isinstance(whole, Done)
        assert rig.scheduler.parse([*before, whole]).complete
        told = whole.out.rstrip()
        for cut in range(len(told)):
            observation = rig.scheduler.parse([*before, Done(code=0, out=told[:cut], err=b"")])
            assert not observation.complete, told[:cut]
            assert all(job.tag.startswith(f"first-{rig.installation}-j-") for job in observation.jobs)


async def test_a_cancellation_that_failed_is_told_in_the_schedulers_own_words(rig_of: Opened, tmp_path: Path) -> None:
    async with rig_of(tmp_path) as rig:
        said = rig.scheduler.parse_cancel
        assert said([]) == ""
        assert said([Done(code=0, out=b"", err=b"")]) == ""
        assert said([Unknown(detail="timed out")]) == "timed out"
        assert said([Done(code=1, out=b"", err=b"no permission\n")]) == "no permission"
        assert said([Done(code=1, out=b"", err=b"")])


async def test_no_answer_is_no_observation(rig_of: Opened, tmp_path: Path) -> None:
    async with rig_of(tmp_path) as rig:
        for result in (Unknown(detail="timed out"), Refused(detail="no route")):
            observation = rig.scheduler.parse([result])
            assert (observation.complete, observation.jobs, observation.detail) == (False, (), result.detail)


async def test_an_answer_to_a_submission_is_believed_only_when_it_is_one(rig_of: Opened, tmp_path: Path) -> None:
    async with rig_of(tmp_path) as rig:
        parse = rig.scheduler.parse_submit
        assert isinstance(parse(Unknown(detail="timed out")), Unsure)
        refused = parse(Refused(detail="no route"))
        assert isinstance(refused, Rejected)
        assert refused.reason in HEALING, "what surely did not run may be tried again"
        failed = parse(Done(code=1, out=b"", err=f"{rig.refusal}\n".encode()))
        assert isinstance(failed, Rejected)
        assert failed.detail.strip()
        assert failed.detail.strip() in rig.refusal, "the scheduler's own words are kept"
        assert isinstance(parse(Done(code=0, out=b"12", err=b"")), Accepted)


async def test_files_are_written_whole_and_read_back_without_those_that_are_missing(
    rig_of: Opened, tmp_path: Path
) -> None:
    async with rig_of(tmp_path) as rig:
        one = f"{rig.run_dir}/deep/er/one"
        files = [RemoteFile(path=one, data=b"0123456789"), RemoteFile(path=f"{rig.run_dir}/two", data=b"")]
        for _ in range(2):
            assert isinstance(await rig.runner.put(files, deadline_s=DEADLINE_S), Done)
        found = await rig.runner.read_many([one, files[1].path, f"{rig.run_dir}/none"], deadline_s=DEADLINE_S)
        assert found == {one: b"0123456789", files[1].path: b""}
        assert await rig.runner.read_many([one], deadline_s=DEADLINE_S, limit=4) == {one: b"6789"}
        await rig.runner.put([RemoteFile(path=one, data=b"new")], deadline_s=DEADLINE_S)
        assert await rig.runner.read_many([one], deadline_s=DEADLINE_S) == {one: b"new"}


async def test_a_removed_folder_is_gone_with_all_in_it_and_an_absent_one_is_no_error(
    rig_of: Opened, tmp_path: Path
) -> None:
    async with rig_of(tmp_path) as rig:
        kept, gone = f"{rig.run_dir}/j-1/job.json", f"{rig.run_dir}/j-2/i-1/engine.log"
        files = [RemoteFile(path=path, data=b"x") for path in (kept, gone)]
        await rig.runner.put(files, deadline_s=DEADLINE_S)
        for _ in range(2):
            assert isinstance(await rig.runner.remove([f"{rig.run_dir}/j-2"], deadline_s=DEADLINE_S), Done)
        assert await rig.runner.read_many([kept, gone], deadline_s=DEADLINE_S) == {kept: b"x"}
