# SPDX-License-Identifier: Apache-2.0
"""PBS's times: durations as HH:MM:SS, moments as ctime in the zone of whoever asks (we ask in UTC)."""

from __future__ import annotations

import calendar
import re
from typing import Any

IN_UTC = ("TZ=UTC0",)
"""PBS's commands write moments by the zone of their own environment, and do not say which: this belongs into it."""
_MONTHS = {name: index for index, name in enumerate(calendar.month_abbr) if name}
_DURATION = re.compile(r"(\d{1,9}:){0,2}\d{1,9}(\.\d+)?", re.ASCII)
_STALE_S = 600.0


def write_duration(seconds: float) -> str:
    """Write a duration as PBS takes it, rounded up."""
    whole = -int(-seconds // 1)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


def read_duration(value: Any) -> float | None:
    """Read HH:MM:SS, MM:SS, or seconds."""
    text = str(value)
    if not _DURATION.fullmatch(text):
        return None
    seconds = 0.0
    for part in text.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds


def read_moment(value: Any) -> float | None:
    """Read `Tue Nov 24 21:39:05 2026`, written in UTC."""
    try:
        _, month, day, clock, year = str(value).split()
        if len(year) != 4:
            return None
        hour, minute, second = (int(part) for part in clock.split(":"))
        return float(calendar.timegm((int(year), _MONTHS[month], int(day), hour, minute, second)))
    except (ValueError, KeyError, OverflowError):
        return None


def elapsed_s(*, asked_at: float | None, started_at: float | None, used_s: float | None) -> float | None:
    """Say how long a job has run.

    By the moments of one listing, which is exact; by the walltime used, which the nodes tell every few minutes only,
    where the moments contradict it: the job was suspended, or the clocks of two machines of the site differ.
    """
    by_moments = asked_at - started_at if asked_at is not None and started_at is not None else None
    if by_moments is None or (used_s is not None and not used_s - 60.0 <= by_moments <= used_s + _STALE_S):
        return used_s
    return max(0.0, by_moments)
