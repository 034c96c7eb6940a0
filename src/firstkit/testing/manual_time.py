# SPDX-License-Identifier: Apache-2.0
"""A monotonic clock with timers that stands still until a test moves it."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count


class ManualTimer:
    """One call to come; cancelling it is final."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Call it off."""
        self.callback = None


class ManualTime:
    """`now` and `later` as services take them. Time passes only in `advance`, timer by timer."""

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start
        self._order = count()
        self._timers: list[tuple[float, int, ManualTimer]] = []

    def now(self) -> float:
        """Return the present moment."""
        return self._now

    def later(self, delay: float, callback: Callable[[], None], /) -> ManualTimer:
        """Call back after so many seconds."""
        if delay < 0:
            raise ValueError("a timer cannot lie in the past")
        timer = ManualTimer(callback)
        heapq.heappush(self._timers, (self._now + delay, next(self._order), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Let time pass and call what becomes due, each at its own moment."""
        end = self._now + seconds
        while self._timers and self._timers[0][0] <= end:
            due, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, due)
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()
        self._now = end

    @property
    def pending(self) -> int:
        """Count timers that are still to come."""
        return sum(timer.callback is not None for _, _, timer in self._timers)
