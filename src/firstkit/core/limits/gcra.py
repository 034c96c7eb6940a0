# SPDX-License-Identifier: Apache-2.0
"""A rate limit as one number per subject: the generic cell rate algorithm (ITU-T I.371), virtual scheduling form.

The number is the theoretical arrival time: when the bucket would be full again. Nothing is counted per request, nothing
has to be refilled, and what lies in the past may be forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """`limit` units (one or more) in each `per_s` seconds, which may all come at once after a pause that long."""

    limit: int
    per_s: float = 60.0
    unit_s: float = field(init=False)
    """Seconds in which one unit comes back."""

    def __post_init__(self) -> None:
        """Refuse what is no rate."""
        if self.limit < 1 or self.per_s <= 0:
            raise ValueError("a rate allows at least one in some time")
        object.__setattr__(self, "unit_s", self.per_s / self.limit)


class Verdict(NamedTuple):
    """`full_at` is the number to be kept; `remaining` units could be spent at once; `wait_s` is 0 when allowed."""

    allowed: bool
    full_at: float
    remaining: int
    wait_s: float
    full_in_s: float


def check(rate: Rate, full_at: float, *, now: float, cost: int = 1) -> Verdict:
    """Ask for `cost` units. Refused ones cost nothing.

    At most `limit + t / unit_s` units are allowed within any time t. A cost above the limit is allowed when the
    bucket is full, or it could never be.
    """
    unit_s = rate.unit_s
    start = max(full_at, now)
    ahead = min(cost, rate.limit) * unit_s
    wait_s = start + ahead - rate.per_s - now
    allowed = wait_s <= 1e-9 * rate.per_s
    if allowed:
        start += cost * unit_s
        wait_s = 0.0
    full_in_s = start - now
    remaining = max(0, int((rate.per_s - full_in_s) / unit_s + 1e-6))
    return Verdict(allowed, start, remaining, wait_s, full_in_s)


def charge(rate: Rate, full_at: float, *, now: float, cost: int) -> float:
    """Spend what has already been used, into debt if need be (tokens are known only afterwards)."""
    return max(full_at, now) + cost * rate.unit_s
