# SPDX-License-Identifier: Apache-2.0
"""The one thread of a process in which the store is called, so that no loop ever waits for a database."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, Self, TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

P = ParamSpec("P")
T = TypeVar("T")


class StoreThread:
    """Call store methods one after another in a thread of their own; `async with` ends it.

    A cancelled call lets the transaction finish and drops its result, since half a transaction is none.
    """

    def __init__(self, name: str = "store") -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        # not on the loop: a call that was cancelled ends by waking the loop, which must not wait for it meanwhile
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(partial(self._executor.shutdown, wait=True, cancel_futures=True))

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one call in the store thread; raises what it raises."""
        done = anyio.Event()
        token = anyio.lowlevel.current_token()
        work = partial(function, *args, **kwargs)
        # The thread itself wakes the loop: a future's callback runs on the loop when the work was done quickly, and
        # would wait there for the loop.
        outcome = self._executor.submit(_then_wake, work, done, token)
        await done.wait()
        return outcome.result()


def _then_wake(work: Callable[[], T], done: anyio.Event, token: anyio.lowlevel.EventLoopToken) -> T:
    """Do the work and tell the loop that it is over; a loop that has ended meanwhile needs no word."""
    try:
        return work()
    finally:
        with contextlib.suppress(RuntimeError):
            anyio.from_thread.run_sync(done.set, token=token)
