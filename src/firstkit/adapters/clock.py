# SPDX-License-Identifier: Apache-2.0
"""The machine's own clocks."""

from __future__ import annotations

import time

import anyio


class SystemClock:
    """Implements `Clock` with the operating system's clocks."""

    def monotonic_s(self) -> float:
        """Return seconds since some moment before the process began."""
        return time.monotonic()

    def wall_s(self) -> float:
        """Return Unix seconds."""
        return time.time()

    async def sleep_s(self, seconds: float) -> None:
        """Wait on the event loop."""
        await anyio.sleep(seconds)
