# SPDX-License-Identifier: Apache-2.0
"""What jobs ask of Slurm, and what firstkit sets itself."""

from dataclasses import replace

import pytest

from firstkit.adapters.schedulers.slurm import SlurmScheduler, clock, options_of
from firstkit.core.ask import Ask, GpuRequest
from firstkit.core.catalog import Resources, SchedulerSpec
from firstkit.ports.scheduler import Submission
from firstkit.testing.records import make_cluster


def scheduler(**options: object) -> SlurmScheduler:
    cluster = make_cluster(scheduler=SchedulerSpec(kind="slurm", options=options))
    return SlurmScheduler(cluster, installation="abcdefgh")


SUBMISSION = Submission(
    tag="first-abcdefgh-j-000000000001",
    run_dir="/scratch/first/j-000000000001",
    script="/scratch/first/j-000000000001/start.sh",
    resources=Resources(gpus=4, walltime_s=7200.0),
)


def test_every_word_of_an_ask_becomes_one_option() -> None:
    ask = Ask(
        nodes=2,
        gpus=4,
        cpus=16,
        memory_bytes=64 * 10**9,
        walltime_s=43200.0,
        partition="gpu",
        account="mine",
        qos="high",
        reservation="now",
        constraint="gpu80&ib",
        gpu_type="a100",
        exclusive=True,
        extra=("--licenses=matlab", "-l x=y"),
    )
    assert options_of(ask) == [
        "--nodes=2",
        "--ntasks-per-node=1",
        "--partition=gpu",
        "--account=mine",
        "--qos=high",
        "--reservation=now",
        "--constraint=gpu80&ib",
        "--cpus-per-task=16",
        "--mem=61036M",
        "--gres=gpu:a100:4",
        "--exclusive",
        "--time=0-12:00:00",
        "--signal=B:TERM@30",
        "--licenses=matlab",
        "-l x=y",
    ]


def test_what_is_not_asked_is_left_to_the_site() -> None:
    assert options_of(Ask()) == ["--nodes=1", "--ntasks-per-node=1"]


@pytest.mark.parametrize(
    ("request_", "option"),
    [
        (None, "--gres=gpu:2"),
        (GpuRequest.GRES, "--gres=gpu:2"),
        (GpuRequest.GPUS_PER_NODE, "--gpus-per-node=2"),
        (GpuRequest.NONE, ""),
    ],
)
def test_gpus_are_asked_for_in_the_sites_way(request_: GpuRequest | None, option: str) -> None:
    asked = [one for one in options_of(Ask(gpus=2, gpu_request=request_)) if "gp" in one or "gres" in one]
    assert asked == ([option] if option else [])


def test_a_short_job_is_warned_as_long_before_its_end_as_its_launcher_stops() -> None:
    assert "--signal=B:TERM@15" in options_of(Ask(walltime_s=60.0))


@pytest.mark.parametrize(
    ("seconds", "text"), [(60, "0-00:01:00"), (3661, "0-01:01:01"), (90061, "1-01:01:01"), (8640000, "100-00:00:00")]
)
def test_a_walltime_is_written_with_its_days(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_nothing_of_our_environment_goes_along_and_a_job_is_never_started_twice() -> None:
    argv = scheduler().submit(SUBMISSION).argv
    assert argv == (
        "sbatch",
        "--parsable",
        "--export=NONE",
        "--no-requeue",
        "--job-name=first-abcdefgh-j-000000000001",
        "--chdir=/scratch/first/j-000000000001",
        "--output=slurm.out",
        "--open-mode=append",
        "/scratch/first/j-000000000001/start.sh",
    )


def test_every_command_names_the_configuration_file_where_there_is_one() -> None:
    other = scheduler(conf="/etc/b/slurm.conf")
    commands = [
        other.submit(SUBMISSION),
        *other.observe(),
        *other.cancel(["1"]),
        *other.recall({"j-000000000001": "17"}),
    ]
    assert all(command.argv[:2] == ("env", "SLURM_CONF=/etc/b/slurm.conf") for command in commands)
    assert all(command.argv[0] != "env" for command in scheduler().observe())


def test_the_script_shows_what_is_asked_and_hides_nothing_in_a_comment() -> None:
    text = scheduler(partition="gpu").script(SUBMISSION, setup="module load cuda\n", launcher="/run/launcher-1.pyz")
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash -l"
    asked = [line for line in lines if line.startswith("#SBATCH")]
    assert asked == [f"#SBATCH {option}" for option in options_of(Ask(gpus=4, walltime_s=7200.0, partition="gpu"))]
    assert lines[1 : 1 + len(asked)] == asked, "Slurm reads no further than the first command"
    assert "comment" not in "".join(asked)
    assert lines[-1] == "exec python3 -I -S /run/launcher-1.pyz job.json || exit"


def test_without_setup_lines_no_profile_is_read() -> None:
    assert scheduler().script(SUBMISSION, setup="", launcher="/x").startswith("#!/bin/bash\n")


def test_the_listing_names_no_job() -> None:
    (command,) = scheduler().observe()
    script = command.argv[-1]
    assert "--me" in script
    assert "--states=all" in script
    assert "-j" not in script.split()
    assert "--json" not in script, "a dead controller's is an empty list with exit code 0"


def test_nothing_to_cancel_or_to_recall_is_no_command() -> None:
    assert scheduler().cancel([]) == []
    assert scheduler().recall({}) == []
    assert scheduler().cancel(["17", "18"])[0].argv == ("scancel", "17", "18")


def test_nodes_that_are_left_out_are_excluded() -> None:
    def excluded(submission: Submission) -> list[str]:
        script = scheduler().script(submission, setup="", launcher="/scratch/first/launcher.pyz")
        return [line for line in script.splitlines() if "--exclude" in line]

    assert excluded(SUBMISSION) == []
    assert excluded(replace(SUBMISSION, exclude=("c1", "c7"))) == ["#SBATCH --exclude=c1,c7"]
