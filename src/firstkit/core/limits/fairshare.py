# SPDX-License-Identifier: Apache-2.0
"""A queue that is fair between principals: they take turns, and each one's own requests keep their order.

Every request costs the same here, so deficit round robin (Shreedhar and Varghese, 1995) comes down to plain turns. It
bounds what anybody can do to anybody else: between two turns of a principal that waits, each other one has at most one
turn, however much it has queued. Whoever comes anew joins behind those that already wait.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Hashable, Iterator
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT", bound=Hashable)
LaneT = TypeVar("LaneT", bound=Hashable)


class _Turn(Generic[ItemT, LaneT]):
    """One principal's place in the round: what it has waiting, by lane. Without anything it is a place that is kept."""

    __slots__ = ("lanes", "size")

    def __init__(self) -> None:
        self.lanes: dict[LaneT, OrderedDict[ItemT, int]] = {}
        self.size = 0


class FairQueue(Generic[ItemT, LaneT]):
    """Items by principal and lane. A lane is what the same takers can serve; one of them may be open and another not.

    Bounds are the caller's business, except for kept places: at most `kept_most` principals without an item have one.
    """

    def __init__(self, *, kept_most: int) -> None:
        self._round: OrderedDict[str, _Turn[ItemT, LaneT]] = OrderedDict()
        self._where: dict[ItemT, tuple[str, LaneT]] = {}
        self._lanes: Counter[LaneT] = Counter()
        self._kept: OrderedDict[str, float] = OrderedDict()
        self.kept_most = kept_most
        self._number = 0

    def __len__(self) -> int:
        """Count what waits."""
        return len(self._where)

    def __iter__(self) -> Iterator[ItemT]:
        """Go through the items in the order in which one taker for all lanes would get them."""
        turns = [iter(_in_order(turn)) for turn in self._round.values() if turn.size]
        while turns:
            going: list[Iterator[ItemT]] = []
            for turn in turns:
                item = next(turn, None)
                if item is not None:
                    going.append(turn)
                    yield item
            turns = going

    def __contains__(self, item: ItemT) -> bool:
        """Tell whether the item waits."""
        return item in self._where

    @property
    def lanes(self) -> Collection[LaneT]:
        """List the lanes in which something waits."""
        return self._lanes.keys()

    @property
    def principals(self) -> int:
        """Count principals in the round, kept places included."""
        return len(self._round)

    def size_of(self, principal: str) -> int:
        """Count what one principal has waiting."""
        turn = self._round.get(principal)
        return turn.size if turn else 0

    def ahead_of_next(self, principal: str) -> int:
        """Count the items that would go before the next one this principal adds."""
        own = self.size_of(principal)
        return sum(turn.size if key == principal else min(turn.size, own + 1) for key, turn in self._round.items())

    def push(self, principal: str, lane: LaneT, item: ItemT) -> None:
        """Add an item behind the principal's others; a new principal joins behind all, unless its place was kept."""
        turn = self._round.get(principal)
        if turn is None:
            turn = self._round[principal] = _Turn()
        items = turn.lanes.get(lane)
        if items is None:
            items = turn.lanes[lane] = OrderedDict()
        items[item] = self._number
        self._number += 1
        turn.size += 1
        self._kept.pop(principal, None)
        self._where[item] = (principal, lane)
        self._lanes[lane] += 1

    def take(self, lanes: Collection[LaneT]) -> ItemT | None:
        """Take the item whose turn it is among those in the given lanes; its principal then goes behind all others.

        Principals passed over because all they have waits in other lanes stay where they are, ahead.
        """
        for principal, turn in self._round.items():
            lane = _first_lane(turn, lanes)
            if lane is None:
                continue
            item = next(iter(turn.lanes[lane]))
            self._drop(item, lane, turn)
            if turn.size or principal in self._kept:
                self._round.move_to_end(principal)
            else:
                del self._round[principal]
            return item
        return None

    def remove(self, item: ItemT) -> bool:
        """Take an item out whose request has left; tell whether it waited. Its principal stays if it has others."""
        where = self._where.get(item)
        if where is None:
            return False
        principal, lane = where
        turn = self._round[principal]
        self._drop(item, lane, turn)
        if not turn.size and principal not in self._kept:
            del self._round[principal]
        return True

    def keep(self, principal: str, *, until: float) -> None:
        """Keep the principal's place in the round, or give it one, until then even if nothing of it waits."""
        if principal not in self._round:
            self._round[principal] = _Turn()
        self._kept[principal] = until
        self._kept.move_to_end(principal)
        while len(self._kept) > self.kept_most:
            self._let_go()

    def expire(self, *, now: float) -> None:
        """Let go of kept places whose time is over."""
        while self._kept and next(iter(self._kept.values())) <= now:
            self._let_go()

    def _let_go(self) -> None:
        principal, _ = self._kept.popitem(last=False)
        if not self._round[principal].size:
            del self._round[principal]

    def _drop(self, item: ItemT, lane: LaneT, turn: _Turn[ItemT, LaneT]) -> None:
        del self._where[item]
        items = turn.lanes[lane]
        del items[item]
        if not items:
            del turn.lanes[lane]
        turn.size -= 1
        self._lanes[lane] -= 1
        if not self._lanes[lane]:
            del self._lanes[lane]


def _first_lane(turn: _Turn[ItemT, LaneT], lanes: Collection[LaneT]) -> LaneT | None:
    """Find the open lane in which the principal's oldest item waits."""
    best: LaneT | None = None
    oldest = -1
    for lane, items in turn.lanes.items():
        if lane in lanes:
            number = next(iter(items.values()))
            if best is None or number < oldest:
                best, oldest = lane, number
    return best


def _in_order(turn: _Turn[ItemT, LaneT]) -> list[ItemT]:
    if len(turn.lanes) == 1:
        return list(next(iter(turn.lanes.values())))
    numbered = [(number, item) for items in turn.lanes.values() for item, number in items.items()]
    return [item for _, item in sorted(numbered, key=lambda pair: pair[0])]
