# SPDX-License-Identifier: Apache-2.0
"""What the api is made of: the store behind one thread, nudges, and the reader of a catalog's document."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from firstkit.core.catalog import Catalog
from firstkit.ports.store import Store
from firstkit.services.store_thread import StoreThread

_T = TypeVar("_T")


class Nudges(Protocol):
    """Tell the other processes that something has changed; never blocks and never fails."""

    def send(self, topic: str) -> None: ...


class StoreCalls:
    """The one way to the store: each call is one short transaction in the process's store thread."""

    def __init__(self, store: Store, thread: StoreThread) -> None:
        self._store = store
        self._thread = thread

    async def call(self, function: Callable[[Store], _T]) -> _T:
        """Run `function` with the store; raises what it raises."""
        return await self._thread.call(function, self._store)


class Reader(Protocol):
    """Read the catalog of an applied revision; raises ConfigError."""

    def __call__(self, document: str, *, revision: int) -> Catalog: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What `Api` is given. `monotonic` is seconds of this process."""

    store: Store
    thread: StoreThread
    nudges: Nudges
    read_catalog: Reader
    monotonic: Callable[[], float]
    poll_s: float = 1.0
    hold_limit_s: float = 25.0
