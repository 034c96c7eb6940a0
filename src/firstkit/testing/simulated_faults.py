# SPDX-License-Identifier: Apache-2.0
"""What goes wrong on a simulated cluster, and what its administrators announce."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """A reservation for maintenance, in the cluster's own time; `nodes` None: all of them."""

    name: str
    starts_at: float
    ends_at: float
    nodes: tuple[str, ...] | None = None


@dataclass(slots=True)
class Faults:
    """What goes wrong at the moment; tests set and clear it. Each says how it misbehaves."""

    unreachable: bool = False
    """Every command times out."""
    refused: bool = False
    """No command can be run at all."""
    submit_refused: str = ""
    """The scheduler refuses submissions in these words."""
    lost_answers: int = 0
    """So many submissions take effect while their answers are lost."""
    lost_submissions: int = 0
    """So many submissions are lost with their answers."""
    delayed_submissions_s: float = 0.0
    """Submissions time out and take effect that much later."""
    cancel_refused: bool = False
    """Cancellations fail with an exit code."""
    truncated: bool = False
    """Listings break off after the first line."""
    unknown_states: bool = False
    """Listings show states that nobody has heard of."""
    repeated_lines: bool = False
    """Each line of a listing comes twice."""
    hidden: set[str] = field(default_factory=set[str])
    """These jobs are missing from listings."""
    forgetful: bool = False
    """Ended jobs are gone from the listing at once."""
    http_down: bool = False
    """No status arrives over HTTP."""
    unreadable: bool = False
    """No file can be read by the runner."""
    disk_full: bool = False
    """No file can be written by the runner."""
    frozen_queue: bool = False
    """No waiting job starts."""
    impossible: bool = False
    """Waiting jobs are said to wait for what will never come."""
    accounting: bool = False
    """Ends can be asked for, whatever listings show."""
