# SPDX-License-Identifier: Apache-2.0
"""The `pbs` dialect: OpenPBS and PBS Professional, by their commands alone."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from firstkit.adapters.schedulers import pbs_codes as codes
from firstkit.adapters.schedulers.objections import objection
from firstkit.adapters.schedulers.pbs_json import Attributes, read_listing
from firstkit.adapters.schedulers.pbs_listing import seen_job
from firstkit.adapters.schedulers.pbs_reservations import read_windows
from firstkit.adapters.schedulers.pbs_times import IN_UTC, write_duration
from firstkit.adapters.schedulers.script import start_script
from firstkit.core.ask import Ask, GpuRequest, ask_of
from firstkit.core.catalog import Cluster
from firstkit.core.reasons import Reason
from firstkit.ports.runner import Command, Done, Refused, Result
from firstkit.ports.scheduler import Accepted, JobPhase, Observation, Rejected, SeenJob, Submission, Unsure, Window

OUTPUT = "pbs.out"
"""What PBS itself writes of a job: that its walltime is over, what a profile prints. start.sh has a file of its own."""
LISTING = ("qstat", "-f", "-F", "json")
HISTORY = ("qstat", "-x", "-f", "-F", "json")
_JOB_ID = re.compile(r"\d+(\.[\w.-]+)?")
_HARMLESS = ("unknown job id", "job has finished", "delete already in progress", "invalid for state of job")
_NOT_CONNECTED = ("cannot connect to server", "connection refused", "unable to authenticate")


class PbsScheduler:
    """Build and read the commands of PBS.

    A listing is of all jobs of the site: `qstat -f` takes no user, and with two ids it prints the first only in some
    versions. It does not tell an empty queue from a server that is down, its exit code does.
    """

    def __init__(self, cluster: Cluster, *, installation: str) -> None:
        self._cluster = cluster
        options = cluster.scheduler.options
        self._conf = (f"PBS_CONF_FILE={options['conf']}",) if options.get("conf") else ()
        self._prefix = f"first-{installation}-"

    def files(self) -> dict[str, bytes]:
        """Name no files of its own."""
        return {}

    def script(self, submission: Submission, *, setup: str, launcher: str) -> str:
        """Render start.sh, which is itself the job's top process.

        A script job runs below a login shell that dies of any signal, and the job with it. Given after `--`, start.sh
        is executed directly: where there are setup lines its first line makes it a login shell of its own for them, in
        whose place the launcher goes on.
        """
        python = str(self._cluster.scheduler.options.get("python") or "python3")
        return start_script(submission, setup=setup, launcher=launcher, python=python, login=bool(setup.strip()))

    def submit(self, submission: Submission) -> Command:
        """Submit by tag. Never `-V`: nothing of our environment goes into a job."""
        ask = ask_of(self._cluster, submission.resources)
        queue = ask.reservation.partition(".")[0] or ask.partition
        options = [
            *("-N", submission.tag),
            *(("-q", queue) if queue else ()),
            *(("-A", ask.account) if ask.account else ()),
            *("-l", _select(ask)),
            *(("-l", f"place={place}") if (place := _place(ask)) else ()),
            *(("-l", f"walltime={write_duration(ask.walltime_s)}") if ask.walltime_s is not None else ()),
            *("-r", "n", "-m", "n", "-W", "umask=077"),
            *("-j", "oe", "-k", "doe", "-o", f"{submission.run_dir}/{OUTPUT}"),
            *(word for option in ask.extra for word in shlex.split(option)),
        ]
        return self._command("qsub", *options, "--", submission.script)

    def parse_submit(self, result: Result) -> Accepted | Rejected | Unsure:
        """Read the job's id; after anything but a refusal the job may be there all the same."""
        if isinstance(result, Refused):
            return Rejected(detail=result.detail, reason=Reason.SUBMIT_FAILED)
        if not isinstance(result, Done):
            return Unsure(detail=result.detail)
        if result.code == 0:
            lines = [line.strip() for line in result.out.decode("utf-8", "replace").splitlines()]
            found = next((line for line in reversed(lines) if _JOB_ID.fullmatch(line)), "")
            return Accepted(scheduler_id=found) if found else Unsure(detail=_words(result) or "qsub printed no id")
        words = _words(result) or f"qsub: exit code {result.code}"
        if any(text in words.lower() for text in _NOT_CONNECTED):
            return Rejected(detail=words, reason=Reason.SUBMIT_FAILED)
        if result.code < 0 or result.code in codes.MAY_BE_SUBMITTED:
            return Unsure(detail=words)
        if result.code in codes.SITE_LIMITS:
            return Rejected(detail=words, reason=Reason.SITE_LIMIT)
        return Rejected(
            detail=words,
            reason=Reason.SUBMIT_FAILED if result.code in codes.SITE_FAILS else Reason.SUBMIT_REJECTED,
        )

    def observe(self) -> list[Command]:
        """Ask who we are, and list."""
        return [Command(argv=("id", "-un")), self._command(*LISTING, zone=IN_UTC)]

    def parse(self, results: Sequence[Result]) -> Observation:
        """Read the listing: jobs of our own account, since anybody may name a job like one of ours."""
        for result in results:
            if not isinstance(result, Done):
                return Observation(complete=False, detail=result.detail)
        if len(results) != 2:
            return Observation(complete=False, detail="no listing was made")
        who, listed = (result for result in results if isinstance(result, Done))
        user = who.out.decode("utf-8", "replace").strip()
        listing = read_listing(listed.out)
        words = _words(listed)
        complete = listed.code == 0 and who.code == 0 and bool(user) and listing.whole
        if not listing.jobs and words:
            complete = False  # an empty listing is believed only when there was nothing to complain of
        jobs = tuple(
            seen_job(name, job, asked_at=listing.timestamp)
            for name, job in listing.jobs.items()
            if self._is_ours(job, user)
        )
        detail = "" if complete else words or "the listing broke off"
        return Observation(complete=complete, jobs=jobs, detail=detail)

    def _is_ours(self, job: Attributes, user: str) -> bool:
        owner = str(job.get("Job_Owner", "")).partition("@")[0]
        return owner == user and str(job.get("Job_Name", "")).startswith(self._prefix)

    def recall(self, jobs: Mapping[str, str]) -> list[Command]:
        """Ask the history about each, one at a time; about jobs without an id there is nothing to ask."""
        return [self._command(*HISTORY, number, zone=IN_UTC) for number in jobs.values() if number]

    def parse_recalled(self, results: Sequence[Result]) -> tuple[SeenJob, ...]:
        """Read the ends that the history tells. Where none is kept, qstat says so and exits with 0."""
        listings = [read_listing(result.out) for result in results if isinstance(result, Done) and result.code == 0]
        jobs = [
            seen_job(name, job, asked_at=listing.timestamp)
            for listing in listings
            if listing.whole
            for name, job in listing.jobs.items()
        ]
        return tuple(job for job in jobs if job.phase is JobPhase.ENDED and job.tag.startswith(self._prefix))

    def windows(self) -> list[Command]:
        """List reservations, and the nodes that there are; then say what time it is."""
        return [
            self._command("pbs_rstat", "-f", zone=IN_UTC),
            self._command("pbsnodes", "-F", "json", "-a"),
            Command(argv=("date", "+%s")),
        ]

    def parse_windows(self, results: Sequence[Result]) -> tuple[Window, ...] | None:
        """Read them; whatever failed, nothing was learnt."""
        told = [result.out for result in results if isinstance(result, Done) and result.code == 0]
        if len(told) != 3 or not (now := told[2].strip()).isdigit():
            return None
        return read_windows(told[0].decode("utf-8", "replace"), told[1], asked_at=float(now))

    def cancel(self, scheduler_ids: Sequence[str]) -> list[Command]:
        """Cancel in one command."""
        return [self._command("qdel", *scheduler_ids)] if scheduler_ids else []

    def parse_cancel(self, results: Sequence[Result]) -> str:
        """Read what qdel says; it complains of jobs that have ended or are ending, and of those that never were."""
        return objection(results, harmless=_HARMLESS)

    def _command(self, program: str, *arguments: str, zone: tuple[str, ...] = ()) -> Command:
        """Build one of PBS's commands, with what it needs of an environment and nothing else."""
        variables = (*self._conf, *zone)
        return Command(argv=(*(("env", *variables) if variables else ()), program, *arguments))


