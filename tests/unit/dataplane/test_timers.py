# SPDX-License-Identifier: Apache-2.0
"""The timer wheel on a loop whose time is moved by hand."""

import time
from collections.abc import Callable
from typing import cast

import pytest

from firstkit.dataplane.timers import GRAIN_S, LOOK_S, NEVER, NO_TICK, Wheel


class HandLoop:
    """A loop that knows one thing: to call later, when its time is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []
        self.problems: list[dict] = []
        self.calls = 0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def call_later(self, delay: float, act: Callable[[], None]) -> "Timer":
        self.calls += 1
        timer = Timer(self, self.now + delay, act)
        self.timers.append(timer)
        return timer

    def call_exception_handler(self, context: dict) -> None:
        self.problems.append(context)

    def move(self, seconds: float) -> None:
        end = self.now + seconds
        while due := sorted((timer for timer in self.timers if timer.at <= end), key=lambda timer: timer.at):
            self.timers.remove(due[0])
            self.now = max(self.now, due[0].at)
            due[0].act()
        self.now = end


class Timer:
    def __init__(self, loop: HandLoop, at: float, act: Callable[[], None]) -> None:
        self.loop, self.at, self.act = loop, at, act

    def cancel(self) -> None:
        if self in self.loop.timers:
            self.loop.timers.remove(self)


class Entry:
    def __init__(self) -> None:
        self.due, self.tick, self.closed = NEVER, NO_TICK, False
        self.fired: list[float] = []
        self.fails = False

    def on_due(self) -> None:
        self.fired.append(time.monotonic())
        if self.fails:
            raise ValueError("no")


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> HandLoop:
    return HandLoop(monkeypatch)


@pytest.fixture
def wheel(loop: HandLoop) -> Wheel:
    return Wheel(cast("object", loop))  # type: ignore[arg-type]


def test_an_entry_is_called_once_and_at_most_a_grain_late(loop: HandLoop, wheel: Wheel) -> None:
    entries = [Entry() for _ in range(100)]
    for number, entry in enumerate(entries):
        wheel.set(entry, loop.now + number * 0.173)
    start = loop.now
    loop.move(60.0)
    for number, entry in enumerate(entries):
        [at] = entry.fired
        assert start + number * 0.173 <= at <= start + number * 0.173 + 2 * GRAIN_S


def test_a_deadline_can_be_moved_by_assignment(loop: HandLoop, wheel: Wheel) -> None:
    later, earlier = Entry(), Entry()
    wheel.set(later, loop.now + 1.0)
    wheel.set(earlier, loop.now + 600.0)
    start = loop.now
    later.due = start + 5.0
    earlier.due = start + 15.0
    loop.move(4.9)
    assert later.fired == []
    loop.move(0.2)
    assert len(later.fired) == 1
    loop.move(9.8)
    assert earlier.fired == []
    loop.move(LOOK_S)
    assert len(earlier.fired) == 1


def test_a_deadline_set_earlier_is_exact(loop: HandLoop, wheel: Wheel) -> None:
    entry = Entry()
    wheel.set(entry, loop.now + 600.0)
    wheel.set(entry, loop.now + 0.1)
    loop.move(0.2)
    assert len(entry.fired) == 1


def test_an_entry_that_was_never_or_has_fired_can_be_used_again(loop: HandLoop, wheel: Wheel) -> None:
    entry = Entry()
    wheel.set(entry, NEVER)
    loop.move(100.0)
    entry.due = loop.now + 1.0
    loop.move(LOOK_S + 1.1)
    assert len(entry.fired) == 1
    wheel.set(entry, loop.now + 1.0)
    loop.move(1.1)
    assert len(entry.fired) == 2


def test_a_closed_entry_is_forgotten(loop: HandLoop, wheel: Wheel) -> None:
    entry = Entry()
    wheel.set(entry, loop.now + 1.0)
    entry.closed = True
    loop.move(100.0)
    assert entry.fired == []
    assert loop.timers == []


def test_one_that_fails_does_not_hold_up_the_others(loop: HandLoop, wheel: Wheel) -> None:
    bad, good = Entry(), Entry()
    bad.fails = True
    wheel.set(bad, loop.now + 1.0)
    wheel.set(good, loop.now + 1.0)
    loop.move(1.1)
    assert len(good.fired) == 1
    assert [str(problem["exception"]) for problem in loop.problems] == ["no"]


def test_any_number_of_deadlines_takes_one_timer(loop: HandLoop, wheel: Wheel) -> None:
    for number in range(1000):
        wheel.set(Entry(), loop.now + 1.0 + number % 10)
    assert len(loop.timers) == 1


def test_a_call_is_made_later_unless_it_is_called_off(loop: HandLoop, wheel: Wheel) -> None:
    made: list[str] = []
    wheel.later(1.0, lambda: made.append("kept"))
    dropped = wheel.later(1.0, lambda: made.append("dropped"))
    dropped.cancel()
    loop.move(2.0)
    dropped.cancel()
    assert made == ["kept"]
    assert loop.timers == []


def test_a_closed_wheel_calls_nobody(loop: HandLoop, wheel: Wheel) -> None:
    entry = Entry()
    wheel.set(entry, loop.now + 1.0)
    wheel.close()
    loop.move(10.0)
    assert entry.fired == []
    assert loop.timers == []
