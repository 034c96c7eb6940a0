# SPDX-License-Identifier: Apache-2.0
"""Summaries of many values: quantiles of one phase, and medians of ratios over rounds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A median with the least and the greatest value beside it."""

    median: float
    least: float
    greatest: float
    of: int

    @classmethod
    def over(cls, values: Iterable[float]) -> Spread | None:
        """Summarise values; None when there are none."""
        known = sorted(values)
        if not known:
            return None
        return cls(median=statistics.median(known), least=known[0], greatest=known[-1], of=len(known))

    def json(self) -> dict[str, float]:
        return {name: round(value, 4) for name, value in asdict(self).items()}


def quantile(ordered: Sequence[float], q: float) -> float:
    """Give a quantile of ordered values by the nearest rank."""
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def distribution(values: Iterable[float], *, scale: float = 1.0) -> dict[str, float]:
    """Give median, 90th and 99th percentile, greatest value and count."""
    ordered = sorted(values)
    if not ordered:
        return {"n": 0}
    named = {
        "p50": quantile(ordered, 0.5),
        "p90": quantile(ordered, 0.9),
        "p99": quantile(ordered, 0.99),
        "max": ordered[-1],
    }
    return {name: round(value * scale, 1) for name, value in named.items()} | {"n": len(ordered)}
