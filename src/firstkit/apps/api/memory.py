# SPDX-License-Identifier: Apache-2.0
"""What the api knows without asking: the catalog and the snapshot as last read, kept fresh in the background."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import anyio

from firstkit.adapters.telemetry.journal import Journal
from firstkit.apps.api.parts import Reader, StoreCalls
from firstkit.core.access import Directory
from firstkit.core.catalog import Catalog
from firstkit.core.errors import ConfigError, FirstError, Unavailable
from firstkit.core.reasons import Reason
from firstkit.core.topology import Heat, ModelStatus, Snapshot
from firstkit.ports.store import GatewayRow, Revision, Store
from firstkit.services.refusals import not_ready

journal = Journal("api")
GATEWAY_SILENT_S = 15.0
"""A gateway writes once a second; one that has been silent for so long is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One consistent picture. `read_at` is this process's monotonic clock when the snapshot was read.

    `waiting` says by model how many requests wait at all gateways.
    """

    directory: Directory
    applied_at: float
    snapshot: Snapshot
    statuses: dict[str, ModelStatus]
    read_at: float
    waiting: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def catalog(self) -> Catalog:
        return self.directory.catalog

    def status(self, model: str) -> ModelStatus:
        """Say how a model is doing; one that the controller has not looked at yet is cold."""
        found = self.statuses.get(model)
        if found is not None:
            return found
        deployments = self.catalog.deployments_of(model)
        return ModelStatus(
            model=model,
            heat=Heat.COLD,
            reason=Reason.NO_DEMAND,
            detail="the controller has not looked at it yet",
            clusters=tuple(dict.fromkeys(item.cluster or item.name for item in deployments)),
            max_model_len=self.catalog.models[model].max_model_len,
        )


class Memory:
    """Holds the newest picture; reading it never waits. `changed` listeners are called after each new one."""

    def __init__(
        self, store: StoreCalls, *, read_catalog: Reader, monotonic: Callable[[], float], poll_s: float
    ) -> None:
        self._store = store
        self._read = read_catalog
        self._monotonic = monotonic
        self._poll_s = poll_s
        self._nudged = anyio.Event()
        self._known: Known | None = None
        self._away = ""
        self._refused = -1
        self._controller_silent_s = float("inf")
        self.listeners: list[Callable[[], None]] = []

    @property
    def away(self) -> str:
        """Say why the store did not answer at the last look; empty when it did."""
        return self._away

    def known(self) -> Known:
        """Return the picture; Unavailable only before the first one."""
        if self._known is None:
            raise Unavailable(
                "the catalog has not been read yet; try again in a moment", code="starting", retry_after_s=1.0
            )
        return self._known

    def offered(self) -> Known:
        """Return the picture once a revision has been read: before that, a listing would say that there is nothing."""
        known = self.known()
        if not known.catalog.revision:
            raise not_ready()
        return known

    def age_s(self) -> float:
        """Say how long ago the snapshot was read, from when its durations count."""
        return self._monotonic() - self.known().read_at

    @property
    def controller_silent_s(self) -> float:
        """Say how long ago the controller gave its last sign of life, as of the last look."""
        return self._controller_silent_s

    def nudge(self) -> None:
        """Look at once instead of at the next poll."""
        self._nudged.set()

    async def run(self) -> None:
        """Look for ever: at each nudge, else every `poll_s` seconds."""
        while True:
            self._nudged = anyio.Event()
            await self.refresh()
            with anyio.move_on_after(self._poll_s):
                await self._nudged.wait()

    async def refresh(self) -> None:
        """Look once; a store that is away leaves the picture as it is."""
        try:
            await self._look()
        except FirstError as error:
            if error.message != self._away:
                journal("store_away", reason=error.code)
            self._away = error.message
        else:
            self._away = ""

    async def _look(self) -> None:
        before = self._known
        have = (before.snapshot.epoch, before.snapshot.version) if before else (-1, -1)

        def look(store: Store) -> tuple[Snapshot | None, float, Revision | None, list[GatewayRow]]:
            snapshot, age_s = store.snapshot(newer_than=have)
            return snapshot, age_s, store.current_revision(), store.gateways(within_s=GATEWAY_SILENT_S)

        snapshot, self._controller_silent_s, revision, gateways = await self._store.call(look)
        directory, waiting = self._directory(revision), _waiting(gateways)
        if before is not None and snapshot is None and directory is before.directory and waiting == before.waiting:
            return
        picture = snapshot or (before.snapshot if before else Snapshot())
        self._known = Known(
            directory=directory,
            applied_at=revision.applied_at if revision else 0.0,
            snapshot=picture,
            statuses={item.model: item for item in picture.models},
            read_at=self._monotonic() if snapshot is not None or before is None else before.read_at,
            waiting=waiting,
        )
        for listener in self.listeners:
            listener()

    def _directory(self, revision: Revision | None) -> Directory:
        """Index the revision's catalog, unless it is the one at hand."""
        before = self._known
        if revision is None:
            return before.directory if before else Directory.of(Catalog())
        if before is not None and revision.number in {before.catalog.revision, self._refused}:
            return before.directory
        try:
            catalog = self._read(revision.document, revision=revision.number)
        except ConfigError as error:  # an older or newer firstkit applied it: go on with what is known
            journal("revision_unreadable", revision=revision.number, problem=error.message)
            self._refused = revision.number
            return before.directory if before else Directory.of(Catalog())
        return Directory.of(catalog)


def _waiting(gateways: Sequence[GatewayRow]) -> dict[str, int]:
    """Add up by model what waits at the gateways."""
    found: dict[str, int] = {}
    for row in gateways:
        for demand in row.demand:
            if demand.waiting:
                found[demand.model] = found.get(demand.model, 0) + demand.waiting
    return found
