# SPDX-License-Identifier: Apache-2.0
"""Durations and sizes as people write them, and back."""

from __future__ import annotations

import re

_DURATION_PARTS = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)")
_CLOCK = re.compile(r"(?:(\d+)-)?(\d{1,3}):(\d{2})(?::(\d{2}))?")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]i?b?|b)?", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_duration_s(text: str | int | float) -> float:
    """Read a duration into seconds.

    Accepts a number (seconds), "90", "90s", "1h30m", "250ms", "2d", and the schedulers' clock form "[days-]HH:MM:SS"
    ("HH:MM" is hours and minutes, as PBS and people read it; Slurm's own "MM:SS" is not accepted as such).

    Raises ValueError with a sentence for anything else, negative values included.
    """
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        if not 0 <= text < float("inf"):
            raise ValueError("a duration is a number of seconds, zero or more")
        return float(text)
    stripped = str(text).strip().lower()
    if match := _CLOCK.fullmatch(stripped):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        if minutes > 59 or seconds > 59:
            raise ValueError(f"{text!r} is no time of the form HH:MM:SS: minutes and seconds go up to 59")
        return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
    if re.fullmatch(r"\d+(?:\.\d+)?", stripped):
        return float(stripped)
    if stripped and not _DURATION_PARTS.sub("", stripped).strip():
        return sum(float(value) * _SECONDS[unit] for value, unit in _DURATION_PARTS.findall(stripped))
    raise ValueError(f"{text!r} is no duration; write for example 30s, 15m, 2h, 1h30m or 12:00:00")


def parse_size_bytes(text: str | int) -> int:
    """Read a size into bytes: a number, "64MB" (10^6), "64MiB" (2^20), "1.5G". Raises ValueError with a sentence."""
    if isinstance(text, int) and not isinstance(text, bool):
        if text < 0:
            raise ValueError("a size is a number of bytes, zero or more")
        return text
    match = _SIZE.fullmatch(str(text).strip())
    if not match:
        raise ValueError(f"{text!r} is no size; write for example 64MB, 512KiB or 2G")
    unit = (match[2] or "").lower()
    base = 1024 if "i" in unit else 1000
    return int(float(match[1]) * base ** _POWERS[unit.rstrip("b").rstrip("i")])


def format_duration(seconds: float) -> str:
    """Write seconds as a person would say them: "0.8 s", "45 s", "3 min", "2 h 5 min", "3 d 4 h"."""
    if round(seconds, 1) < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def format_bytes(count: int) -> str:
    """Write a size in decimal units: "812 B", "64 MB"."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if round(value) < 1000:
            return f"{value:.0f} {unit}" if round(value, 1) >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
