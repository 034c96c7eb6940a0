# SPDX-License-Identifier: Apache-2.0
"""The two clocks a service may read, so that a test can move them."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Tell time and wait."""

    def monotonic_s(self) -> float:
        """Return seconds of a clock that never jumps; differences only."""
        ...

    def wall_s(self) -> float:
        """Return Unix seconds; for records only, never compared with another machine's."""
        ...

    async def sleep_s(self, seconds: float) -> None:
        """Wait; cancellable."""
        ...
