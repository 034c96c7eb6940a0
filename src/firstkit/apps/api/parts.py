# SPDX-License-Identifier: Apache-2.0
"""What the api is made of: the store behind one thread, nudges, and the reader of a catalog's document."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from firstkit.core.catalog import Catalog
from firstkit.core.findings import Finding
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


class Checked(Protocol):
    """A document without mistakes."""

    @property
    def document(self) -> str: ...
    @property
    def catalog(self) -> Catalog: ...
    @property
    def warnings(self) -> tuple[Finding, ...]: ...
    def settings_against(self, old: Any) -> list[str]:
        """Say which process settings differ from those of another checked document."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What `Api` is given. `check` reads a document under a name with all its mistakes (ConfigError).

    Nudges make everything fast; each `poll_s` seconds the store is asked all the same, since a nudge may be lost.
    """

    store: Store
    thread: StoreThread
    nudges: Nudges
    read_catalog: Reader
    check: Callable[[str, str], Checked]
    monotonic: Callable[[], float]
    poll_s: float = 2.0
    watch_s: float = 1.0
    hold_limit_s: float = 25.0
