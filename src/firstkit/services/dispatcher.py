# SPDX-License-Identifier: Apache-2.0
"""Gives each request its place at an instance, or a place in the queue for one; the gateway's one owner of both.

Single-threaded and without a loop of its own: time, randomness and timers come from outside, so a test can move them.
Callbacks to waiters are made when all counts are right again, so they may call anything here.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection
from random import Random
from typing import NamedTuple, Protocol

from firstkit.core.access import Directory, may_see, may_use
from firstkit.core.admission import TurnAway, Why, hold, wait_bound_s
from firstkit.core.catalog import Catalog, Deployment, Model
from firstkit.core.errors import FirstError
from firstkit.core.health.liveness import SOUND, Failure
from firstkit.core.instance.record import Contact
from firstkit.core.principal import Principal
from firstkit.core.reasons import Reason
from firstkit.core.request import RequestClass, RequestFacts
from firstkit.core.routing.candidates import NONE, Rejection, Want
from firstkit.core.routing.decision import Choice, choose, words
from firstkit.core.settings import GatewaySettings
from firstkit.core.topology import Heat, Snapshot
from firstkit.ports.store import Demand
from firstkit.services import refusals
from firstkit.services.leases import Cancel, Lease, Leases, Slots
from firstkit.services.routebook import Offer, RouteBook
from firstkit.services.waiting_room import Bounds, Grant, Stage, Ticket, Waiter, WaitStatus

__all__ = ["Cancel", "Dispatcher", "Failure", "Grant", "Lease", "Ticket", "WaitStatus", "Waiter"]

log = logging.getLogger(__name__)

NUDGE_EVERY_S = 1.0
"""A model is told about at once at most so often; the demand row tells the rest."""


class Later(Protocol):
    """Call something after so many seconds; `loop.call_later` is one."""

    def __call__(self, delay: float, callback: Callable[[], None], /) -> Cancel: ...


class Outlook(NamedTuple):
    """How a model looks to one request."""

    heat: Heat
    reason: Reason
    detail: str
    to_hot_s: float | None


class Dispatcher:
    """See `open` for the life of a request here.

    `on_demand(model)` is called when a model is wanted that no instance can serve. `cut(lease)` is called for each request
    at an instance whose route is gone: end it. Its lease is released by whoever holds it, as always.
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
        self._reserve = settings.batch_reserve
        self._now = now
        self._random = random.random
        self._later = later
        self._on_demand = on_demand
        self._gateway = gateway
        self._cut = cut
        self._leases = Leases(self._freed)
        self._book = RouteBook(self._leases, _bounds(settings))
        self._directory: Directory | None = None
        self._deployments: dict[str, list[Deployment]] = {}
        self._closed: FirstError | None = None
        self._outbox: deque[Callable[[], None]] = deque()
        self._telling = False

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
        return self._directory is not None

    def reload(self, settings: GatewaySettings) -> None:
        """Take other settings; who waits already goes on waiting."""
        self._settings = settings
        self._reserve = settings.batch_reserve
        self._book.reload(_bounds(settings))

    def set_catalog(self, catalog: Catalog) -> None:
        """Take in a revision; whoever waits for what it no longer offers hears so at once."""
        self._directory = Directory.of(catalog)
        self._deployments = {}
        for deployment in catalog.deployments.values():
            self._deployments.setdefault(deployment.model, []).append(deployment)
        for name in catalog.models:
            self._book.offer(name)
        for offer in list(self._book.offers.values()):
            for ticket in list(offer.room):
                if error := self._gone(ticket.facts):
                    self._refuse(ticket, error)
        self._book.forget(known=frozenset(catalog.models))
        self._tell()

    def set_snapshot(self, snapshot: Snapshot) -> None:
        """Take in routes and states; whoever waits is looked at anew at once."""
        self._changed(self._book.apply(snapshot, now=self._now()))

    def still_holds(self, *, age_s: float) -> None:
        """Take in that the last snapshot is still the newest one, last confirmed by the controller so long ago."""
        self._changed(self._book.still_holds(age_s=age_s, now=self._now()))

    def failed(self, instance: str, how: Failure) -> None:
        """Take in how an attempt went; before its lease is released, or the next one gets the place at once."""
        slots = self._leases.get(instance)
        if slots is None:
            return
        now = self._now()
        if not slots.observe(how, now=now):
            return
        if slots.wake is not None:
            slots.wake.cancel()
            slots.wake = None
        if slots.health is not SOUND and slots.listed:
            slots.wake = self._later(max(0.0, slots.health.until - now), lambda: self._lapsed(slots))
        self._look_again(slots.route.model)

    def alive(self, instance: str) -> None:
        """Take in that the watch connection to the instance stands (again)."""
        self.failed(instance, Failure.OK)

    def dead(self, instance: str) -> None:
        """Take in that the watch connection to the instance has closed."""
        self.failed(instance, Failure.REFUSED)

    def _lapsed(self, slots: Slots) -> None:
        slots.wake = None
        self._look_again(slots.route.model)

    # ------------------------------------------------------------------------------------------------ requests

    def resolve(self, asked: str, principal: Principal, cluster: str | None, path: str) -> Model:
        """Find the model that a name means to this caller.

        Raises NotFound (`model_not_found`, `cluster_not_found`, `endpoint_not_supported`), Forbidden
        (`model_not_allowed`) and Unavailable (nothing serves it).
        """
        directory = self._directory
        if directory is None:
            raise refusals.not_ready()
        model = directory.by_name.get(asked)
        if model is None or not may_see(principal, model):
            raise refusals.unknown_model(asked, directory.suggestions(asked, principal))
        if not may_use(principal, model):
            raise refusals.not_allowed(asked)
        deployments = self._deployments.get(model.name)
        if not deployments:
            raise refusals.no_deployment(asked)
        if cluster is not None:
            if cluster not in directory.catalog.clusters:
                raise refusals.unknown_cluster(cluster, self._clusters_for(principal, directory))
            if all(deployment.cluster != cluster for deployment in deployments):
                raise refusals.not_at_cluster(asked, cluster, _clusters(deployments))
        offer = self._book.offers.get(model.name)
        if offer is not None and offer.paths and path not in offer.paths:
            raise refusals.endpoint_not_supported(asked, path, offer.paths)
        return model

    def open(self, facts: RequestFacts, waiter: Waiter) -> Grant | Ticket:
        """Give a request a place at an instance, or in the queue; then its waiter hears once unless it leaves.

        Raises Limited (`queue_full`), Unavailable (`model_starting`, `model_unavailable`), NotFound (model gone).
        """
        offer = self._book.offers.get(facts.model)
        if offer is None:
            raise refusals.unknown_model(facts.asked, ())
        now = self._now()
        offer.wanted_at = now
        if offer.room.size:
            self._serve(offer, now)
            self._tell()
        choice = choose(offer.slots, facts, now=now, random=self._random, reserve=self._reserve)
        slots = choice.chosen
        if slots is not None:
            decision = words(choice)
            lease = self._leases.take(slots)
            return Grant(route=lease.route, lease=lease, decision=decision, attempt=1)
        return self._wait(offer, facts, waiter, choice, attempt=1, failed={}, now=now)

    def again(self, facts: RequestFacts, waiter: Waiter, *, attempt: int, exclude: frozenset[str]) -> Grant | Ticket:
        """Give a request whose attempts at the `exclude`d instances failed a place elsewhere, or ahead in the queue.

        `attempt` is the number of the attempt to come. An excluded instance may be tried again once it has recovered.
        Raises UpstreamError when no attempt or no instance is left; if all that failed are lost, the request waits for
        a new one like any for a model that is not hot, with the errors of `open`.
        """
        offer = self._book.offers.get(facts.model)
        if offer is None:
            raise refusals.unknown_model(facts.asked, ())
        if attempt > self._settings.attempts:
            raise refusals.nowhere_left(facts, attempt)
        now = self._now()
        offer.wanted_at = now
        failed = {name: slots.recoveries for name in exclude if (slots := self._leases.get(name)) is not None}
        if offer.room.size:
            self._serve(offer, now)
            self._tell()
        choice = choose(offer.slots, facts, now=now, random=self._random, failed=failed, reserve=self._reserve)
        slots = choice.chosen
        if slots is not None:
            decision = words(choice)
            lease = self._leases.take(slots)
            return Grant(route=lease.route, lease=lease, decision=decision, attempt=attempt)
        if choice.failed and not choice.busy:
            raise refusals.nowhere_left(facts, attempt)
        return self._wait(offer, facts, waiter, choice, attempt=attempt, failed=failed, now=now)

    def demand(self) -> list[Demand]:
        """Say what is wanted, waits and is in flight here, by model; the controller needs it once a second."""
        now = self._now()
        in_flight: dict[str, dict[str, int]] = {}
        lost: dict[str, list[str]] = {}
        for slots in self._leases:
            route = slots.route
            if slots.in_flight:
                in_flight.setdefault(route.model, {})[route.instance] = slots.in_flight
            if slots.health is not SOUND and slots.health.contact is Contact.LOST:
                lost.setdefault(route.model, []).append(route.instance)
        known = [name for name, offer in self._book.offers.items() if offer.wanted_at is not None or offer.room.size]
        return [
            self._demand_of(model, in_flight.get(model, {}), tuple(lost.get(model, ())), now)
            for model in dict.fromkeys([*known, *in_flight, *lost])
        ]

    def close(self, error: FirstError) -> None:
        """Refuse whoever waits, and whoever would have to wait from now on; what is in flight goes on."""
        self._closed = error
        for offer in self._book.offers.values():
            for ticket in list(offer.room):
                self._refuse(ticket, error)
        self._tell()

    # ------------------------------------------------------------------------------------------------ tickets

    def leave(self, ticket: Ticket) -> None:
        """Give up a place; see `Ticket.leave`."""
        lease = ticket.lease
        if ticket.stage is Stage.WAITING:
            self._take_out(ticket)
        elif ticket.stage is not Stage.TELLING:
            return
        ticket.stage = Stage.LEFT
        ticket.lease = None
        if lease is not None:
            lease.release()

    def status(self, ticket: Ticket) -> WaitStatus:
        """Say how a ticket stands; see `Ticket.status`."""
        now = self._now()
        offer = self._book.offer(ticket.facts.model)
        choice = self._choose(offer, ticket, now)
        outlook = self._outlook(offer, choice, now)
        position = offer.room.position(ticket, now=now) if ticket.stage is Stage.WAITING else 1
        hot = outlook.heat is Heat.HOT
        told = offer.status
        return WaitStatus(
            heat=outlook.heat,
            reason=outlook.reason,
            detail=outlook.detail,
            position=position,
            ahead=position - 1,
            to_hot_s=outlook.to_hot_s,
            expected_s=offer.room.expected_s(position, now=now) if hot else outlook.to_hot_s,
            fraction=told.fraction if told and not hot else None,
            text=told.text if told and not hot else "",
            clusters=_seen_clusters(offer, ticket.facts.cluster),
        )

    def _wait(
        self,
        offer: Offer,
        facts: RequestFacts,
        waiter: Waiter,
        choice: Choice[Slots],
        *,
        attempt: int,
        failed: dict[str, int],
        now: float,
    ) -> Ticket:
        if self._closed is not None:
            raise self._closed
        bound_s = wait_bound_s(max_wait_s=facts.max_wait_s, stream=facts.stream, hold_s=self._settings.hold_s)
        if not choice.busy:
            self._nudge(offer, now)
            self._hold_or_raise(offer, facts, choice, bound_s, now)
        elif bound_s == 0.0:
            raise self._no_longer(offer, facts, choice, position=offer.room.size + 1, waited_s=0.0, now=now)
        ticket = Ticket(self, facts, waiter, attempt=attempt, failed=failed, since=now)
        if attempt == 1:
            offer.room.check(facts, now=now)
            offer.room.join(ticket, now=now)
        else:
            offer.room.return_to_front(ticket, now=now)
        if bound_s is not None:
            ticket.timer = self._later(bound_s, lambda: self._time_is_up(ticket))
        return ticket

    def _hold_or_raise(
        self, offer: Offer, facts: RequestFacts, choice: Choice[Slots], bound_s: float | None, now: float
    ) -> None:
        outlook = self._outlook(offer, choice, now)
        verdict = hold(offer.status, to_hot_s=outlook.to_hot_s, bound_s=bound_s)
        if not isinstance(verdict, TurnAway):
            return
        if verdict.why is Why.MODEL_HELD:
            raise refusals.model_held(facts, outlook.reason, outlook.detail)
        offer.room.keep_place(facts, now=now)
        raise self._no_longer(offer, facts, choice, position=1, waited_s=0.0, now=now)

    def _time_is_up(self, ticket: Ticket) -> None:
        if ticket.stage is not Stage.WAITING:
            return
        now = self._now()
        offer = self._book.offer(ticket.facts.model)
        choice = self._choose(offer, ticket, now)
        position = offer.room.position(ticket, now=now)
        waited_s = now - ticket.since
        error = self._no_longer(offer, ticket.facts, choice, position=position, waited_s=waited_s, now=now)
        offer.room.keep_place(ticket.facts, now=now)
        self._refuse(ticket, error)
        self._tell()

    def _no_longer(
        self, offer: Offer, facts: RequestFacts, choice: Choice[Slots], *, position: int, waited_s: float, now: float
    ) -> FirstError:
        if choice.busy or choice.chosen is not None:
            return refusals.no_place(facts, retry_s=offer.room.retry_s(position, now=now), waited_s=waited_s)
        outlook = self._outlook(offer, choice, now)
        why = refusals.because(outlook.reason, outlook.detail)
        return refusals.starting(facts, outlook.heat, why, to_hot_s=outlook.to_hot_s, waited_s=waited_s)

    # ------------------------------------------------------------------------------------------------ the queue

    def _freed(self, slots: Slots) -> None:
        offer = self._book.offers.get(slots.route.model)
        if offer is not None and offer.room.size:
            self._serve(offer, self._now())
            self._tell()

    def _look_again(self, model: str) -> None:
        offer = self._book.offers.get(model)
        if offer is not None and offer.room.size:
            now = self._now()
            self._serve(offer, now)
            self._send_away(offer, now)
            self._tell()

    def _changed(self, cut: list[Lease]) -> None:
        """Act on a snapshot: end what was cut, serve whoever can be served, send away whoever waits in vain."""
        for lease in cut:
            self._outbox.append(lambda lease=lease: self._cut(lease))
        now = self._now()
        for offer in list(self._book.offers.values()):
            if offer.room.size:
                self._serve(offer, now)
                self._send_away(offer, now)
        if self._directory is not None:
            self._book.forget(known=frozenset(self._directory.catalog.models))
        self._tell()

    def _serve(self, offer: Offer, now: float) -> None:
        """Grant places until none is free for anybody who waits: the returned, then the interactive, then batch."""
        room = offer.room
        for ticket in list(room.front):
            choice = self._choose(offer, ticket, now)
            if choice.chosen is not None:
                room.remove(ticket)
                self._grant(ticket, choice)
            elif choice.failed and not choice.busy:
                self._refuse(ticket, refusals.nowhere_left(ticket.facts, ticket.attempt))
        for kind in RequestClass.INTERACTIVE, RequestClass.BATCH:
            while free := [lane for lane in room.lanes(kind) if self._fits(offer, lane, now) is not None]:
                ticket = room.take(kind, free, now=now)
                choice = None if ticket is None else self._choose(offer, ticket, now)
                if ticket is None or choice is None or choice.chosen is None:
                    break
                self._grant(ticket, choice)

    def _fits(self, offer: Offer, want: Want, now: float) -> Slots | None:
        return choose(offer.slots, want, now=now, random=self._random, reserve=self._reserve).chosen

    def _choose(self, offer: Offer, ticket: Ticket, now: float) -> Choice[Slots]:
        failed = self._still_failed(ticket) if ticket.failed else NONE
        return choose(offer.slots, ticket.lane, now=now, random=self._random, failed=failed, reserve=self._reserve)

    def _still_failed(self, ticket: Ticket) -> Collection[str]:
        """List the instances tried in vain that have not recovered since."""
        failed = ticket.failed.items()
        return [name for name, times in failed if (it := self._leases.get(name)) is not None and it.recoveries == times]

    def _send_away(self, offer: Offer, now: float) -> None:
        """Refuse whoever waits for a model whose starts are held, and has no instance that is merely busy."""
        status = offer.status
        if status is None or not status.held:
            return
        for ticket in list(offer.room):
            choice = self._choose(offer, ticket, now)
            if not choice.busy:
                outlook = self._outlook(offer, choice, now)
                self._refuse(ticket, refusals.model_held(ticket.facts, outlook.reason, outlook.detail))

    def _grant(self, ticket: Ticket, choice: Choice[Slots]) -> None:
        slots = choice.chosen
        if slots is None:
            raise ValueError("nothing was chosen")
        waited = "returned to the queue" if ticket.attempt > 1 else "queued"
        decision = f"{waited} {self._now() - ticket.since:.1f} s, {words(choice)}"
        lease = self._leases.take(slots)
        grant = Grant(route=lease.route, lease=lease, decision=decision, attempt=ticket.attempt)
        self._settle(ticket, lease, lambda: ticket.waiter.granted(grant))

    def _refuse(self, ticket: Ticket, error: FirstError) -> None:
        self._take_out(ticket)
        self._settle(ticket, None, lambda: ticket.waiter.refused(error))

    def _take_out(self, ticket: Ticket) -> None:
        offer = self._book.offers.get(ticket.facts.model)
        if offer is not None:
            offer.room.remove(ticket)
        if ticket.timer is not None:
            ticket.timer.cancel()
            ticket.timer = None

    def _settle(self, ticket: Ticket, lease: Lease | None, tell: Callable[[], None]) -> None:
        """Put a ticket's one message on its way."""
        if ticket.timer is not None:
            ticket.timer.cancel()
            ticket.timer = None
        ticket.stage = Stage.TELLING
        ticket.lease = lease

        def deliver() -> None:
            if ticket.stage is not Stage.TELLING:
                return
            ticket.stage = Stage.TOLD
            ticket.lease = None
            try:
                tell()
            except Exception:
                if lease is not None:
                    lease.release()
                raise

        self._outbox.append(deliver)

    def _tell(self) -> None:
        """Deliver what is in the outbox; calls that come out of it only add to it."""
        if self._telling:
            return
        self._telling = True
        try:
            while self._outbox:
                deliver = self._outbox.popleft()
                try:
                    deliver()
                except Exception:  # one broken waiter must not keep the others from theirs
                    log.exception("waiter_failed")
        finally:
            self._telling = False

    # ------------------------------------------------------------------------------------------------ how it looks

    def _outlook(self, offer: Offer, choice: Choice[Slots], now: float) -> Outlook:
        if choice.chosen is not None or choice.busy:
            return Outlook(Heat.HOT, Reason.SERVING, "", 0.0)
        status = offer.status
        if status is None:
            return Outlook(Heat.COLD, Reason.DEMAND, "the controller has not told of it yet", None)
        if status.heat is not Heat.HOT or status.held:
            return Outlook(status.heat, status.reason, status.detail, offer.to_hot_s(now))
        rejections = {why for _, why in choice.rejected}
        if rejections & {Rejection.LOST, Rejection.SUSPECT, Rejection.TRIED}:
            return Outlook(Heat.WARM, Reason.UNREACHABLE, "its instance does not answer", None)
        if rejections & {Rejection.DRAINING, Rejection.ENDED}:
            return Outlook(Heat.COLD, Reason.DRAINING, "its last instance is going", None)
        return Outlook(Heat.COLD, Reason.DEMAND, "no instance that fits this request is up", None)

    def _nudge(self, offer: Offer, now: float) -> None:
        if offer.nudged_at is None or now - offer.nudged_at >= NUDGE_EVERY_S:
            offer.nudged_at = now
            self._on_demand(offer.model)

    def _gone(self, facts: RequestFacts) -> FirstError | None:
        directory = self._directory
        if directory is None or facts.model not in directory.catalog.models:
            return refusals.unknown_model(facts.asked, ())
        deployments = self._deployments.get(facts.model)
        if not deployments:
            return refusals.no_deployment(facts.asked)
        if facts.cluster is not None and all(deployment.cluster != facts.cluster for deployment in deployments):
            return refusals.not_at_cluster(facts.asked, facts.cluster, _clusters(deployments))
        return None

    def _clusters_for(self, principal: Principal, directory: Directory) -> list[str]:
        models = directory.usable(principal)
        return _clusters([deployment for model in models for deployment in self._deployments.get(model.name, ())])

    def _demand_of(self, model: str, in_flight: dict[str, int], lost: tuple[str, ...], now: float) -> Demand:
        offer = self._book.offers.get(model)
        wanted_at = offer.wanted_at if offer else None
        return Demand(
            gateway=self._gateway,
            model=model,
            waiting=offer.room.size if offer else 0,
            oldest_wait_s=offer.room.oldest_wait_s(now) if offer else None,
            in_flight=in_flight,
            wanted_ago_s=None if wanted_at is None else now - wanted_at,
            lost=lost,
        )


def _bounds(settings: GatewaySettings) -> Bounds:
    return Bounds(total=settings.queue, each=settings.queue_per_principal, kept_s=settings.place_kept_s)


def _clusters(deployments: list[Deployment]) -> list[str]:
    return sorted({deployment.cluster for deployment in deployments if deployment.cluster is not None})


def _seen_clusters(offer: Offer, pinned: str | None) -> tuple[str, ...]:
    if pinned is not None:
        return (pinned,)
    if offer.status is not None and offer.status.clusters:
        return offer.status.clusters
    return tuple(dict.fromkeys(slots.route.cluster for slots in offer.slots))
