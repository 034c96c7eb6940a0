# SPDX-License-Identifier: Apache-2.0
"""Launchers that wait for a newer desired document: one look at the store serves all of them."""

from __future__ import annotations

from dataclasses import dataclass

import anyio

from firstkit.adapters.telemetry.journal import Journal
from firstkit.apps.api.parts import StoreCalls
from firstkit.core.errors import FirstError

journal = Journal("api")

Desired = tuple[int, bytes]
"""Version and document."""


@dataclass(slots=True)
class _Waiter:
    version: int
    answered: anyio.Event
    found: Desired | None = None


class DesiredFeed:
    """Holds at most one waiter for each job: a launcher that asks anew has dropped its older request."""

    def __init__(self, store: StoreCalls, *, poll_s: float) -> None:
        self._store = store
        self._poll_s = poll_s
        self._waiters: dict[str, _Waiter] = {}
        self._wake = anyio.Event()
        self._closed = False

    @property
    def waiting(self) -> int:
        """Count the launchers that are held."""
        return len(self._waiters)

    def nudge(self) -> None:
        """Look at once."""
        self._wake.set()

    def close(self) -> None:
        """Let everybody go with what they have, and hold nobody from now on."""
        self._closed = True
        for waiter in self._waiters.values():
            waiter.answered.set()

    async def newer(self, job: str, *, than: int, within_s: float) -> Desired | None:
        """Wait until the job's desired document is newer than that version; None when the time is over."""
        if self._closed:
            return None
        waiter = _Waiter(version=than, answered=anyio.Event())
        if older := self._waiters.get(job):
            older.answered.set()
        self._waiters[job] = waiter
        if len(self._waiters) == 1:
            self._wake.set()
        try:
            with anyio.move_on_after(within_s):
                await waiter.answered.wait()
        finally:
            if self._waiters.get(job) is waiter:
                del self._waiters[job]
        return waiter.found

    async def run(self) -> None:
        """Look for ever, every `poll_s` seconds while anybody waits and at each nudge."""
        while True:
            self._wake = anyio.Event()
            if not self._waiters:
                await self._wake.wait()
                continue
            await self._look()
            with anyio.move_on_after(self._poll_s):
                await self._wake.wait()

    async def _look(self) -> None:
        have = {job: waiter.version for job, waiter in self._waiters.items()}
        try:
            newer = await self._store.call(lambda store: store.desired_newer(have))
        except FirstError as error:
            journal("desired_unread", reason=error.code)
            return
        for job, version, document in newer:
            waiter = self._waiters.get(job)
            if waiter is not None and version > waiter.version:
                waiter.found = (version, document)
                waiter.answered.set()
