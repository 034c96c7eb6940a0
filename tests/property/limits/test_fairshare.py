# SPDX-License-Identifier: Apache-2.0
"""The fair queue against a plain list that does the same slowly."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from firstkit.core.limits.fairshare import FairQueue

LANES = ("x", "y", "z")
PRINCIPALS = ("ann", "bob", "cem", "dee")

pushes = st.tuples(st.just("push"), st.sampled_from(PRINCIPALS), st.sampled_from(LANES))
takes = st.tuples(st.just("take"), st.frozensets(st.sampled_from(LANES)), st.none())
removals = st.tuples(st.just("remove"), st.integers(0, 30), st.none())
keeps = st.tuples(st.just("keep"), st.sampled_from(PRINCIPALS), st.floats(0.1, 5.0))
expiries = st.tuples(st.just("expire"), st.floats(0.0, 3.0), st.none())


@dataclass
class SlowQueue:
    """The same by searching through lists."""

    turns: list[str] = field(default_factory=list)
    items: list[tuple[str, str, int]] = field(default_factory=list)
    kept: list[tuple[float, str]] = field(default_factory=list)

    def tidy(self) -> None:
        busy = {principal for principal, _, _ in self.items} | {principal for _, principal in self.kept}
        self.turns = [principal for principal in self.turns if principal in busy]

    def push(self, principal: str, lane: str, item: int) -> None:
        self.kept = [entry for entry in self.kept if entry[1] != principal]
        self.items.append((principal, lane, item))
        if principal not in self.turns:
            self.turns.append(principal)

    def take(self, lanes: frozenset[str]) -> int | None:
        for principal in list(self.turns):
            for entry in self.items:
                if entry[0] == principal and entry[1] in lanes:
                    self.items.remove(entry)
                    self.turns.remove(principal)
                    self.turns.append(principal)
                    self.tidy()
                    return entry[2]
        return None

    def remove(self, item: int) -> bool:
        before = len(self.items)
        self.items = [entry for entry in self.items if entry[2] != item]
        self.tidy()
        return len(self.items) < before

    def keep(self, principal: str, until: float) -> None:
        self.kept = [*[entry for entry in self.kept if entry[1] != principal], (until, principal)]
        if principal not in self.turns:
            self.turns.append(principal)

    def expire(self, now: float) -> None:
        while self.kept and self.kept[0][0] <= now:
            self.kept.pop(0)
        self.tidy()

    def in_order(self) -> list[int]:
        left = {principal: [item for who, _, item in self.items if who == principal] for principal in self.turns}
        order: list[int] = []
        while any(left.values()):
            order += [left[principal].pop(0) for principal in self.turns if left[principal]]
        return order


@given(st.lists(st.one_of(pushes, pushes, takes, removals, keeps, expiries), max_size=80))
def test_it_does_what_the_slow_one_does(operations: list[tuple]) -> None:
    fast, slow = FairQueue[int, str](kept_most=99), SlowQueue()
    now, number = 0.0, 0
    for name, first, second in operations:
        if name == "push":
            fast.push(first, second, number)
            slow.push(first, second, number)
            number += 1
        elif name == "take":
            assert fast.take(first) == slow.take(first)
        elif name == "remove":
            assert fast.remove(first) == slow.remove(first)
        elif name == "keep":
            fast.keep(first, until=now + 5.0)  # always as long, as in life: so they end in order
            slow.keep(first, now + 5.0)
        else:
            now += first
            fast.expire(now=now)
            slow.expire(now)
        assert list(fast) == slow.in_order()
        assert len(fast) == len(slow.items)
        assert set(fast.lanes) == {lane for _, lane, _ in slow.items}
        assert fast.principals == len(slow.turns)
        for principal in PRINCIPALS:
            assert fast.size_of(principal) == sum(who == principal for who, _, _ in slow.items)


@given(st.lists(st.tuples(st.sampled_from(PRINCIPALS), st.booleans()), max_size=120))
def test_between_two_turns_of_one_that_waits_each_other_has_at_most_one(events: list[tuple[str, bool]]) -> None:
    waiting = FairQueue[tuple[str, int], str](kept_most=9)
    overtaken: dict[str, dict[str, int]] = {}
    for number, (principal, taking) in enumerate(events):
        if not taking:
            waiting.push(principal, "lane", (principal, number))
            overtaken.setdefault(principal, {})
            continue
        item = waiting.take({"lane"})
        if item is None:
            continue
        served = item[0]
        for other, counts in overtaken.items():
            if other != served and waiting.size_of(other):
                counts[served] = counts.get(served, 0) + 1
                assert counts[served] <= 1
        if waiting.size_of(served):
            overtaken[served] = {}
        else:
            overtaken.pop(served, None)
