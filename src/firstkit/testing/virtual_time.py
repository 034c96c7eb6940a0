# SPDX-License-Identifier: Apache-2.0
"""An event loop whose time jumps to the next timer, so that the real services live through hours in seconds."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import anyio
import anyio.lowlevel

from firstkit.services.store_thread import StoreThread

P = ParamSpec("P")
T = TypeVar("T")
EPOCH = 1_700_000_000.0
"""The wall time at which a virtual loop begins."""


class _JumpingSelector(selectors.DefaultSelector):  # pyright: ignore[reportUntypedBaseClass, reportGeneralTypeIssues]
    """Never waits: hands the time it should have waited to the loop."""

    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; where nothing is, time passes at once."""
        if timeout is None:
            raise RuntimeError("nothing will ever happen any more: every task waits for another")
        if timeout > 0:
            self._jump(timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop on virtual time. Nothing on it may wait for another thread: see `InlineStoreThread`."""

    def __init__(self) -> None:
        self._virtual = 0.0
        super().__init__(_JumpingSelector(self._pass))

    def _pass(self, seconds: float) -> None:
        self._virtual += seconds

    def time(self) -> float:
        """Return the virtual time."""
        return self._virtual


def run_virtually(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run to the end on a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


def virtually(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Let an asynchronous test run on virtual time."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        run_virtually(lambda: test(*args, **kwargs))

    return run


class VirtualClock:
    """Implements `Clock` on the running loop's time; `now` is also the store's clock."""

    def __init__(self) -> None:
        self.skew_s = 0.0

    def monotonic_s(self) -> float:
        """Return the loop's time."""
        return asyncio.get_running_loop().time()

    def wall_s(self) -> float:
        """Return Unix seconds; `skew_s` sets them back or forth."""
        return EPOCH + self.monotonic_s() + self.skew_s

    async def sleep_s(self, seconds: float) -> None:
        """Wait, virtually."""
        await anyio.sleep(seconds)


class InlineStoreThread(StoreThread):
    """Calls the store on the spot, since virtual time would run away while a thread works.

    `around` is awaited before and after each call, with its name: tests stop the world there.
    """

    def __init__(self, around: Callable[[str], Awaitable[None]] | None = None) -> None:
        super().__init__("inline")
        self._around = around

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one call; a cancellation takes effect before or after it, never inside."""
        name = getattr(function, "__name__", "call")
        await anyio.lowlevel.checkpoint()
        if self._around is not None:
            await self._around(f"before {name}")
        result = function(*args, **kwargs)
        if self._around is not None:
            await self._around(f"after {name}")
        return result
