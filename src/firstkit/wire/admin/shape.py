# SPDX-License-Identifier: Apache-2.0
"""What the objects of `/api/v1` have in common.

Moments are ISO 8601 in UTC and for people; `…_s` are seconds from the moment of the answer. Nothing secret is in any of
them: no engine key, no digest, no token.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict

_T = TypeVar("_T")


def moment(seconds: float | None) -> datetime | None:
    """Turn Unix seconds into an aware UTC moment."""
    return None if seconds is None else datetime.fromtimestamp(round(seconds, 3), UTC)


def since(now: float, then: float) -> float:
    """Say how long ago that was."""
    return round(max(0.0, now - then), 3)


def count(states: Iterable[str]) -> dict[str, int]:
    """Count by state."""
    counts: dict[str, int] = {}
    for state in states:
        counts[str(state)] = counts.get(str(state), 0) + 1
    return counts


class Shape(BaseModel):
    """What all answers have in common."""

    model_config = ConfigDict(frozen=True)


class Sent(BaseModel):
    """What all requests have in common: an unknown key is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Listing(Shape, Generic[_T]):
    """Any list of objects."""

    data: list[_T]
