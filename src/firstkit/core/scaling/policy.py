# SPDX-License-Identifier: Apache-2.0
"""The scaling policy: from signals and bounds to how many instances are needed, with the reason."""

from __future__ import annotations

from dataclasses import dataclass

from firstkit.core.catalog import Scaling
from firstkit.core.reasons import Reason
from firstkit.core.scaling.signals import Signals

SCALE_OUT_WAIT_S = 2.0
"""Requests must have waited this long before another instance is started beside a serving one.

A shorter burst drains by itself.
"""
RECENTLY_S = 10.0
"""A model that was asked for this short a time ago is wanted: requests may come and go between two looks."""
LOOKS_S = 3.0
"""A shorter `idle` makes that time shorter, but not below this.

Gateways tell once a second, and the controller looks once a second: what is asked for every second must be seen as
wanted throughout, or its instance would come and go.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """How many instances the present demand needs, bounded by min and max, and why.

    `ago_s` is how long ago they were last at work or waited for, where the demand is but a recent one.
    """

    count: int
    reason: Reason
    ago_s: float = 0.0


def need(signals: Signals, *, scaling: Scaling, serving: int) -> Need:
    """Say how many instances are needed right now; `serving` counts READY ones.

    One instance carries `in_flight` requests. A first instance is needed as soon as anybody waits; a further one when
    the
    queue does not drain by itself.
    """
    load = signals.in_flight
    if signals.waiting and (serving == 0 or signals.oldest_wait_s >= SCALE_OUT_WAIT_S):
        load += signals.waiting
    wanted, ago_s = -(-load // scaling.in_flight), 0.0
    if signals.waiting:
        wanted = max(wanted, 1)
    elif not load and signals.wanted_ago_s is not None and signals.wanted_ago_s <= recently_s(scaling.idle_s):
        wanted, ago_s = 1, signals.wanted_ago_s
    if wanted > scaling.max:
        return Need(count=scaling.max, reason=Reason.AT_MAX)
    if wanted > scaling.min:
        return Need(count=wanted, reason=Reason.DEMAND, ago_s=ago_s)
    return Need(count=scaling.min, reason=Reason.MIN_KEPT if scaling.min else Reason.NO_DEMAND)


def recently_s(idle_s: float | None) -> float:
    """Say how long a model stays wanted after it was asked for; `idle` counts from when it was asked for."""
    return RECENTLY_S if idle_s is None else min(RECENTLY_S, max(LOOKS_S, idle_s))
