# SPDX-License-Identifier: Apache-2.0
"""Where the requests for one model wait for a place: bounded, fair between principals, interactive before batch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Protocol

from firstkit.core.errors import FirstError, Limited
from firstkit.core.estimate import DrainRate, queue_retry_s, queue_wait_s
from firstkit.core.limits.fairshare import FairQueue
from firstkit.core.reasons import Reason
from firstkit.core.request import RequestClass, RequestFacts
from firstkit.core.routing.candidates import Lane
from firstkit.core.routing.pace import class_of
from firstkit.core.topology import Heat, Route
from firstkit.services.leases import Cancel, Lease

POSITIONS_EVERY_S = 1.0
"""How old the positions told may be in a long queue: counting goes through all of it."""

SHORT = 64
"""Up to this many waiting, positions are always counted anew."""


@dataclass(slots=True, kw_only=True)
class Grant:
    """A place at an instance. `decision` says in words why it is this one; `attempt` counts from 1.

    Not frozen, since one is made for every request; nobody changes it.
    """

    route: Route
    lease: Lease
    decision: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitStatus:
    """What a waiting client is told. `ahead` counts requests before it, `position` is one more.

    `to_hot_s` is the predicted time until an instance is READY (0 for a hot model), `expected_s` until this request has
    its turn as far as that can be told; None is unknown.
    """

    heat: Heat
    reason: Reason
    detail: str
    position: int
    ahead: int
    to_hot_s: float | None
    expected_s: float | None
    fraction: float | None
    text: str
    clusters: tuple[str, ...]


class Waiter(Protocol):
    """Whoever waits hears exactly one of these once, unless it has left before."""

    def granted(self, grant: Grant) -> None:
        """Get the place that was waited for."""
        ...

    def refused(self, error: FirstError) -> None:
        """Hear that waiting is over: the start failed, the time was up, or the gateway stops."""
        ...


class Stage(StrEnum):
    """How far a ticket has come. TOLD and LEFT are final."""

    WAITING = "waiting"
    TELLING = "telling"
    TOLD = "told"
    LEFT = "left"


class Desk(Protocol):
    """What a ticket needs of the dispatcher."""

    def leave(self, ticket: Ticket) -> None: ...
    def status(self, ticket: Ticket) -> WaitStatus: ...


class Ticket:
    """A place in the waiting room. `failed` maps instances tried in vain to how often they had recovered until then."""

    __slots__ = (
        "_desk",
        "attempt",
        "facts",
        "failed",
        "lane",
        "lease",
        "position",
        "since",
        "stage",
        "timer",
        "waiter",
    )

    def __init__(
        self, desk: Desk, facts: RequestFacts, waiter: Waiter, *, attempt: int, failed: dict[str, int], since: float
    ) -> None:
        self._desk = desk
        self.facts = facts
        self.waiter = waiter
        self.attempt = attempt
        self.failed = failed
        self.since = since
        self.lane = Lane(facts.path, facts.cluster, facts.request_class, class_of(facts.max_tokens))
        self.stage = Stage.WAITING
        self.timer: Cancel | None = None
        self.lease: Lease | None = None
        self.position = 0

    def leave(self) -> None:
        """Give up the place; nothing is heard afterwards. A grant on its way is given back. Again: does nothing."""
        self._desk.leave(self)

    def status(self) -> WaitStatus:
        """Say how the model is doing and how many are ahead, as of now."""
        return self._desk.status(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How many requests of one class may wait for a model, in all and of one principal; how long a place is kept."""

    total: int
    each: int
    kept_s: float


