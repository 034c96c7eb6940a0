# SPDX-License-Identifier: Apache-2.0
"""How long until a model is hot, from this installation's own earlier starts; unknown rather than invented."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median

SLOW = 0.9
"""Of ten starts nine are no slower than what `slow` says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One observed start.

    Wait in the scheduler, job running to launcher's first word, engine start to READY; seconds.
    """

    deployment: str
    spec: str
    job_wait_s: float | None
    boot_s: float | None
    load_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Typical:
    """The usual length of each part; None where nothing is known."""

    job_wait_s: float | None = None
    boot_s: float | None = None
    load_s: float | None = None


def typical(starts: Iterable[Start], *, deployment: str, spec: str) -> Typical:
    """Take the median of this deployment's starts, those of the present spec if there are any."""
    mine = [item for item in starts if item.deployment == deployment]
    same = [item for item in mine if item.spec == spec] or mine
    return Typical(
        job_wait_s=_median([item.job_wait_s for item in mine]),
        boot_s=_median([item.boot_s for item in same]),
        load_s=_median([item.load_s for item in same]),
    )


def slow(starts: Iterable[Start], *, deployment: str, spec: str) -> Typical:
    """Take what nine of ten starts of this deployment did not exceed, part by part; of few starts the slowest."""
    mine = [item for item in starts if item.deployment == deployment]
    same = [item for item in mine if item.spec == spec] or mine
    return Typical(
        job_wait_s=_slow([item.job_wait_s for item in mine]),
        boot_s=_slow([item.boot_s for item in same]),
        load_s=_slow([item.load_s for item in same]),
    )


def _slow(values: Sequence[float | None]) -> float | None:
    known = sorted(value for value in values if value is not None)
    return known[ceil(SLOW * len(known)) - 1] if known else None


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def to_hot_s(
    usual: Typical, *, queued_for_s: float | None, booting_for_s: float | None, loading_for_s: float | None
) -> float | None:
    """Predict the seconds until READY given how long the present phase has lasted; None when that is unknown.

    Exactly one of the three ages is given, or none (nothing has started yet). A phase that has outlasted its usual
    length
    counts as nearly over only up to twice that length; beyond, the honest answer is unknown.
    """
    if usual.load_s is None:
        return None
    if loading_for_s is not None:
        return _rest(usual.load_s, loading_for_s)
    if booting_for_s is not None:
        rest = _rest(usual.boot_s or 0.0, booting_for_s) if usual.boot_s else 0.0
        return None if rest is None else rest + usual.load_s
    after = (usual.boot_s or 0.0) + usual.load_s
    if queued_for_s is not None:
        rest = _rest(usual.job_wait_s, queued_for_s) if usual.job_wait_s is not None else None
        return None if rest is None else rest + after
    return None if usual.job_wait_s is None else usual.job_wait_s + after


def _rest(usual_s: float, spent_s: float) -> float | None:
    """Say what is left of a phase of usual length after some of it is spent."""
    if spent_s <= usual_s:
        return usual_s - spent_s
    return max(1.0, 0.1 * usual_s) if spent_s <= max(2 * usual_s, 5.0) else None
