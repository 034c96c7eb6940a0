# SPDX-License-Identifier: Apache-2.0
"""What this gateway knows of each model: its instances, its state as the snapshot told it, who waits for it."""

from __future__ import annotations

from firstkit.core.estimate import to_hot_left_s
from firstkit.core.routing.candidates import NEVER
from firstkit.core.routing.decision import RELIEF_S
from firstkit.core.routing.pace import Pace
from firstkit.core.topology import ModelStatus, Route, Snapshot
from firstkit.services.leases import Lease, Leases, Slots
from firstkit.services.waiting_room import Bounds, WaitingRoom


class Offer:
    """One model here. `paths` are the endpoints somebody serves it at; empty while that is unknown."""

    __slots__ = ("model", "nudged_at", "paths", "room", "slots", "status", "told_at", "wanted_at")

    def __init__(self, model: str, bounds: Bounds) -> None:
        self.model = model
        self.room = WaitingRoom(bounds)
        self.slots: list[Slots] = []
        self.status: ModelStatus | None = None
        self.told_at = 0.0
        self.paths: frozenset[str] = frozenset()
        self.wanted_at: float | None = None
        self.nudged_at: float | None = None

    def relief_s(self, now: float) -> float | None:
        """Say when another instance will be READY, by what is usual where that is not known; None if none comes."""
        if self.status is None or not self.status.relief:
            return None
        told_s = self.status.relief_s
        return RELIEF_S if told_s is None else max(0.0, told_s - (now - self.told_at))

    def to_hot_s(self, now: float) -> float | None:
        """Count the controller's prediction down."""
        return None if self.status is None else to_hot_left_s(self.status, elapsed_s=now - self.told_at)


class RouteBook:
    """Applies snapshots. A route that a fresh snapshot omits is cut at once; a stale one cuts nothing (law 13).

    The durations in a snapshot count from now: whoever read it has taken its age off them.
    """

    def __init__(self, leases: Leases, bounds: Bounds) -> None:
        self.offers: dict[str, Offer] = {}
        self.version: tuple[int, int] = (0, 0)
        self._bounds = bounds
        self._leases = leases
        self._fresh_for_s = 0.0
        self._fresh_until = float("-inf")
        self._omitted: dict[str, Slots] = {}
        self._paces: dict[str, Pace] = {}

    def fresh(self, now: float) -> bool:
        """Tell whether the last snapshot, or the last word that it still holds, may be trusted."""
        return now < self._fresh_until

    def offer(self, model: str) -> Offer:
        """Return what is known of a model, beginning to keep it."""
        offer = self.offers.get(model)
        if offer is None:
            offer = self.offers[model] = Offer(model, self._bounds)
        return offer

    def forget(self, *, known: frozenset[str]) -> None:
        """Drop models that neither the catalog nor the snapshot has and that nobody uses."""
        for name, offer in list(self.offers.items()):
            if name not in known and offer.status is None and not offer.slots and not offer.room.size:
                del self.offers[name]

    def reload(self, bounds: Bounds) -> None:
        """Take other bounds for all waiting rooms."""
        self._bounds = bounds
        for offer in self.offers.values():
            offer.room.reload(bounds)

    def apply(self, snapshot: Snapshot, *, now: float) -> list[Lease]:
        """Take in a snapshot; return the leases of routes that are gone, whose requests are to be ended.

        The same one as the last (by epoch and version) says that it still holds. A lower one counts like a higher one:
        what the store holds is the truth, and after a restored backup its numbers are lower.
        """
        version = (snapshot.epoch, snapshot.version)
        self._fresh_for_s = snapshot.fresh_for_s
        if version == self.version != (0, 0):
            return self.still_holds(age_s=snapshot.age_s, now=now)
        self.version = version
        self._place_routes(snapshot.routes, now)
        self._place_statuses(snapshot, now)
        return self.still_holds(age_s=snapshot.age_s, now=now)

    def still_holds(self, *, age_s: float, now: float) -> list[Lease]:
        """Take in that the last snapshot, so old by now, is still the newest; if fresh, what it omits is cut."""
        self._fresh_until = now + self._fresh_for_s - age_s
        if not self._omitted or not self.fresh(now):
            return []
        cut: list[Lease] = []
        for slots in self._omitted.values():
            offer = self.offers[slots.route.model]
            offer.slots.remove(slots)
            cut.extend(slots.leases)
            self._leases.retire(slots)
            self._learn_paths(offer)
        self._omitted = {}
        return cut

    def _place_routes(self, routes: tuple[Route, ...], now: float) -> None:
        by_model: dict[str, dict[str, Slots]] = {}
        for route in routes:
            by_model.setdefault(route.model, {})[route.instance] = self._slots_for(route, now)
        omitted: dict[str, Slots] = {}
        for model in self.offers.keys() | by_model.keys():
            offer = self.offer(model)
            listed = by_model.get(model, {})
            kept = [slots for slots in offer.slots if slots.route.instance not in listed]
            offer.slots = [*listed.values(), *kept]
            omitted.update((slots.route.instance, slots) for slots in kept)
        self._omitted = omitted

    def _slots_for(self, route: Route, now: float) -> Slots:
        ends_at = NEVER if route.ends_in_s is None else now + route.ends_in_s
        slots = self._leases.get(route.instance)
        if slots is None or slots.route.model != route.model:
            slots = Slots(route, pace=self._pace(route.deployment))
            self._leases.add(slots)
        slots.route = route
        slots.end(ends_at)
        slots.listed = True
        return slots

    def _pace(self, deployment: str) -> Pace:
        """Give what is known of a deployment's pace: a successor goes on from what its predecessors took."""
        found = self._paces.get(deployment)
        if found is None:
            found = self._paces[deployment] = Pace()
        return found

    def _place_statuses(self, snapshot: Snapshot, now: float) -> None:
        statuses = {status.model: status for status in snapshot.models}
        for model in self.offers.keys() | statuses.keys():
            offer = self.offer(model)
            offer.status = statuses.get(model)
            offer.told_at = now
            self._learn_paths(offer)

    def _learn_paths(self, offer: Offer) -> None:
        served = [slots.route.paths for slots in offer.slots]
        known = all(served)
        told = offer.status.paths if offer.status else frozenset[str]()
        offer.paths = told.union(*served) if known else frozenset()
