# SPDX-License-Identifier: Apache-2.0
"""Gives each request its place at an instance, or a place in the queue for one; the gateway's one owner of both.

Single-threaded and without a loop of its own: time, randomness and timers come from outside, so a test can move them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from random import Random
from typing import Protocol

from firstkit.core.admission import Outlook, TurnAway, Why, hold, outlook, wait_bound_s
from firstkit.core.catalog import Catalog, Model
from firstkit.core.errors import FirstError
from firstkit.core.health.liveness import SOUND, Failure
from firstkit.core.instance.record import Contact
from firstkit.core.principal import Principal
from firstkit.core.request import RequestFacts
from firstkit.core.routing.candidates import NONE
from firstkit.core.routing.decision import Choice
from firstkit.core.settings import GatewaySettings
from firstkit.core.topology import Heat, Snapshot
from firstkit.ports.store import Demand
from firstkit.services import refusals
from firstkit.services.leases import Cancel, Lease, Leases, Slots
from firstkit.services.names import Names
from firstkit.services.routebook import Offer, RouteBook
from firstkit.services.turns import Turns
from firstkit.services.waiting_room import Bounds, Grant, Stage, Ticket, Waiter, WaitStatus

__all__ = ["Cancel", "Dispatcher", "Failure", "Grant", "Later", "Lease", "Ticket", "WaitStatus", "Waiter"]

NUDGE_EVERY_S = 1.0
"""A model is told about at once at most so often; the demand row tells the rest."""


class Later(Protocol):
    """Call something after so many seconds; `loop.call_later` is one."""

    def __call__(self, delay: float, callback: Callable[[], None], /) -> Cancel: ...


class Dispatcher:
    """See `open` for the life of a request here.

    `on_demand(model)` is called when a model is wanted that no instance can serve. `cut(lease)` is called for each
    request at an instance whose route is gone: end it. Its lease is released by whoever holds it, as always.
    """

    def __init__(
        self,
        *,
        settings: GatewaySettings,
        now: Callable[[], float],
        random: Random,
        later: Later,
        on_demand: Callable[[str], None],
        gateway: str,
        cut: Callable[[Lease], None] = lambda _lease: None,
    ) -> None:
        self._settings = settings
        self._now = now
        self._later = later
        self._on_demand = on_demand
        self._gateway = gateway
        self._cut = cut
        self._names = Names()
        self._leases = Leases(self._freed)
        self._book = RouteBook(self._leases, _bounds(settings))
        self._turns = Turns(self._leases, random=random.random, reserve=settings.batch_reserve)
        self._closed: FirstError | None = None

    # ------------------------------------------------------------------------------------------------ what is told

    @property
    def in_flight(self) -> int:
        """Count leases not yet released."""
        return self._leases.in_flight

    @property
    def waiting(self) -> int:
        """Count requests in all queues."""
        return sum(offer.room.size for offer in self._book.offers.values())

    @property
    def acked(self) -> tuple[int, int]:
        """Epoch and version of the snapshot acted on."""
        return self._book.version

    @property
    def fresh(self) -> bool:
        """Tell whether that snapshot may still be trusted."""
        return self._book.fresh(self._now())

    @property
    def ready(self) -> bool:
        """Tell whether the catalog has been read, so that requests can be resolved."""
        return self._names.ready

    def reload(self, settings: GatewaySettings) -> None:
        """Take other settings; who waits already goes on waiting."""
        self._settings = settings
        self._turns.reserve = settings.batch_reserve
        self._book.reload(_bounds(settings))

    def set_catalog(self, catalog: Catalog) -> None:
        """Take in a revision; whoever waits for what it no longer offers hears so at once."""
        self._names.set(catalog)
        for name in catalog.models:
            self._book.offer(name)
        for offer in self._book.offers.values():
            for ticket in list(offer.room):
                if error := self._names.gone(ticket.facts):
                    self._turns.refuse(offer, ticket, error)
        self._book.forget(known=self._names.models)
        self._turns.tell()

    def set_snapshot(self, snapshot: Snapshot) -> None:
        """Take in routes and states; whoever waits is looked at anew at once."""
        self._changed(self._book.apply(snapshot, now=self._now()))

    def still_holds(self, age_s: float) -> None:
        """Take in that the last snapshot is still the newest one, last confirmed by the controller so long ago."""
        self._changed(self._book.still_holds(age_s=age_s, now=self._now()))

    def failed(self, instance: str, how: Failure) -> None:
        """Take in how an attempt went; before its lease is released, or the next one gets the place at once."""
        slots = self._leases.get(instance)
        if slots is None or not slots.observe(how, now=self._now()):
            return
        if slots.wake is not None:
            slots.wake.cancel()
            slots.wake = None
        if slots.listed:
            self._wake_when_due(slots)
        self._look_again(slots.route.model)

    def alive(self, instance: str) -> None:
        """Take in that the watch connection to the instance stands (again)."""
        self.failed(instance, Failure.OK)

    def dead(self, instance: str) -> None:
        """Take in that the watch connection to the instance has closed."""
        self.failed(instance, Failure.REFUSED)

    # ------------------------------------------------------------------------------------------------ requests

    def resolve(self, asked: str, principal: Principal, cluster: str | None, path: str) -> Model:
        """Find the model that a name means to this caller.

        Raises NotFound (`model_not_found`, `cluster_not_found`, `endpoint_not_supported`), Forbidden
        (`model_not_allowed`) and Unavailable (nothing serves it, or the gateway has only just started).
        """
        model = self._names.resolve(asked, principal, cluster)
        offer = self._book.offers.get(model.name)
        if offer is not None and offer.paths and path not in offer.paths:
            raise refusals.endpoint_not_supported(asked, path, offer.paths)
        return model

    def open(self, facts: RequestFacts, waiter: Waiter) -> Grant | Ticket:
        """Give a request a place at an instance, or in the queue; then its waiter hears once unless it leaves.

        Raises Limited (`queue_full`), Unavailable (`model_starting`, `model_unavailable`), NotFound (model gone).
        """
        offer, now = self._wanted(facts)
        choice = self._choose(offer, facts, now)
        if choice.chosen is not None:
            return self._turns.take(choice, choice.chosen, attempt=1)
        self._check_wait(offer, facts, choice, waited_s=0.0, now=now)
        offer.room.check(facts, now=now)
        ticket = Ticket(self, facts, waiter, attempt=1, failed={}, since=now)
        offer.room.join(ticket, now=now)
        self._bound(ticket, 0.0)
        return ticket

    def again(
        self, facts: RequestFacts, waiter: Waiter, *, attempt: int, exclude: frozenset[str], waited_s: float = 0.0
    ) -> Grant | Ticket:
        """Give a request whose attempts at the `exclude`d instances failed a place elsewhere, or ahead in the queue.

        `attempt` is the number of the attempt to come; `waited_s` how long ago the request arrived, which is taken off
        its bound and counts as waiting. An excluded instance may be tried again once it has recovered. Raises
        UpstreamError when no attempt or no instance is left; if all that failed are lost, the request waits for a new
        one like any for a model that is not hot, with the errors of `open`.
        """
        if attempt > self._settings.attempts:
            raise refusals.nowhere_left(facts, attempt)
        offer, now = self._wanted(facts)
        choice = self._choose(offer, facts, now, failed=exclude, waited_s=waited_s)
        if choice.chosen is not None:
            return self._turns.take(choice, choice.chosen, attempt=attempt)
        if choice.failed and not choice.busy:
            raise refusals.nowhere_left(facts, attempt)
        self._check_wait(offer, facts, choice, waited_s=waited_s, now=now)
        failed = {name: slots.recoveries for name in exclude if (slots := self._leases.get(name)) is not None}
        ticket = Ticket(self, facts, waiter, attempt=attempt, failed=failed, since=now - waited_s)
        offer.room.return_to_front(ticket, now=now)
        self._bound(ticket, waited_s)
        return ticket

    def demand(self) -> list[Demand]:
        """Say what is wanted, waits and is in flight here, by model; the controller needs it once a second."""
        now = self._now()
        in_flight: dict[str, dict[str, int]] = {}
        lost: dict[str, list[str]] = {}
        for slots in self._leases:
            route = slots.route
            if slots.in_flight:
                in_flight.setdefault(route.model, {})[route.instance] = slots.in_flight
            if slots.health.contact is Contact.LOST:
                lost.setdefault(route.model, []).append(route.instance)
        rows: list[Demand] = []
        for model, offer in self._book.offers.items():
            if offer.wanted_at is None and model not in in_flight and model not in lost:
                continue
            rows.append(
                Demand(
                    gateway=self._gateway,
                    model=model,
                    waiting=offer.room.size,
                    oldest_wait_s=offer.room.oldest_wait_s(now),
                    in_flight=in_flight.get(model, {}),
                    wanted_ago_s=None if offer.wanted_at is None else now - offer.wanted_at,
                    lost=tuple(lost.get(model, ())),
                )
            )
        return rows

    def close(self, error: FirstError) -> None:
        """Refuse whoever waits, and whoever would have to wait from now on; what is in flight goes on."""
        self._closed = error
        for offer in self._book.offers.values():
            for ticket in list(offer.room):
                self._turns.refuse(offer, ticket, copy.copy(error))
        self._turns.tell()

    # ------------------------------------------------------------------------------------------------ tickets

    def leave(self, ticket: Ticket) -> None:
        """Give up a place; see `Ticket.leave`."""
        self._turns.leave(self._book.offers.get(ticket.facts.model), ticket)

    def status(self, ticket: Ticket) -> WaitStatus:
        """Say how a ticket stands; see `Ticket.status`."""
        now = self._now()
        offer = self._book.offer(ticket.facts.model)
        look = self._look(offer, self._turns.choose_for(offer, ticket, now), now)
        waits = ticket.stage is Stage.WAITING
        position = offer.room.position(ticket, now=now) if waits else 1
        hot = look.heat is Heat.HOT
        told = None if hot else offer.status
        return WaitStatus(
            heat=look.heat,
            reason=look.reason,
            detail=look.detail,
            position=position,
            ahead=position - 1,
            to_hot_s=look.to_hot_s,
            expected_s=offer.room.expected_s(position, now=now) if hot else look.to_hot_s,
            fraction=told.fraction if told else None,
            text=told.text if told else "",
            clusters=_clusters(offer, ticket.facts.cluster),
        )

    # ------------------------------------------------------------------------------------------------ within

    def _wanted(self, facts: RequestFacts) -> tuple[Offer, float]:
        """Note that the model is wanted and let those go first who wait and, as time passes, have come to fit."""
        offer = self._book.offers.get(facts.model)
        if offer is None:
            raise refusals.unknown_model(facts.asked, ())
        now = self._now()
        offer.wanted_at = now
        if offer.room.size:
            self._turns.serve(offer, now)
            self._turns.tell()
        return offer, now

    def _choose(
        self, offer: Offer, facts: RequestFacts, now: float, *, failed: Collection[str] = NONE, waited_s: float = 0.0
    ) -> Choice[Slots]:
        """Choose an instance; one that may end too soon where the request must not wait for a better one."""
        choice = self._turns.choose(offer, facts, now, failed=failed)
        must_go = choice.held_back and self._bound_s(facts, waited_s) == 0.0
        return self._turns.choose(offer, facts, now, failed=failed, hold=False) if must_go else choice

    def _check_wait(
        self, offer: Offer, facts: RequestFacts, choice: Choice[Slots], *, waited_s: float, now: float
    ) -> None:
        """Raise if this request is not to wait."""
        if self._closed is not None:
            raise copy.copy(self._closed)
        bound_s = self._bound_s(facts, waited_s)
        if choice.busy:
            if bound_s is not None and bound_s <= 0.0:
                raise self._waited_enough(
                    offer, facts, choice, position=offer.room.size + 1, waited_s=waited_s, now=now
                )
            return
        if offer.nudged_at is None or now - offer.nudged_at >= NUDGE_EVERY_S:
            offer.nudged_at = now
            self._on_demand(offer.model)
        look = self._look(offer, choice, now)
        verdict = hold(offer.status, to_hot_s=look.to_hot_s, bound_s=bound_s)
        if not isinstance(verdict, TurnAway):
            return
        if verdict.why is Why.MODEL_HELD:
            raise refusals.model_held(facts, look.reason, look.detail)
        offer.room.keep_place(facts, now=now)
        raise self._waited_enough(offer, facts, choice, position=1, waited_s=waited_s, now=now)

    def _bound_s(self, facts: RequestFacts, waited_s: float) -> float | None:
        bound_s = wait_bound_s(max_wait_s=facts.max_wait_s, stream=facts.stream, hold_s=self._settings.hold_s)
        return None if bound_s is None else max(0.0, bound_s - waited_s)

    def _bound(self, ticket: Ticket, waited_s: float) -> None:
        bound_s = self._bound_s(ticket.facts, waited_s)
        if bound_s is not None:
            ticket.timer = self._later(bound_s, lambda: self._time_is_up(ticket))

    def _time_is_up(self, ticket: Ticket) -> None:
        if ticket.stage is not Stage.WAITING:
            return
        now = self._now()
        offer = self._book.offer(ticket.facts.model)
        if self._turns.grant_late(offer, ticket, now):
            self._turns.tell()
            return
        choice = self._turns.choose_for(offer, ticket, now)
        position = offer.room.position(ticket, now=now)
        waited_s = now - ticket.since
        error = self._waited_enough(offer, ticket.facts, choice, position=position, waited_s=waited_s, now=now)
        offer.room.keep_place(ticket.facts, now=now)
        self._turns.refuse(offer, ticket, error)
        self._turns.tell()

    def _waited_enough(
        self, offer: Offer, facts: RequestFacts, choice: Choice[Slots], *, position: int, waited_s: float, now: float
    ) -> FirstError:
        look = self._look(offer, choice, now)
        if look.heat is Heat.HOT:
            return refusals.no_place(facts, retry_s=offer.room.retry_s(position, now=now), waited_s=waited_s)
        why = refusals.because(look.reason, look.detail)
        return refusals.starting(facts, look.heat, why, to_hot_s=look.to_hot_s, waited_s=waited_s)

    def _look(self, offer: Offer, choice: Choice[Slots], now: float) -> Outlook:
        return outlook(offer.status, choice, to_hot_s=offer.to_hot_s(now))

    def _freed(self, slots: Slots) -> None:
        offer = self._book.offers.get(slots.route.model)
        if offer is not None and offer.room.size:
            self._turns.serve(offer, self._now())
            self._turns.tell()

    def _wake_when_due(self, slots: Slots) -> None:
        """Look at the queue again when an instance that failed may be tried once more."""
        if slots.health is not SOUND and slots.wake is None:
            slots.wake = self._later(max(0.0, slots.health.until - self._now()), lambda: self._due(slots))

    def _due(self, slots: Slots) -> None:
        slots.wake = None
        self._look_again(slots.route.model)

    def _look_again(self, model: str) -> None:
        offer = self._book.offers.get(model)
        if offer is not None and offer.room.size:
            now = self._now()
            self._turns.serve(offer, now)
            self._turns.send_away(offer, now)
            self._turns.tell()

    def _changed(self, cut: list[Lease]) -> None:
        """Act on a snapshot: end what was cut, serve whoever can be served, send away whoever waits in vain."""
        for lease in cut:
            self._turns.post(lambda lease=lease: self._cut(lease))
        for slots in self._leases:
            if slots.listed and slots.health.until > self._now():
                self._wake_when_due(slots)
        now = self._now()
        for offer in self._book.offers.values():
            if offer.room.size:
                self._turns.serve(offer, now)
                self._turns.send_away(offer, now)
        if self._names.ready:
            self._book.forget(known=self._names.models)
        self._turns.tell()


def _bounds(settings: GatewaySettings) -> Bounds:
    return Bounds(total=settings.queue, each=settings.queue_per_principal, kept_s=settings.place_kept_s)


def _clusters(offer: Offer, pinned: str | None) -> tuple[str, ...]:
    if pinned is not None:
        return (pinned,)
    if offer.status is not None and offer.status.clusters:
        return offer.status.clusters
    return tuple(dict.fromkeys(slots.route.cluster for slots in offer.slots))
