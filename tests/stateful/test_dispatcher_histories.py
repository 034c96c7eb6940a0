# SPDX-License-Identifier: Apache-2.0
"""Long random histories of the dispatcher, a hundred thousand steps in all; what must hold is checked after each."""

import re
from collections import Counter
from dataclasses import dataclass
from random import Random

import pytest

from firstkit.core.errors import FirstError, Limited, Unavailable, UpstreamError
from firstkit.core.health.liveness import SOUND, Failure, contact
from firstkit.core.instance.record import Contact
from firstkit.core.request import RequestClass, RequestFacts
from firstkit.core.routing.candidates import NEVER, rejection
from firstkit.core.settings import GatewaySettings
from firstkit.core.topology import Heat, ModelStatus, Route
from firstkit.services.dispatcher import Dispatcher, Grant, Ticket
from firstkit.testing.dispatching import MODEL, DispatcherWorld, catalog, route, status

PRINCIPALS = ("ann", "bob", "cem", "dee", "flooder", "flooder", "flooder", "flooder")
CLUSTERS = ("here", "there")
SETTINGS = GatewaySettings(queue=40, queue_per_principal=15, place_kept_s=20.0, hold_s=30.0, batch_reserve=0.3)


@dataclass
class Known:
    """What the last snapshot that counts said of an instance."""

    cap: int
    draining: bool
    ends_at: float


class Request:
    """A client's request that does something with what it hears, or only remembers it."""

    def __init__(self, history: "History", facts: RequestFacts, *, attempt: int = 1, failed: str = "") -> None:
        self.history = history
        self.facts = facts
        self.attempt = attempt
        self.failed = failed
        self.ticket: Ticket | None = None
        self.grant: Grant | None = None
        self.heard: list[str] = []
        self.left = False
        self.since = history.now

    def granted(self, grant: Grant) -> None:
        self.heard.append("granted")
        assert not self.left
        self.history.take(self, grant)
        self.history.anything_in_between()

    def refused(self, error: FirstError) -> None:
        self.heard.append(error.code)
        assert not self.left
        self.history.refusals[error.code] += 1
        self.history.waiting.discard(self)
        self.history.anything_in_between()


