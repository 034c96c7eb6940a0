# SPDX-License-Identifier: Apache-2.0
"""In-flight counts: one number for each instance, changed where a lease is taken and released, nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from firstkit.core.health.liveness import SOUND, Failure, Health
from firstkit.core.health.liveness import observe as observed
from firstkit.core.routing.candidates import NEVER
from firstkit.core.routing.pace import HORIZON_S, Pace
from firstkit.core.topology import Route


class Cancel(Protocol):
    """A timer that may be called off; `asyncio.TimerHandle` is one."""

    def cancel(self) -> object: ...


class Slots:
    """One instance as this gateway sees it: its route, how many requests are in flight there, how its health is judged.

    `ends_at` is the route's absolute end on the monotonic clock; until `carefree_until` no request can outlast it.
    `pace` says how long requests take at its deployment. `listed` tells whether the snapshot has the route: one
    that is gone stays here until its last lease is back. `recoveries` counts how often it came back after a failure, so
    that a request may be sent again to an instance that has recovered since. `trials` counts the requests in flight
    that were sent there since it failed: what runs there from before tells nothing of whether it takes new ones.
    """

    __slots__ = (
        "carefree_until",
        "ends_at",
        "health",
        "in_flight",
        "leases",
        "listed",
        "pace",
        "recoveries",
        "route",
        "trials",
        "wake",
    )

    def __init__(self, route: Route, *, pace: Pace, ends_at: float = NEVER) -> None:
        self.route = route
        self.pace = pace
        self.end(ends_at)
        self.in_flight = 0
        self.health: Health = SOUND
        self.recoveries = 0
        self.trials = 0
        self.leases: set[Lease] = set()
        self.listed = True
        self.wake: Cancel | None = None

    def end(self, at: float) -> None:
        """Take in when the route ends."""
        self.ends_at = at
        self.carefree_until = at - HORIZON_S

    def observe(self, how: Failure, *, now: float) -> bool:
        """Take in evidence about the instance; tell whether it changed the judgement."""
        health = observed(self.health, how, now=now)
        if health is self.health:
            return False
        if health is SOUND:
            self.recoveries += 1
            self.trials = 0
        self.health = health
        return True


class Lease:
    """One request's place at an instance. Whoever is granted it releases it: on success, error and cancel alike.

    `trial` is set when the instance had failed and not answered since: to the number of its recoveries until then.
    """

    __slots__ = ("_leases", "_slots", "route", "trial")

    def __init__(self, leases: Leases, slots: Slots) -> None:
        self._leases: Leases | None = leases
        self._slots = slots
        self.route = slots.route
        self.trial: int | None = None

    @property
    def released(self) -> bool:
        """Tell whether the place has been given back."""
        return self._leases is None

    @property
    def unproven(self) -> bool:
        """Tell whether something is held against the instance, so that an answer from it is worth reporting as OK."""
        return self._slots.health is not SOUND

    def took(self, *, total_s: float, first_s: float | None, tokens: int | None) -> None:
        """Tell how long the request took that was answered whole here."""
        self._slots.pace.note(total_s=total_s, first_s=first_s, tokens=tokens)

    def release(self) -> None:
        """Give the place back, and with it the next waiter its turn. Doing so again does nothing."""
        leases = self._leases
        if leases is not None:
            self._leases = None
            leases.give_back(self, self._slots)


class Leases:
    """All instances' slots. `freed` is called after each release, with the counts already right."""

    def __init__(self, freed: Callable[[Slots], None]) -> None:
        self._slots: dict[str, Slots] = {}
        self._freed = freed
        self.in_flight = 0

    def __iter__(self) -> Iterator[Slots]:
        """Go through the slots of all instances known."""
        return iter(self._slots.values())

    def get(self, instance: str) -> Slots | None:
        """Find an instance's slots."""
        return self._slots.get(instance)

    def add(self, slots: Slots) -> None:
        """Begin to count for an instance."""
        self._slots[slots.route.instance] = slots

    def take(self, slots: Slots) -> Lease:
        """Take a place. Whether there is one has been decided before."""
        lease = Lease(self, slots)
        slots.in_flight += 1
        self.in_flight += 1
        slots.leases.add(lease)
        if slots.health is not SOUND:
            lease.trial = slots.recoveries
            slots.trials += 1
        return lease

    def give_back(self, lease: Lease, slots: Slots) -> None:
        """Count one less; called by the lease itself, once."""
        slots.in_flight -= 1
        self.in_flight -= 1
        slots.leases.discard(lease)
        if lease.trial == slots.recoveries:
            slots.trials -= 1
        if not slots.in_flight and not slots.listed:
            self.retire(slots)
        self._freed(slots)

    def retire(self, slots: Slots) -> None:
        """Forget an instance whose route is gone, as soon as nothing is in flight there."""
        slots.listed = False
        if slots.wake is not None:
            slots.wake.cancel()
            slots.wake = None
        if not slots.in_flight and self._slots.get(slots.route.instance) is slots:
            del self._slots[slots.route.instance]
