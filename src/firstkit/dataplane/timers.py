# SPDX-License-Identifier: Apache-2.0
"""A timer wheel: any number of deadlines on one timer of the loop, cheap to move."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from typing import Protocol

GRAIN_S = 0.05
LOOK_S = 10.0
"""An entry is looked at at least so often, whatever its deadline."""

NEVER = float("inf")
NO_TICK = 1 << 62
"""What `tick` is of an entry that is not in the wheel."""


class Due(Protocol):
    """Something with one deadline at a time.

    `due` is the moment (monotonic seconds) after which `on_due` is called once; `closed` takes the entry out of the
    wheel. `tick` belongs to the wheel.
    """

    due: float
    tick: int
    closed: bool

    def on_due(self) -> None:
        """Act: the deadline has passed. `due` was set to NEVER before the call."""
        ...


class Wheel:
    """Calls `on_due` at most one grain after the deadline.

    `set` moves a deadline. Once an entry is in the wheel, assigning to `due` does as well, and costs nothing: later is
    exact, and earlier is noticed within `LOOK_S`.
    """

    __slots__ = ("_armed_tick", "_buckets", "_handle", "_loop", "_ticks")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._buckets: dict[int, list[Due]] = {}
        self._ticks: list[int] = []
        self._handle: asyncio.TimerHandle | None = None
        self._armed_tick = NO_TICK

    def set(self, entry: Due, due: float) -> None:
        """Put an entry in, or move its deadline, earlier or later."""
        entry.due = due
        tick = int(min(due, time.monotonic() + LOOK_S) / GRAIN_S) + 1
        if tick < entry.tick:
            self._put(entry, tick)

    def later(self, delay_s: float, act: Callable[[], None], /) -> Call:
        """Call something once after a delay, unless it is called off."""
        entry = Call(act)
        self.set(entry, time.monotonic() + delay_s)
        return entry

    def close(self) -> None:
        """Forget every deadline."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle = None
        self._buckets.clear()
        self._ticks.clear()
        self._armed_tick = NO_TICK

    def _put(self, entry: Due, tick: int) -> None:
        entry.tick = tick
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = [entry]
            heapq.heappush(self._ticks, tick)
            if tick < self._armed_tick:
                self._arm()
        else:
            bucket.append(entry)

    def _arm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        tick = self._ticks[0]
        self._armed_tick = tick
        delay = tick * GRAIN_S - time.monotonic()
        self._handle = self._loop.call_later(max(0.0, delay), self._turn)

    def _turn(self) -> None:
        self._handle = None
        self._armed_tick = NO_TICK
        now = time.monotonic()
        while self._ticks and self._ticks[0] * GRAIN_S <= now:
            tick = heapq.heappop(self._ticks)
            for entry in self._buckets.pop(tick):
                if entry.tick == tick:
                    entry.tick = NO_TICK
                    self._look(entry, now)
        if self._ticks and self._handle is None:
            self._arm()

    def _look(self, entry: Due, now: float) -> None:
        if entry.closed:
            return
        if entry.due <= now:
            entry.due = NEVER
            try:
                entry.on_due()
            except Exception as error:  # noqa: BLE001 one entry's fault must not stop the others' deadlines
                self._loop.call_exception_handler({"message": "a deadline's action failed", "exception": error})
        if not entry.closed and entry.tick == NO_TICK:
            self._put(entry, int(min(entry.due, now + LOOK_S) / GRAIN_S) + 1)


class Call:
    """One call that is to be made later."""

    __slots__ = ("_act", "closed", "due", "tick")

    def __init__(self, act: Callable[[], None]) -> None:
        self._act: Callable[[], None] | None = act
        self.due = NEVER
        self.tick = NO_TICK
        self.closed = False

    def on_due(self) -> None:
        """Make the call (called by the wheel)."""
        act, self._act = self._act, None
        self.closed = True
        if act is not None:
            act()

    def cancel(self) -> None:
        """Call it off; too late does nothing."""
        self._act = None
        self.closed = True