def _select(ask: Ask) -> str:
    """Write the chunks that are asked for, one for each node."""
    chunk = [str(ask.nodes)]
    if ask.cpus is not None:
        chunk.append(f"ncpus={ask.cpus}")
    if ask.gpus and ask.gpu_request is not GpuRequest.NONE:
        chunk.append(f"ngpus={ask.gpus}")
    if ask.memory_bytes is not None:
        chunk.append(f"mem={-(-ask.memory_bytes // 1024)}kb")
    if ask.gpu_type:
        chunk.append(ask.gpu_type if "=" in ask.gpu_type else f"accelerator_model={ask.gpu_type}")
    if ask.constraint:
        chunk.append(ask.constraint)
    return f"select={':'.join(chunk)}"


def _place(ask: Ask) -> str:
    """Say how the chunks lie on nodes."""
    return ":".join([*(["scatter"] if ask.nodes > 1 else []), *(["excl"] if ask.exclusive else [])])


def _words(result: Done) -> str:
    """Take the scheduler's own words, without the usage text that may follow them."""
    lines = [line.strip() for line in result.err.decode("utf-8", "replace").splitlines() if line.strip()]
    end = next((index for index, line in enumerate(lines) if line.lower().startswith("usage:")), len(lines))
    return "; ".join(lines[: end or 1])[:500]