class History:
    """One seeded history. It keeps its own books and compares them with the dispatcher's."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.world = DispatcherWorld(seed=seed, settings=SETTINGS)
        self.dispatcher: Dispatcher = self.world.dispatcher
        self.known: dict[str, Known] = {}
        self.spare: dict[str, Route] = {}
        self.waiting: set[Request] = set()
        self.running: set[Request] = set()
        self.done: list[Request] = []
        self.in_flight: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.grants = 0
        self.number = 0
        self.depth = 0
        self.just_failed: set[str] = set()
        self.dispatcher.set_catalog(catalog())
        self.new_snapshot()

    @property
    def now(self) -> float:
        return self.world.time.now()

    # ------------------------------------------------------------------------------------------------- steps

    def step(self) -> None:
        steps = (
            (self.open, 30),
            (self.finish, 24),
            (self.leave, 4),
            (self.fail, 8),
            (self.watch, 2),
            (self.pass_time, 6),
            (self.new_snapshot, 3),
            (self.renew_snapshot, 2),
            (self.ask, 2),
        )
        self.just_failed.clear()
        (action,) = self.random.choices([it for it, _ in steps], [weight for _, weight in steps])
        action()

    def open(self) -> None:
        facts = self.world.facts(
            self.random.choice(PRINCIPALS),
            cluster=self.random.choice((None, None, None, *CLUSTERS)),
            stream=self.random.random() < 0.7,
            batch=self.random.random() < 0.2,
            max_wait_s=self.random.choice((None, None, None, 0.0, 3.0, 30.0)),
            max_tokens=self.random.choice((None, None, 10, 1000, 100_000)),
        )
        self.send(Request(self, facts))

    def send(self, request: Request) -> None:
        try:
            got = self.dispatcher.open(request.facts, request)
        except (Limited, Unavailable) as error:
            self.refusals[error.code] += 1
            return
        self.note(request, got)

    def note(self, request: Request, got: Grant | Ticket) -> None:
        if isinstance(got, Grant):
            self.take(request, got)
        else:
            request.ticket = got
            self.waiting.add(request)

    def take(self, request: Request, grant: Grant) -> None:
        """Write a grant into the books: it must be one that may be given."""
        instance = grant.route.instance
        self.waiting.discard(request)
        known = self.known[instance]
        assert not known.draining
        assert known.ends_at > self.now
        assert request.facts.cluster in (None, grant.route.cluster)
        assert grant.attempt == request.attempt
        assert grant.decision
        slots = self.dispatcher._leases.get(instance)
        assert slots is not None
        if instance not in self.just_failed:  # a callback may lose an instance while grants for it are on their way
            judged = contact(slots.health, now=self.now)
            assert judged is not Contact.LOST
            assert judged is Contact.ALIVE or not self.free_places(request), "a suspect, though another is alive"
        self.in_flight[instance] += 1
        assert self.in_flight[instance] <= known.cap
        if request.facts.request_class is RequestClass.BATCH:
            told = re.search(r"(\d+) of (\d+) in flight", grant.decision)
            assert told is not None
            assert int(told[1]) < max(1, int(told[2]) - 1), "batch took the place kept for interactive requests"
        self.grants += 1
        request.grant = grant
        self.running.add(request)

    def free_places(self, request: Request) -> list[str]:
        """List the alive instances that would take the request; not the one it comes from."""
        failed = request.ticket.failed if request.ticket else {request.failed}
        want = request.ticket.lane if request.ticket else request.facts
        return [
            slots.route.instance
            for slots in self.dispatcher._book.offers[MODEL].slots
            if rejection(slots, want, now=self.now, failed=failed, reserve=0.3) is None
        ]

    def pick(self, requests: set[Request]) -> Request | None:
        return self.random.choice(sorted(requests, key=lambda it: it.facts.id)) if requests else None

    def finish(self) -> None:
        if request := self.pick(self.running):
            self.release(request)

    def release(self, request: Request) -> None:
        assert request.grant is not None
        self.running.discard(request)
        self.in_flight[request.grant.route.instance] -= 1
        self.done.append(request)
        if self.random.random() < 0.5:
            took_s = self.random.uniform(0.1, 20.0)
            request.grant.lease.took(total_s=took_s, first_s=took_s / 2, tokens=self.random.choice((None, 5, 500)))
        request.grant.lease.release()
        if self.random.random() < 0.1:
            request.grant.lease.release()

    def leave(self) -> None:
        if request := self.pick(self.waiting):
            self.give_up(request)

    def give_up(self, request: Request) -> None:
        assert request.ticket is not None
        request.left = True
        self.waiting.discard(request)
        self.done.append(request)
        request.ticket.leave()
        if self.random.random() < 0.1:
            request.ticket.leave()

    def fail(self) -> None:
        request = self.pick(self.running)
        if request is None or request.grant is None:
            return
        instance = request.grant.route.instance
        how = self.random.choice((Failure.REFUSED, Failure.TIMEOUT, None, Failure.OK, Failure.OK, Failure.OK))
        if how is not None:
            self.just_failed.add(instance)
            self.dispatcher.failed(instance, how)
        if how is Failure.OK or request not in self.running:
            return
        self.release(request)
        retry = Request(self, request.facts, attempt=request.attempt + 1, failed=instance)
        try:
            got = self.dispatcher.again(
                retry.facts, retry, attempt=retry.attempt, exclude=frozenset({instance}), waited_s=self.random.random()
            )
        except (Limited, Unavailable, UpstreamError) as error:
            self.refusals[error.code] += 1
        else:
            assert isinstance(got, Ticket) or got.route.instance != instance
            self.note(retry, got)

    def watch(self) -> None:
        instance = self.random.choice(list(self.known) or ["i-nobody"])
        self.just_failed.add(instance)
        self.random.choice((self.dispatcher.alive, self.dispatcher.alive, self.dispatcher.dead))(instance)

    def pass_time(self) -> None:
        self.world.time.advance(self.random.choice((0.01, 0.1, 1.0, 3.0, 12.0)))

    def new_snapshot(self) -> None:
        """Let instances come, go, drain and change their caps; now and then from a snapshot that is stale."""
        for instance in list(self.spare):
            if self.random.random() < 0.3:
                del self.spare[instance]
        while len(self.spare) < self.random.choice((0, 1, 2, 3, 3)):
            self.number += 1
            cluster = self.random.choice(CLUSTERS)
            self.spare[f"i-{self.number}"] = route(f"i-{self.number}", cluster=cluster)
        for instance, old in self.spare.items():
            self.spare[instance] = route(
                instance,
                cluster=old.cluster,
                cap=self.random.choice((0, 1, 2, 4, 6)),
                draining=self.random.random() < 0.15,
                ends_in_s=self.random.choice((None, None, 5.0, 50.0, 100.0)),
            )
        age_s = self.random.choice((0.0, 0.0, 0.5, 60.0))
        listed = {
            name: Known(
                cap=it.cap, draining=it.draining, ends_at=NEVER if it.ends_in_s is None else self.now + it.ends_in_s
            )
            for name, it in self.spare.items()
        }
        self.known = {**self.known, **listed} if age_s > 10.0 else listed
        self.world.cut.clear()
        self.world.tell(*self.spare.values(), self.state(), age_s=age_s)
        assert age_s < 10.0 or not self.world.cut, "a stale snapshot cuts nothing"
        self.end_what_was_cut()

    def state(self) -> ModelStatus:
        held = self.random.random() < 0.1
        heat = Heat.HOT if self.spare else self.random.choice((Heat.COLD, Heat.QUEUED, Heat.WARM))
        relief = self.random.random() < 0.5
        return status(heat, held=held, to_hot_s=self.random.choice((None, 2.0, 100.0)), relief=relief)

    def renew_snapshot(self) -> None:
        """Hear that the last snapshot still holds: what it omitted and was kept while it was stale is cut now."""
        self.known = {name: it for name, it in self.known.items() if name in self.spare}
        self.world.cut.clear()
        self.dispatcher.still_holds(0.1)
        self.end_what_was_cut()

    def end_what_was_cut(self) -> None:
        for lease in list(self.world.cut):
            assert lease.route.instance not in self.spare
            for request in [it for it in self.running if it.grant is not None and it.grant.lease is lease]:
                self.release(request)

    def ask(self) -> None:
        if (request := self.pick(self.waiting)) and request.ticket is not None:
            told = request.ticket.status()
            assert 1 <= told.position <= len(self.waiting)
            assert told.ahead == told.position - 1
            assert told.to_hot_s is None or told.to_hot_s >= 0.0

    def anything_in_between(self) -> None:
        """From within a callback, do what a client may do at that very moment."""
        if self.depth > 3 or self.random.random() < 0.7:
            return
        self.depth += 1
        self.random.choice((self.finish, self.leave, self.open, self.watch))()
        self.depth -= 1

    # -------------------------------------------------------------------------------------------- what must hold

    def check(self) -> None:
        assert self.dispatcher.in_flight == len(self.running) == self.in_flight.total()
        assert self.dispatcher.waiting == len(self.waiting)
        for slots in self.dispatcher._leases:
            assert slots.in_flight == self.in_flight[slots.route.instance] == len(slots.leases) >= 0
            assert 0 <= slots.trials <= slots.in_flight
            assert slots.health is not SOUND or not slots.trials
        reported = {name: count for row in self.dispatcher.demand() for name, count in row.in_flight.items()}
        assert reported == {name: count for name, count in self.in_flight.items() if count}
        assert not self.dispatcher._turns._outbox

    def check_that_nobody_waits_beside_a_free_place(self) -> None:
        for request in self.waiting:
            free = self.free_places(request)
            assert not free, f"{request.facts.id} waits beside {free}"
            bound = request.facts.max_wait_s
            if bound is None and not request.facts.stream:
                bound = SETTINGS.hold_s
            assert bound is None or self.now - request.since <= bound + 1e-6

    def end(self) -> None:
        while self.running or self.waiting:
            for request in list(self.running):
                if request in self.running:  # what waits and gets a place may end others at that moment
                    self.release(request)
            if not self.running and self.waiting:
                self.dispatcher.close(Unavailable("The gateway is stopping.", code="stopping"))
        self.check()


@pytest.mark.parametrize("seed", range(5))
def test_a_long_history_loses_nobody_and_no_place(seed: int) -> None:
    history = History(seed)
    requests: list[Request] = []
    for number in range(20_000):
        history.step()
        history.check()
        if number % 20 == 0:
            history.check_that_nobody_waits_beside_a_free_place()
            requests += history.waiting
    history.end()
    for request in {*requests, *history.done}:
        outcomes = len(request.heard) + request.left
        assert outcomes == (1 if request.ticket is not None else 0), request.heard
    assert history.dispatcher.in_flight == 0
    assert history.in_flight.total() == 0
    assert history.grants > 2000
    assert {"queue_full", "model_starting", "model_unavailable", "engine_failed", "stopping"} >= set(history.refusals)
    assert len(history.refusals) >= 4, "the history did not come by everything that can happen"
    for slots in history.dispatcher._leases:
        history.dispatcher.failed(slots.route.instance, Failure.OK)
        assert slots.health is SOUND
    assert history.world.time.pending == 0, "a timer was left"


@pytest.mark.parametrize("seed", range(3))
def test_nobody_who_waits_is_overtaken_twice_by_the_same_principal(seed: int) -> None:
    random = Random(seed)
    world = DispatcherWorld(seed=seed, settings=GatewaySettings(queue=500, queue_per_principal=200))
    world.dispatcher.set_catalog(catalog())
    world.tell(route("i-a", cap=3), route("i-b", cap=2))
    running = []
    waiting: dict[str, list] = {}
    overtaken: dict[str, Counter[str]] = {}
    waited_turns: list[int] = []
    for _ in range(10_000):
        who = random.choice(("flooder", "flooder", "flooder", "flooder", *(f"caller-{n}" for n in range(12))))
        if random.random() < 0.55 or not running:
            try:
                caller = world.open(who)
            except Limited:
                assert who == "flooder", "whoever asks for little is never turned away"
                continue
            if caller.grant is not None:
                running.append(caller)
            else:
                waiting.setdefault(who, []).append(caller)
                overtaken.setdefault(who, Counter())
            continue
        before = len(world.order)
        running.pop(random.randrange(len(running))).done()
        for caller in world.order[before:]:
            running.append(caller)
            served = caller.facts.principal.name
            assert waiting[served].pop(0) is caller, "each principal's own requests keep their order"
            waited_turns.append(overtaken[served].total())
            for other, by in overtaken.items():
                if other != served and waiting[other]:
                    by[served] += 1
                    assert by[served] <= 1, f"{other} was overtaken twice by {served}"
            overtaken[served] = Counter()
    assert max(waited_turns) <= 12
    assert sum(turns > 3 for turns in waited_turns) > 100, "hardly anybody waited, so nothing was shown"
