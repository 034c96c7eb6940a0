# SPDX-License-Identifier: Apache-2.0
"""A model's queue shared out among its deployments: whoever serves comes first, the rest get what is too much."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from firstkit.core.scaling.signals import Signals


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One deployment of a model. `signals` shows the model's whole queue; `capacity` is what it can have in flight.

    `able`: it serves, is on its way, or may start something now.
    """

    deployment: str
    model: str
    signals: Signals
    capacity: int
    serving: bool
    coming: bool
    able: bool


def share(candidates: Iterable[Candidate]) -> dict[str, Signals]:
    """Give each deployment its part of the model's queue; what is in flight is its own already.

    One that serves comes before one that is on its way, that before the others, else in the given order. The first that
    is able gets the whole queue (so that it sees when that is more than it may carry), the next what goes beyond the
    first one's capacity, and so on. Where none is able each sees the whole queue and says why it cannot start.
    """
    models: dict[str, list[Candidate]] = {}
    for one in candidates:
        models.setdefault(one.model, []).append(one)
    shares: dict[str, Signals] = {}
    for members in models.values():
        ordered = sorted(members, key=lambda one: (not one.able, not one.serving, not one.coming))
        if not ordered[0].able:
            shares |= {one.deployment: one.signals for one in ordered}
            continue
        left: int | None = None
        for one in ordered:
            if left is None:
                left = one.signals.waiting
                shares[one.deployment] = one.signals
            else:
                beyond = left if one.able else 0
                wanted_ago_s = one.signals.wanted_ago_s if beyond else None
                shares[one.deployment] = replace(one.signals, waiting=beyond, wanted_ago_s=wanted_ago_s)
            if one.able:
                left = max(0, left - max(0, one.capacity - one.signals.in_flight))
    return shares
