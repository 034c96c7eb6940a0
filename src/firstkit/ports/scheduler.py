# SPDX-License-Identifier: Apache-2.0
"""A scheduler's dialect: pure builders of commands and parsers of what they print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from firstkit.core.catalog import Resources
from firstkit.core.reasons import Reason
from firstkit.ports.runner import Command, Result


class JobPhase(StrEnum):
    """What a scheduler says of a job, reduced to what decides; UNKNOWN is no event.

    WAITING with a reason of `core.reasons.FAILURES`: it waits for what waiting will not bring.
    """

    WAITING = "waiting"
    RUNNING = "running"
    ENDING = "ending"
    ENDED = "ended"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenJob:
    """One job in a listing. `detail` keeps the scheduler's own words; `nodes` names where it runs, as far as told."""

    scheduler_id: str
    tag: str
    phase: JobPhase
    reason: Reason | None = None
    detail: str = ""
    time_left_s: float | None = None
    starts_in_s: float | None = None
    nodes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A reservation: a time in which nodes are kept from ordinary jobs, for maintenance or for others.

    Both times count from the listing's own time (law 14) and are negative for what is past. `nodes` None: every node
    that our jobs may run on; else names as in `SeenJob.nodes`, expanded. `jobs` tells whether jobs that name it (option
    `reservation`) may run in it; a maintenance takes none.
    """

    name: str
    starts_in_s: float
    ends_in_s: float
    nodes: frozenset[str] | None = None
    jobs: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What one look at the scheduler told. `complete` False: nothing may be concluded from absence."""

    complete: bool
    jobs: tuple[SeenJob, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What is needed to submit one job; the script and job.json already lie in `run_dir`."""

    tag: str
    run_dir: str
    script: str
    resources: Resources
    exclude: tuple[str, ...] = ()
    """Nodes that it should not run on, as the scheduler names them, where the dialect has a word for that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The scheduler took the job."""

    scheduler_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """It was surely not submitted. `detail` keeps the scheduler's own words.

    `reason` is one of core's ends: those of `HEALING` are tried again, others hold the deployment.
    """

    detail: str
    reason: Reason = Reason.SUBMIT_REJECTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsure:
    """It may or may not have been submitted: look for the tag before trying again."""

    detail: str


class Scheduler(Protocol):
    """Pure: no method runs anything."""

    def files(self) -> dict[str, bytes]:
        """List executables of ours that this dialect needs in the cluster's run_dir, by name; usually none."""
        ...

    def script(self, submission: Submission, *, setup: str, launcher: str) -> str:
        """Render start.sh: readable, setup lines in a login shell, then exec of the launcher."""
        ...

    def submit(self, submission: Submission) -> Command:
        """Build the submission."""
        ...

    def parse_submit(self, result: Result) -> Accepted | Rejected | Unsure:
        """Read its answer."""
        ...

    def observe(self) -> list[Command]:
        """Build the one listing of all our jobs, ended ones included as long as the scheduler remembers."""
        ...

    def parse(self, results: Sequence[Result]) -> Observation:
        """Read the listing."""
        ...

    def recall(self, jobs: Mapping[str, str]) -> list[Command]:
        """Build the question to a second source (accounting) what became of jobs: firstkit's id to the scheduler's.

        Asked about jobs that a complete listing lacks; empty where there is no second source. The scheduler's id is ""
        for a job whose submission was never answered.
        """
        ...

    def parse_recalled(self, results: Sequence[Result]) -> tuple[SeenJob, ...]:
        """Read its answer: the jobs that it knows to have ended; what it does not tell is not known."""
        ...

    def windows(self) -> list[Command]:
        """Build the listing of reservations, which is made every few minutes; no command where the dialect has none."""
        ...

    def parse_windows(self, results: Sequence[Result]) -> tuple[Window, ...] | None:
        """Read it; None: nothing was learnt, and what was known before holds (an empty listing tells of none)."""
        ...

    def cancel(self, scheduler_ids: Sequence[str]) -> list[Command]:
        """Build the cancellation."""
        ...

    def parse_cancel(self, results: Sequence[Result]) -> str:
        """Say what the scheduler has against it, "" for nothing: cancelling what has ended or never was is no error."""
        ...
