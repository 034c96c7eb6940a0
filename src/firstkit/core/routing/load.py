# SPDX-License-Identifier: Apache-2.0
"""Which of several eligible instances has the least to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from firstkit.core.health.liveness import suspicion
from firstkit.core.routing.candidates import Standing

StandingT = TypeVar("StandingT", bound=Standing)


def least_in_flight(standings: Iterable[StandingT], random: Callable[[], float]) -> StandingT | None:
    """Return the one with the fewest requests in flight; of several, one at random.

    `random` gives a number in [0, 1) and is asked only when there is a tie.
    """
    best: StandingT | None = None
    ties: list[StandingT] | None = None
    low = 0
    for standing in standings:
        load = standing.in_flight
        if best is None or load < low:
            best, low, ties = standing, load, None
        elif load == low:
            if ties is None:
                ties = [best]
            ties.append(standing)
    return best if ties is None else ties[int(random() * len(ties))]


def least_suspect(standings: Iterable[StandingT]) -> StandingT | None:
    """Return the one with the least against it; among equals the one with the fewest requests in flight."""
    return min(standings, key=lambda standing: (suspicion(standing.health), standing.in_flight), default=None)
