# SPDX-License-Identifier: Apache-2.0
"""How long something will still take: time to hot counted down, and a queue's wait from the rate at which it drains."""

from __future__ import annotations

from math import ceil, exp

from firstkit.core.topology import Heat, ModelStatus

MEMORY_S = 30.0
"""How far back the drain rate looks, roughly: older turns weigh less by a factor e each such time."""

UNKNOWN_RETRY_S = 10.0
"""When to come back to a full queue that has not moved yet while we watched."""

LONGEST_RETRY_S = 3600.0


class DrainRate:
    """Turns per second in a queue, seen over the last half minute or so while something waited."""

    __slots__ = ("_at", "_began", "_weight")

    def __init__(self) -> None:
        self._weight = 0.0
        self._began = 0.0
        self._at: float | None = None

    def begin(self, *, now: float) -> None:
        """Note that the queue has something in it from now on; the time it was empty says nothing of its speed."""
        self._began += now - (self._began if self._at is None else self._at)
        self._at = now

    def note(self, *, now: float) -> None:
        """Note that one had its turn."""
        if self._at is None:
            self.begin(now=now)
        self._decay(now)
        self._weight += 1.0

    def per_s(self, *, now: float) -> float | None:
        """Return the rate; None while nothing has moved."""
        if self._at is None:
            return None
        self._decay(now)
        seen = MEMORY_S * (1.0 - exp(-(now - self._began) / MEMORY_S))
        if self._weight < 0.01 or seen <= 0.0:
            return None
        return self._weight / max(seen, 1.0)

    def _decay(self, now: float) -> None:
        if self._at is not None and now > self._at:
            self._weight *= exp(-(now - self._at) / MEMORY_S)
            self._at = now


def queue_wait_s(ahead: int, rate_per_s: float | None) -> float | None:
    """Predict the wait of a request with that many before it; None when the queue's speed is unknown."""
    return None if rate_per_s is None else (ahead + 1) / rate_per_s


def queue_retry_s(ahead: int, rate_per_s: float | None) -> float:
    """Say when a request refused by a full queue should come back: when those before it would be through."""
    wait_s = queue_wait_s(ahead, rate_per_s)
    return UNKNOWN_RETRY_S if wait_s is None else retry_after_s(wait_s)


def retry_after_s(seconds: float) -> float:
    """Round a time up to whole seconds, at least one and at most an hour, as Retry-After is written."""
    return float(min(max(ceil(seconds), 1), LONGEST_RETRY_S))


def to_hot_left_s(status: ModelStatus, *, elapsed_s: float) -> float | None:
    """Count a model's predicted time to hot down: 0 once it is overdue, and unknown stays unknown.

    For a cold model nothing has begun, so its prediction stands still: it counts from whenever the start will be.
    """
    if status.to_hot_s is None or status.heat is Heat.COLD:
        return status.to_hot_s
    return max(0.0, status.to_hot_s - elapsed_s)
