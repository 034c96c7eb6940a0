# SPDX-License-Identifier: Apache-2.0
"""What a process says of itself: log lines, and numbers in plain cells that are folded into metrics when asked for."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Protocol


class Journal(Protocol):
    """Where a process says what it decides and what goes wrong: an event a line, with its facts, never content."""

    def __call__(self, event: str, /, **facts: object) -> None: ...


class Count:
    """A number that only grows; whoever holds the cell adds to `value`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Spread:
    """How often values fell into which bucket; `bounds` are the buckets' upper bounds, the last bucket has none."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Note one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Telemetry(Protocol):
    """Hands out cells. A metric's name, unit, help and label names are fixed in one file; another name is an error.

    The same name and labels give the same cell. Label values must be few: a model of the catalog, never a user.
    """

    def count(self, name: str, /, **labels: str) -> Count:
        """Return the cell of a counter."""
        ...

    def spread(self, name: str, /, **labels: str) -> Spread:
        """Return the cell of a histogram."""
        ...

    def before_reading(self, bring_up_to_date: Callable[[], None], /) -> None:
        """Have something called before every reading: what has not been counted yet is counted then."""
        ...

    def gauge(self, name: str, read: Callable[[], float], /, **labels: str) -> None:
        """Have a value read whenever somebody asks; replaces an earlier reader of the same name and labels."""
        ...
