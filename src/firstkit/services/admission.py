# SPDX-License-Identifier: Apache-2.0
"""Requests and tokens per minute of each principal: refused with the time to come back, told in x-ratelimit headers."""

from __future__ import annotations

from collections import OrderedDict
from math import ceil

from firstkit.core.errors import Limited
from firstkit.core.limits.gcra import Rate, charge, check
from firstkit.core.principal import Principal, RateLimits

Headers = tuple[tuple[str, str], ...]

_NAMES = {
    what: (f"x-ratelimit-limit-{what}", f"x-ratelimit-remaining-{what}", f"x-ratelimit-reset-{what}")
    for what in ("requests", "tokens")
}

SUBJECTS_MOST = 100_000
"""How many principals with limits are remembered; beyond, the one not seen longest is forgotten."""

FORGET_AFTER_S = 3600.0
"""A principal not heard of for so long whose buckets are full again is forgotten."""


class _Meter:
    """One principal's two buckets: when each will be full again."""

    __slots__ = ("limits", "requests", "requests_full_at", "seen_at", "tokens", "tokens_full_at")

    def __init__(self, limits: RateLimits) -> None:
        self.requests_full_at = float("-inf")
        self.tokens_full_at = float("-inf")
        self.seen_at = 0.0
        self.set(limits)

    def set(self, limits: RateLimits) -> None:
        self.limits = limits
        self.requests = _rate(limits.requests_per_minute)
        self.tokens = _rate(limits.tokens_per_minute)


class Admission:
    """Keeps a few numbers for each principal that has limits, and nothing for the others."""

    def __init__(self, *, subjects_most: int = SUBJECTS_MOST) -> None:
        self._meters: OrderedDict[str, _Meter] = OrderedDict()
        self._most = subjects_most

    def __len__(self) -> int:
        """Count the principals remembered."""
        return len(self._meters)

    def admit(self, principal: Principal, now: float) -> Headers:
        """Count a request and return the headers that tell what is left; raises Limited (`rate_limit_exceeded`).

        A refused request costs nothing. Tokens are charged when they are known: a principal that has spent more than
        its minute's worth waits until that is made up for.
        """
        limits = principal.limits
        if limits.requests_per_minute is None and limits.tokens_per_minute is None:
            return ()
        meter = self._meter(principal, now)
        headers: Headers = ()
        if meter.tokens is not None:
            verdict = check(meter.tokens, meter.tokens_full_at, now=now, cost=1)
            left = verdict.remaining + (1 if verdict.allowed else 0)
            headers = _headers("tokens", meter.tokens, left, max(0.0, meter.tokens_full_at - now))
            if not verdict.allowed:
                raise _limited("tokens", meter.tokens, verdict.wait_s, headers)
        if meter.requests is not None:
            verdict = check(meter.requests, meter.requests_full_at, now=now)
            headers = _headers("requests", meter.requests, verdict.remaining, verdict.full_in_s) + headers
            if not verdict.allowed:
                raise _limited("requests", meter.requests, verdict.wait_s, headers)
            meter.requests_full_at = verdict.full_at
        return headers

    def charge(self, subject: str, tokens: int, now: float) -> None:
        """Charge the tokens of a request that has ended; for a principal without limits this does nothing."""
        meter = self._meters.get(subject)
        if meter is not None and meter.tokens is not None and tokens > 0:
            meter.tokens_full_at = charge(meter.tokens, meter.tokens_full_at, now=now, cost=tokens)
            meter.seen_at = now
            self._meters.move_to_end(subject)

    def _meter(self, principal: Principal, now: float) -> _Meter:
        meter = self._meters.get(principal.subject)
        if meter is None:
            self._forget(now)
            meter = self._meters[principal.subject] = _Meter(principal.limits)
        else:
            self._meters.move_to_end(principal.subject)
            if meter.limits != principal.limits:
                meter.set(principal.limits)
        meter.seen_at = now
        return meter

    def _forget(self, now: float) -> None:
        """Make room: drop the oldest if there are too many, and a few that are long idle."""
        while len(self._meters) >= self._most:
            self._meters.popitem(last=False)
        for _ in range(2):
            oldest = next(iter(self._meters.values()), None)
            if oldest is None or now - oldest.seen_at < FORGET_AFTER_S or oldest.tokens_full_at > now:
                return
            self._meters.popitem(last=False)


def _rate(limit: int | None) -> Rate | None:
    return None if limit is None else Rate(limit=max(1, limit))  # the management API admits no less


def _headers(what: str, rate: Rate, remaining: int, full_in_s: float) -> Headers:
    limit, left, reset = _NAMES[what]
    return (limit, str(rate.limit)), (left, str(remaining)), (reset, f"{max(0.0, full_in_s):.3f}s")


def _limited(what: str, rate: Rate, wait_s: float, headers: Headers) -> Limited:
    retry_s = float(max(1, ceil(wait_s)))
    return Limited(
        f"You have used up your {rate.limit} {what} per minute. Try again in {retry_s:.0f} s.",
        retry_after_s=retry_s,
        headers=headers,
    )
