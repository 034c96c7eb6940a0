# SPDX-License-Identifier: Apache-2.0
"""Walltime, the perfectly announced failure: when an instance's time is over, and when its successor is due.

An instance is *closing* from the moment at which its successor has to be asked for until it ends. Planning does not
count it any more; routing uses it as before, for requests that can finish in time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from firstkit.core.instance.record import Instance, InstanceState
from firstkit.core.reasons import Reason
from firstkit.core.scaling.forecast import Typical

MARGIN_S = 30.0
"""A launcher stops its engines this long before its job's end, so that it can tell and clean up;"""
MARGIN_PART = 0.25
"""or this part of a short walltime before."""
SLACK_S = 30.0
"""A successor is asked for this much earlier than its start usually takes,"""
SLACK_PART = 0.25
"""and by this part of that time."""
UNKNOWN_S = 600.0
"""What a start is taken to last where none has ever been seen."""
HALF = 0.5
"""However long starts take, an instance serves this part of its time before its successor is asked for: jobs that wait
longer than they run would otherwise relieve one another without end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """When an instance has to have finished (`at`, in the store's clock, the launcher's margin taken off), and why."""

    at: float
    reason: Reason
    detail: str = ""
    margin_s: float = MARGIN_S


def margin_s(walltime_s: float | None) -> float:
    """Say how long before its job's end a launcher stops its engines."""
    return MARGIN_S if walltime_s is None else min(MARGIN_S, MARGIN_PART * walltime_s)


def lead_s(slow: Typical) -> float:
    """Say how long before the end a successor has to be submitted, from how long starts take when they are slow."""
    known = slow.load_s is not None
    start_s = (slow.job_wait_s or 0.0) + (slow.boot_s or 0.0) + (slow.load_s or 0.0) if known else UNKNOWN_S
    return start_s * (1.0 + SLACK_PART) + SLACK_S


def closing(
    instances: Sequence[Instance], ends: Mapping[str, End], *, lead_s: float, abreast: int | None, now: float
) -> list[Instance]:
    """List the serving instances whose successors are due, the one that ends first first.

    `abreast` bounds how many successors there is room for at a time (None: no bound): where several end together, the
    first ones hand over earlier, so that the last one's turn comes in time.
    """
    ending = sorted(
        (item for item in instances if item.state is InstanceState.READY and item.id in ends),
        key=lambda item: (ends[item.id].at, item.id),
    )
    due: list[float] = [0.0] * len(ending)
    width = max(1, abreast) if abreast is not None else len(ending)
    for index in range(len(ending) - 1, -1, -1):
        due[index] = ends[ending[index].id].at - lead_s
        if index + width < len(ending):
            due[index] = min(due[index], due[index + width] - lead_s)
    return [item for item, at in zip(ending, due, strict=True) if now >= max(at, _half_time(item, ends[item.id].at))]


def _half_time(item: Instance, end: float) -> float:
    since = item.ready_at if item.ready_at is not None else item.created_at
    return since + HALF * (end - since)


def kept_past(item: Instance, end: float, *, idle_s: float | None) -> bool:
    """Tell whether an instance would be kept beyond its end though nobody needs it now: `idle` is not over by then."""
    since = item.wanted_at if item.wanted_at is not None else item.created_at
    return idle_s is None or since + idle_s > end
