# SPDX-License-Identifier: Apache-2.0
"""Waiting with a deadline. `asyncio.wait_for` swallows a cancellation that meets its result (until Python 3.12)."""

from __future__ import annotations

import asyncio
from typing import Coroutine, TypeVar

_T = TypeVar("_T")


async def within(seconds: float, work: Coroutine[object, object, _T]) -> _T:
    """Give the result of `work`, or cancel it after so many seconds and raise `asyncio.TimeoutError`."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
        in_time = task.done()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        elif not task.cancelled():
            task.exception()  # it has been seen, should we be cancelled in this very moment
    if not in_time:
        raise asyncio.TimeoutError
    return task.result()


async def happens(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event, and tell whether it happened in time."""
    if event.is_set():
        return True
    try:
        await within(seconds, event.wait())
    except asyncio.TimeoutError:
        return False
    return True
