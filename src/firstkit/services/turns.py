# SPDX-License-Identifier: Apache-2.0
"""Who among the waiting gets which place, and the one message that each of them hears."""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Callable, Collection

from firstkit.core.admission import outlook
from firstkit.core.errors import FirstError
from firstkit.core.request import RequestClass
from firstkit.core.routing.candidates import NONE, Lane, Want
from firstkit.core.routing.decision import Choice, choose, words
from firstkit.services import refusals
from firstkit.services.leases import Lease, Leases, Slots
from firstkit.services.routebook import Offer
from firstkit.services.waiting_room import Grant, Stage, Ticket

log = logging.getLogger(__name__)


class Turns:
    """Matches free places with the waiting. Messages wait in an outbox until all counts are right again.

    So a waiter may call anything of the dispatcher when it hears its message: what comes of that goes into the outbox
    too, and no chain of refusals can grow the stack.
    """

    def __init__(self, leases: Leases, *, random: Callable[[], float], reserve: float) -> None:
        self.reserve = reserve
        self._leases = leases
        self._random = random
        self._outbox: deque[Callable[[], None]] = deque()
        self._telling = False

    def choose(
        self, offer: Offer, want: Want, now: float, *, failed: Collection[str] = NONE, hold: bool = True
    ) -> Choice[Slots]:
        """Choose an instance of the model; `hold`: none rather than one that may end too soon, if another one comes."""
        relief_s = offer.relief_s(now) if hold else None
        return choose(
            offer.slots, want, now=now, random=self._random, failed=failed, reserve=self.reserve, relief_s=relief_s
        )

    def choose_for(self, offer: Offer, ticket: Ticket, now: float, *, hold: bool = True) -> Choice[Slots]:
        """Choose an instance for a request that waits; one tried in vain counts again once it has recovered."""
        failed: Collection[str] = NONE
        if ticket.failed:
            known = ((name, times, self._leases.get(name)) for name, times in ticket.failed.items())
            failed = [name for name, times, slots in known if slots is not None and slots.recoveries == times]
        return self.choose(offer, ticket.lane, now, failed=failed, hold=hold)

    def take(self, choice: Choice[Slots], slots: Slots, *, attempt: int, waited: str = "") -> Grant:
        """Take the chosen place."""
        decision = waited + words(choice)
        lease = self._leases.take(slots)
        return Grant(route=slots.route, lease=lease, decision=decision, attempt=attempt)

    def grant_late(self, offer: Offer, ticket: Ticket, now: float) -> bool:
        """Grant a place at an instance that may end too soon, to one that can wait no longer; tell if there was one."""
        choice = self.choose_for(offer, ticket, now, hold=False)
        if choice.chosen is None:
            return False
        offer.room.remove(ticket)
        self._grant(ticket, choice, choice.chosen, now)
        return True

    def serve(self, offer: Offer, now: float) -> None:
        """Grant places until none is free for anybody who waits: interactive before batch, the returned first."""
        room = offer.room
        for kind in RequestClass.INTERACTIVE, RequestClass.BATCH:
            for ticket in [ticket for ticket in room.front if ticket.lane.request_class is kind]:
                choice = self.choose_for(offer, ticket, now)
                if choice.chosen is not None:
                    room.take_returned(ticket, now=now)
                    self._grant(ticket, choice, choice.chosen, now)
                elif choice.failed and not choice.busy:
                    self.refuse(offer, ticket, refusals.nowhere_left(ticket.facts, ticket.attempt))
            while free := self._free(offer, room.lanes(kind), now):
                ticket = room.take(kind, free, now=now)
                choice, slots = free[ticket.lane]
                self._grant(ticket, choice, slots, now)

    def _free(self, offer: Offer, lanes: Collection[Lane], now: float) -> dict[Lane, tuple[Choice[Slots], Slots]]:
        """Find the lanes for which there is a place, and which one."""
        free: dict[Lane, tuple[Choice[Slots], Slots]] = {}
        for lane in lanes:
            choice = self.choose(offer, lane, now)
            if choice.chosen is not None:
                free[lane] = choice, choice.chosen
        return free

    def send_away(self, offer: Offer, now: float) -> None:
        """Refuse whoever waits for a model whose starts are held and has no instance that is merely busy."""
        status = offer.status
        if status is None or not status.held:
            return
        for ticket in list(offer.room):
            choice = self.choose_for(offer, ticket, now)
            if not choice.busy:
                look = outlook(status, choice, to_hot_s=None)
                self.refuse(offer, ticket, refusals.model_held(ticket.facts, look.reason, look.detail))

    def refuse(self, offer: Offer, ticket: Ticket, error: FirstError) -> None:
        """End a wait with an error."""
        offer.room.remove(ticket)
        self._settle(ticket, None, lambda: ticket.waiter.refused(error))

    def leave(self, offer: Offer | None, ticket: Ticket) -> None:
        """End a wait without a word; a grant on its way is given back."""
        lease = ticket.lease
        if ticket.stage is Stage.WAITING and offer is not None:
            offer.room.remove(ticket)
        elif ticket.stage is not Stage.TELLING:
            return
        _stop_timer(ticket)
        ticket.stage = Stage.LEFT
        ticket.lease = None
        if lease is not None:
            lease.release()

    def post(self, message: Callable[[], None]) -> None:
        """Put a message into the outbox."""
        self._outbox.append(message)

    def tell(self) -> None:
        """Deliver what is in the outbox; calls that come out of it only add to it."""
        if self._telling:
            return
        self._telling = True
        try:
            while self._outbox:
                message = self._outbox.popleft()
                try:
                    message()
                except Exception as error:  # noqa: BLE001 one broken waiter must not keep the others from theirs
                    _tell_of(error)
        finally:
            self._telling = False

    def _grant(self, ticket: Ticket, choice: Choice[Slots], slots: Slots, now: float) -> None:
        waited = f"{'returned, ' if ticket.attempt > 1 else ''}waited {now - ticket.since:.1f} s, "
        grant = self.take(choice, slots, attempt=ticket.attempt, waited=waited)
        self._settle(ticket, grant.lease, lambda: ticket.waiter.granted(grant))

    def _settle(self, ticket: Ticket, lease: Lease | None, message: Callable[[], None]) -> None:
        _stop_timer(ticket)
        ticket.stage = Stage.TELLING
        ticket.lease = lease

        def deliver() -> None:
            if ticket.stage is not Stage.TELLING:
                return
            ticket.stage = Stage.TOLD
            ticket.lease = None
            try:
                message()
            except Exception:
                if lease is not None:
                    lease.release()
                raise

        self.post(deliver)


def _stop_timer(ticket: Ticket) -> None:
    if ticket.timer is not None:
        ticket.timer.cancel()
        ticket.timer = None


def _tell_of(error: Exception) -> None:
    """Log where a waiter broke, without the error's own words: they might hold what a client sent (law 10)."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "nowhere"
    log.error("waiter_failed error=%s at=%s", type(error).__name__, where)