class WaitingRoom:
    """One model's waiting requests. Those that already failed elsewhere stand at the front."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._queues = {
            kind: FairQueue[Ticket, Lane](kept_most=max(1, bounds.total))
            for kind in (RequestClass.INTERACTIVE, RequestClass.BATCH)
        }
        self._front: OrderedDict[Ticket, None] = OrderedDict()
        self._rate = DrainRate()
        self._counted_at = float("-inf")
        self._changed = False
        self.size = 0

    def __iter__(self) -> Iterator[Ticket]:
        """Go through all tickets, about in the order of their turns."""
        return chain(self._front, *self._queues.values())

    @property
    def front(self) -> Collection[Ticket]:
        """List the returned requests."""
        return self._front.keys()

    def lanes(self, kind: RequestClass) -> Collection[Lane]:
        """List the lanes of a class in which somebody waits in turn."""
        return self._queues[kind].lanes

    def reload(self, bounds: Bounds) -> None:
        """Take other bounds; nobody who waits already is sent away."""
        self.bounds = bounds
        for queue in self._queues.values():
            queue.kept_most = max(1, bounds.total)

    def oldest_wait_s(self, now: float) -> float | None:
        """Say how long the one that has waited longest has waited; None when nobody waits."""
        return max((now - ticket.since for ticket in self), default=None)

    def check(self, facts: RequestFacts, *, now: float) -> None:
        """Raise Limited if the request may not join.

        Beside the two bounds a principal may have no more places than are free, as soon as others wait too: so a few
        busy ones cannot fill the room and everybody finds a place (dynamic thresholds, Choudhury and Hahne, 1998).
        """
        queue = self._queues[facts.request_class]
        queue.expire(now=now)
        own = queue.size_of(facts.principal.subject)
        total = len(queue)
        free = self.bounds.total - total
        if free > 0 and own < self.bounds.each and (own <= free or own == total):
            return
        retry_s = queue_retry_s(
            queue.ahead_of_next(facts.principal.subject) + len(self._front), self._rate.per_s(now=now)
        )
        whose = f"{own} of your requests" if free > 0 else f"{total} requests"
        raise Limited(
            f"The queue of {facts.asked} takes no more: {whose} already wait. Try again in {retry_s:.0f} s.",
            code="queue_full",
            retry_after_s=retry_s,
        )

    def join(self, ticket: Ticket, *, now: float) -> None:
        """Add a ticket behind its principal's others."""
        if not self.size:
            self._rate.begin(now=now)
        self._queues[ticket.lane.request_class].push(ticket.facts.principal.subject, ticket.lane, ticket)
        self._count(1)
        ticket.position = self.size

    def return_to_front(self, ticket: Ticket, *, now: float) -> None:
        """Add a ticket of a request that has already been at an instance, before all that have not."""
        if not self.size:
            self._rate.begin(now=now)
        self._front[ticket] = None
        self._count(1)
        ticket.position = len(self._front)

    def take(self, kind: RequestClass, lanes: Collection[Lane], *, now: float) -> Ticket:
        """Take the ticket whose turn it is in these lanes, in which somebody waits."""
        queue = self._queues[kind]
        queue.expire(now=now)
        ticket = queue.take(lanes)
        if ticket is None:
            raise LookupError("nobody waits in these lanes")
        self._count(-1)
        self._rate.note(now=now)
        return ticket

    def take_returned(self, ticket: Ticket, *, now: float) -> None:
        """Take a ticket from the front, whose turn it is."""
        del self._front[ticket]
        self._count(-1)
        self._rate.note(now=now)

    def remove(self, ticket: Ticket) -> None:
        """Take out a ticket that leaves or is refused; one that is not here is no error."""
        if ticket in self._front:
            del self._front[ticket]
            self._count(-1)
        elif self._queues[ticket.lane.request_class].remove(ticket):
            self._count(-1)

    def keep_place(self, facts: RequestFacts, *, now: float) -> None:
        """Keep the caller's turn for its retry. To be called before its ticket is removed."""
        self._queues[facts.request_class].keep(facts.principal.subject, until=now + self.bounds.kept_s)

    def position(self, ticket: Ticket, *, now: float) -> int:
        """Count the ticket's position, 1 for the next one."""
        due = self.size <= SHORT or now - self._counted_at >= POSITIONS_EVERY_S
        if self._changed and due:
            self._changed = False
            self._counted_at = now
            for number, waiting in enumerate(self, 1):
                waiting.position = number
        return ticket.position

    def expected_s(self, position: int, *, now: float) -> float | None:
        """Predict the wait of whoever is at that position while the model is hot; None when unknown."""
        return queue_wait_s(position - 1, self._rate.per_s(now=now))

    def retry_s(self, position: int, *, now: float) -> float:
        """Say when a request that gives up at that position should come back."""
        return queue_retry_s(position - 1, self._rate.per_s(now=now))

    def _count(self, change: int) -> None:
        self.size += change
        self._changed = True
