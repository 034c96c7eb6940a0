# SPDX-License-Identifier: Apache-2.0
"""The controller's side of the store: its term, what it reads at each tick, and what it writes under the term."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from firstkit.core.errors import FirstError
from firstkit.core.job.record import Job
from firstkit.ports.clock import Clock
from firstkit.ports.store import ControllerStore, Fenced, GatewayRow, Override, Report, Revision, Store, Term
from firstkit.services.store_thread import StoreThread
from firstkit.services.world import World

MEMORY_S = 24 * 3600.0
"""Ended jobs and instances are remembered this long, for failures in a row and for people who ask why."""
RECORDS_S = 7 * 24 * 3600.0
"""And this long in the store."""
PRUNE_EVERY_S = 3600.0
GATEWAY_LIVE_S = 15.0
"""Longer than a store that is busy may hold up a heartbeat: whose row is older has nothing in flight any more."""
RENEWALS_PER_TERM = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """One look at the store."""

    now: float
    term: Term
    revision: Revision | None
    overrides: tuple[Override, ...]
    gateways: tuple[GatewayRow, ...]
    reports: tuple[Report, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheritance:
    """What the last controller left: the world, and the versions that its successor's must exceed."""

    now: float
    term: Term
    world: World
    snapshot_version: int
    desired_versions: dict[str, int]


class Ledger:
    """Read and write the store in its thread. Whatever is written is refused once another controller has taken over."""

    def __init__(self, *, store: Store, thread: StoreThread, clock: Clock, holder: str, ttl_s: float) -> None:
        self._store = store
        self._thread = thread
        self._clock = clock
        self._holder = holder
        self._ttl_s = ttl_s
        self._held: Term | None = None
        self._revision: Revision | None = None
        self._renewed_at = float("-inf")
        self._pruned_at = float("-inf")

    @property
    def term(self) -> Term:
        """The term that is held."""
        if self._held is None:
            raise Fenced("This controller holds no term.")
        return self._held

    async def take_over(self) -> Inheritance | None:
        """Take the term and read everything that the last controller knew; None while another one holds it."""
        found = await self._thread.call(self._load)
        if found is not None:
            self._held, self._renewed_at = found.term, self._clock.monotonic_s()
        return found

    def _load(self) -> Inheritance | None:
        store = self._store
        term = store.take_term(holder=self._holder, ttl_s=self._ttl_s)
        if term is None:
            return None
        now = store.now()
        world = World(
            jobs=store.jobs(ended_since=now - MEMORY_S),
            instances=store.instances(ended_since=now - MEMORY_S),
            starts=store.starts(),
        )
        snapshot, _ = store.snapshot(newer_than=(-1, -1))
        documents = store.desired_newer({job.id: -1 for job in world.live_jobs()})
        return Inheritance(
            now=now,
            term=term,
            world=world,
            snapshot_version=snapshot.version if snapshot is not None else 0,
            desired_versions={job: version for job, version, _ in documents},
        )

    async def give_up(self) -> None:
        """Let the next controller take over at once."""
        if self._held is not None:
            with contextlib.suppress(FirstError):
                await self._thread.call(self._store.give_up_term, self._held)

    async def gather(self) -> Inputs:
        """Read everything that a tick looks at; renew the term when it is time. Raises Fenced when it is lost."""
        inputs = await self._thread.call(self._gather, self.term)
        self._held = inputs.term
        return inputs

    def _gather(self, term: Term) -> Inputs:
        store, moment = self._store, self._clock.monotonic_s()
        if moment - self._renewed_at >= self._ttl_s / RENEWALS_PER_TERM:
            renewed = store.take_term(holder=self._holder, ttl_s=self._ttl_s)
            if renewed is None or renewed.epoch != term.epoch:
                raise Fenced("Another controller has taken over; this one stops.")
            self._renewed_at = moment
        return store.together(lambda: self._read(term))

    def _read(self, term: Term) -> Inputs:
        store = self._store
        self._revision = store.current_revision(self._revision)
        return Inputs(
            now=store.now(),
            term=term,
            revision=self._revision,
            overrides=tuple(store.overrides()),
            gateways=tuple(store.gateways(within_s=GATEWAY_LIVE_S)),
            reports=tuple(store.reports()),
        )

    async def revisions(self) -> list[Revision]:
        """List the catalog's revisions, newest first."""
        return await self._thread.call(self._store.revisions)

    async def save(self, world: World, *, check: bool) -> None:
        """Save what has changed in one transaction; what cannot be saved stays to be saved.

        `check`: write even if nothing has changed, since writing asks whether the term still holds.
        """
        dirty = world.take_dirty()
        if not dirty and not check:
            return
        try:
            await self._thread.call(
                self._store.save,
                self.term,
                jobs=list(dirty.jobs.values()),
                instances=list(dirty.instances.values()),
                events=dirty.events,
                starts=dirty.starts,
            )
        except FirstError:
            world.put_back(dirty)
            raise
        world.saved(dirty)

    async def publish(
        self,
        documents: Sequence[tuple[Job, int, bytes]],
        snapshot: Callable[[ControllerStore], bool] | None,
    ) -> bool:
        """Write desired documents and, if one is due, the snapshot; tell whether the latter says anything new."""
        if not documents and snapshot is None:
            return False
        term = self.term

        def write_all(store: ControllerStore) -> bool:
            for job, version, document in documents:
                store.set_desired(term, job=job.id, version=version, document=document)
            return snapshot(store) if snapshot is not None else False

        return await self._thread.call(write_all, self._store)

    async def prune(self, now: float) -> None:
        """Forget old records now and then."""
        if now - self._pruned_at >= PRUNE_EVERY_S:
            self._pruned_at = now
            await self._thread.call(self._store.prune, self.term, ended_before=now - RECORDS_S, usage_before=None)
