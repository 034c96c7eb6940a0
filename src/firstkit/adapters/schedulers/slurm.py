# SPDX-License-Identifier: Apache-2.0
"""The `slurm` dialect: what jobs ask for as #SBATCH lines, what firstkit itself sets on the command line.

What a deployment asks is the same for all its jobs and stands in start.sh, where an operator reads it. What must hold
whatever a site or an `extra` option says, and what differs from job to job, is given on the command line, which wins.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from firstkit.adapters.schedulers import slurm_answers
from firstkit.adapters.schedulers.objections import objection
from firstkit.adapters.schedulers.script import start_script
from firstkit.core.ask import Ask, GpuRequest, ask_of
from firstkit.core.catalog import Cluster
from firstkit.core.scaling.walltime import margin_s
from firstkit.ports.rehearsal import Rehearsed
from firstkit.ports.runner import Command, Result
from firstkit.ports.scheduler import Accepted, Observation, Rejected, SeenJob, Submission, Unsure, Window

OUTPUT = "slurm.out"
"""In the job's folder: what Slurm itself says about the job; start.sh and the launcher write to job.out."""
_LISTING = (
    "SLURM_TIME_FORMAT=%s squeue --me --all --noheader --states=all "
    f"--Format={shlex.quote(','.join(slurm_answers.FIELDS))} && date '+{slurm_answers.END} %s'"
)
"""One listing of every job of ours, ended ones included; its last line tells that it is whole, and what time it was."""
_RESERVATIONS = f"SLURM_TIME_FORMAT=%s scontrol show reservation --oneliner && date '+{slurm_answers.END} %s'"
_ACCOUNTING = (
    "sacct --allocations --noheader --parsable2 --starttime=now-30days --name={names} --format={fields} "
    "|| sacct --completion --noheader --parsable2 --starttime=now-30days --format={fields}"
)
"""What accounting remembers; without a database, the file of completed jobs."""


class SlurmScheduler:
    """Build Slurm's commands and read their answers (22.05 and later)."""

    def __init__(self, cluster: Cluster, *, installation: str) -> None:
        self._cluster = cluster
        options = cluster.scheduler.options
        self._python = str(options.get("python") or "python3")
        conf = options.get("conf")
        self._prefix = ("env", f"SLURM_CONF={conf}") if conf else ()
        self._tags = f"first-{installation}-"

    def files(self) -> dict[str, bytes]:
        """Name no files of its own."""
        return {}

    def script(self, submission: Submission, *, setup: str, launcher: str) -> str:
        """Render start.sh; a login shell only where there are setup lines, since profiles take their time."""
        ask = ask_of(self._cluster, submission.resources)
        return start_script(
            submission,
            setup=setup,
            launcher=launcher,
            python=self._python,
            login=bool(setup.strip()),
            directives=[f"#SBATCH {option}" for option in (*options_of(ask), *_left_out(submission))],
        )

    def submit(self, submission: Submission) -> Command:
        """Submit with nothing of our environment, never to be started twice, under the tag as its name."""
        return self._command("sbatch", "--parsable", *_own_options(submission), submission.script)

    def parse_submit(self, result: Result) -> Accepted | Rejected | Unsure:
        """Read the job's number or the refusal."""
        return slurm_answers.read_submission(result)

    def version(self) -> Command:
        """Ask sbatch."""
        return self._command("sbatch", "--version")

    def rehearse(self, submission: Submission, *, script: bytes) -> list[Command]:
        """Ask what would become of it; the script is read from standard input. And what time it is there."""
        dry = self._command("env", "SLURM_TIME_FORMAT=%s", "sbatch", "--test-only", *_own_options(submission))
        return [Command(argv=dry.argv, stdin=script), Command(argv=("date", "+%s"))]

    def read_rehearsal(self, results: Sequence[Result]) -> Rehearsed:
        """Read the expected start or the refusal."""
        return slurm_answers.read_rehearsal(results)

    def observe(self) -> list[Command]:
        """List all our jobs; ended ones stay for the site's MinJobAge (300 s by default)."""
        return [self._command("sh", "-c", _LISTING)]

    def parse(self, results: Sequence[Result]) -> Observation:
        """Read the listing."""
        return slurm_answers.read_listing(results[0], tags=self._tags)

    def recall(self, jobs: Mapping[str, str]) -> list[Command]:
        """Ask the accounting, or the file of completed jobs."""
        names = ",".join(f"{self._tags}{job}" for job in jobs)
        script = _ACCOUNTING.format(names=names, fields=",".join(slurm_answers.ACCOUNTED))
        return [self._command("sh", "-c", script)] if jobs else []

    def parse_recalled(self, results: Sequence[Result]) -> tuple[SeenJob, ...]:
        """Read ends, and nothing else: accounting lags behind."""
        return slurm_answers.read_accounting(results[0], tags=self._tags) if results else ()

    def windows(self) -> list[Command]:
        """List the reservations."""
        return [self._command("sh", "-c", _RESERVATIONS)]

    def parse_windows(self, results: Sequence[Result]) -> tuple[Window, ...] | None:
        """Read them."""
        return slurm_answers.read_windows(results[0]) if results else None

    def cancel(self, scheduler_ids: Sequence[str]) -> list[Command]:
        """Cancel in one command: CONT and TERM to every process, KILL after the site's KillWait."""
        return [self._command("scancel", *scheduler_ids)] if scheduler_ids else []

    def parse_cancel(self, results: Sequence[Result]) -> str:
        """Read why it failed, if it did."""
        return objection(results)

    def _command(self, *argv: str) -> Command:
        return Command(argv=(*self._prefix, *argv))


