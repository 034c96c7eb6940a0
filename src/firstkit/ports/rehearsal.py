# SPDX-License-Identifier: Apache-2.0
"""What some schedulers can be asked besides: who they are, and what they would do with a job, submitting nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from firstkit.core.units import format_duration
from firstkit.ports.runner import Command, Result
from firstkit.ports.scheduler import Submission


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsed:
    """What the scheduler says it would do; `accepted` None: it did not say. `detail` keeps its own words."""

    accepted: bool | None
    detail: str = ""
    starts_in_s: float | None = None

    def __str__(self) -> str:
        """Say it in one sentence."""
        if self.accepted is None:
            return f"no answer: {self.detail}"
        if not self.accepted:
            return f"refused: {self.detail}"
        if self.starts_in_s is None:
            return f"accepted ({self.detail})"
        start = "at once" if self.starts_in_s < 1 else f"in {format_duration(self.starts_in_s)}"
        return f"accepted, and would start {start} ({self.detail})"


@runtime_checkable
class Rehearsing(Protocol):
    """A dialect that has a dry run. Pure, like `Scheduler`."""

    def version(self) -> Command:
        """Build the command that prints the scheduler's version, and shows that its commands are there."""
        ...

    def rehearse(self, submission: Submission, *, script: bytes) -> list[Command]:
        """Build the dry run of a submission; nothing has to lie on the cluster for it."""
        ...

    def read_rehearsal(self, results: Sequence[Result]) -> Rehearsed:
        """Read its answer."""
        ...
