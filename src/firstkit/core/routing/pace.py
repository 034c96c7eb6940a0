# SPDX-License-Identifier: Apache-2.0
"""How long a request may take at a deployment: a bound for its `max_tokens` from what others took, measured here.

Mean and mean deviation are kept as TCP keeps them for its retransmission timer (Jacobson and Karels, 1988): the mean
plus four deviations is exceeded seldom, and adapts within some dozen requests.
"""

from __future__ import annotations

from typing import Final

HORIZON_S: Final = 7200.0
"""No request is taken to last longer: before the last two hours of an instance its end does not matter."""
UNKNOWN_S: Final = 60.0
"""What a request is taken to last while none has been measured."""
LEAST_S: Final = 10.0
"""A request that names no bound is taken to last this long at least."""
SPARE: Final = 1.25
"""What is added to a request that names no `max_tokens`, beside the longest of late: by this factor."""
FORGET: Final = 0.998
"""The longest request seen is forgotten by so much with each one after it."""
_FEW = 8
"""Fewer tokens tell little about the time for one."""
_GAIN, _GAIN_DEVIATION, _DEVIATIONS = 1 / 8, 1 / 4, 4.0


class _Spread:
    """Mean and mean deviation of something."""

    __slots__ = ("_deviation", "_mean", "known")

    def __init__(self) -> None:
        self._mean = self._deviation = 0.0
        self.known = False

    def note(self, value: float) -> None:
        """Take in one more."""
        if not self.known:
            self.known, self._mean, self._deviation = True, value, value / 2
            return
        error = value - self._mean
        self._mean += _GAIN * error
        self._deviation += _GAIN_DEVIATION * (abs(error) - self._deviation)

    @property
    def bound(self) -> float:
        """Give what is seldom exceeded."""
        return self._mean + _DEVIATIONS * self._deviation


class Pace:
    """What one deployment's requests took of late at this gateway; its instances are alike."""

    __slots__ = ("_first", "_longest_s", "_token")

    def __init__(self) -> None:
        self._first = _Spread()
        self._token = _Spread()
        self._longest_s = 0.0

    def note(self, *, total_s: float, first_s: float | None, tokens: int | None) -> None:
        """Take in a request that was answered whole: its time, that until its first token, and how many there were."""
        self._longest_s = max(total_s, self._longest_s * FORGET)
        if first_s is not None:
            self._first.note(first_s)
        if tokens is not None and tokens >= _FEW:
            self._token.note((total_s - (first_s or 0.0)) / tokens)

    def bound_s(self, max_tokens: int | None) -> float:
        """Say how long a request for so many tokens may take; None: it names no bound, the longest of late counts."""
        if max_tokens is not None and self._token.known:
            bound_s = self._first.bound + max_tokens * self._token.bound
        elif max_tokens is None and self._longest_s:
            bound_s = max(LEAST_S, SPARE * self._longest_s)
        else:
            bound_s = max(UNKNOWN_S, SPARE * self._longest_s)
        return min(bound_s, HORIZON_S)


def class_of(max_tokens: int | None) -> int | None:
    """Round up to a power of two, so that requests that last about as long wait in one lane."""
    return None if max_tokens is None else 1 << max(0, max_tokens - 1).bit_length()