def _own_options(submission: Submission) -> tuple[str, ...]:
    """List what firstkit itself sets for every job."""
    return (
        "--export=NONE",
        "--no-requeue",
        f"--job-name={submission.tag}",
        f"--chdir={submission.run_dir}",
        f"--output={OUTPUT}",
        "--open-mode=append",
    )


def _left_out(submission: Submission) -> list[str]:
    """Say which nodes the job is kept off."""
    return [f"--exclude={','.join(submission.exclude)}"] if submission.exclude else []


def options_of(ask: Ask) -> list[str]:
    """Write what a job asks as sbatch's options, the site's own last; one task a node, which is the launcher."""
    options = [f"--nodes={ask.nodes}", "--ntasks-per-node=1"]
    for name in ("partition", "account", "qos", "reservation", "constraint"):
        word = getattr(ask, name)
        if word:
            options.append(f"--{name}={word}")
    if ask.cpus is not None:
        options.append(f"--cpus-per-task={ask.cpus}")
    if ask.memory_bytes is not None:
        options.append(f"--mem={-(-ask.memory_bytes // 2**20)}M")
    if ask.gpus and ask.gpu_request is not GpuRequest.NONE:
        count = f"{ask.gpu_type}:{ask.gpus}" if ask.gpu_type else str(ask.gpus)
        per_node = ask.gpu_request is GpuRequest.GPUS_PER_NODE
        options.append(f"--gpus-per-node={count}" if per_node else f"--gres=gpu:{count}")
    if ask.exclusive:
        options.append("--exclusive")
    if ask.walltime_s is not None:
        options.append(f"--time={clock(ask.walltime_s)}")
        # The launcher goes by its own deadline. Slurm's warning comes up to a minute earlier than asked for (asked for
        # 45 s before the end, it came at 53 s; for 50, at 31), so it is asked for no sooner than that deadline.
        options.append(f"--signal=B:TERM@{max(1, round(margin_s(ask.walltime_s)))}")
    return [*options, *ask.extra]


def clock(seconds: float) -> str:
    """Write a duration as Slurm reads it: days-hours:minutes:seconds (it counts whole minutes, rounded up)."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}-{hours:02}:{minutes:02}:{rest:02}"
