# SPDX-License-Identifier: Apache-2.0
"""Whether a site ends idle jobs by itself: instances cancelled from outside, always at about the same idle age.

Many centres cancel jobs whose GPUs do nothing for a while. Submitting once more only repeats it, at their cost.
"""

from __future__ import annotations

from collections.abc import Sequence

from firstkit.core.instance.record import Instance
from firstkit.core.reasons import Reason
from firstkit.core.units import format_duration

ENOUGH = 3
"""So many ends in a row are no chance any more."""
IDLE_S = 300.0
"""What was used a shorter time ago was not cancelled for being idle."""
SIMILAR_S = 120.0
"""Idle ages differ by this at most: such watchers look every minute or so, and use is noted no more finely;"""
SIMILAR_PART = 0.15
"""or by this part of the longest."""


def over_at(instance: Instance) -> float:
    """Say when an instance ended, or began to."""
    return instance.state_at if instance.ended_at is None else instance.ended_at


def idle_age_s(instance: Instance) -> float | None:
    """Say for how long nobody had used an instance when it was cancelled from outside; None if it ended otherwise."""
    if instance.reason is not Reason.CANCELLED or instance.ready_at is None:
        return None
    used_at = instance.ready_at if instance.used_at is None else max(instance.ready_at, instance.used_at)
    return over_at(instance) - used_at


def reaped_after_s(ended: Sequence[Instance]) -> float | None:
    """Say after how long the site seems to cancel what is idle; None where nothing points to it.

    `ended` are a deployment's instances that have ended or are ending, the newest first; those that never served tell
    nothing.
    """
    last = [item for item in ended if item.ready_at is not None][:ENOUGH]
    ages = [age for item in last if (age := idle_age_s(item)) is not None]
    if len(ages) < ENOUGH or min(ages) < IDLE_S:
        return None
    return max(ages) if max(ages) - min(ages) <= max(SIMILAR_S, SIMILAR_PART * max(ages)) else None


def advice(after_s: float) -> str:
    """Say what happened and what to ask for."""
    return (
        f"{ENOUGH} instances in a row were cancelled from outside after about {format_duration(after_s)} without a "
        "request, so the site seems to end idle jobs: ask it to exempt this account, partition or reservation, or let "
        "instances go earlier (scaling.min: 0 and a shorter scaling.idle)"
    )
