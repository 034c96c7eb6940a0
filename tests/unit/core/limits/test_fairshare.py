# SPDX-License-Identifier: Apache-2.0
"""A queue in which principals take turns."""

from firstkit.core.limits.fairshare import FairQueue

ANY = frozenset({"lane"})


def queue(*pushed: tuple[str, str], kept_most: int = 10) -> FairQueue[str, str]:
    made = FairQueue[str, str](kept_most=kept_most)
    for principal, item in pushed:
        made.push(principal, "lane", item)
    return made


def drained(waiting: FairQueue[str, str], lanes: frozenset[str] = ANY) -> list[str]:
    taken: list[str] = []
    while (item := waiting.take(lanes)) is not None:
        taken.append(item)
    return taken


def test_principals_take_turns_and_each_keeps_its_own_order() -> None:
    waiting = queue(("ann", "a1"), ("ann", "a2"), ("ann", "a3"), ("bob", "b1"), ("cem", "c1"), ("bob", "b2"))
    assert list(waiting) == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert drained(waiting) == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert len(waiting) == 0
    assert waiting.principals == 0


def test_a_newcomer_joins_behind_those_that_already_wait() -> None:
    waiting = queue(("ann", "a1"), ("bob", "b1"), ("ann", "a2"))
    assert waiting.take(ANY) == "a1"
    waiting.push("dee", "lane", "d1")
    assert drained(waiting) == ["b1", "a2", "d1"]


def test_items_of_closed_lanes_are_passed_over_and_keep_their_turn() -> None:
    waiting = queue()
    waiting.push("ann", "here", "a-here")
    waiting.push("bob", "there", "b-there")
    waiting.push("ann", "there", "a-there")
    assert waiting.take({"there"}) == "a-there"
    assert waiting.take({"there"}) == "b-there"
    assert waiting.take({"there"}) is None
    assert set(waiting.lanes) == {"here"}
    assert waiting.take({"here", "there"}) == "a-here"


def test_one_principal_gets_its_oldest_first_across_open_lanes() -> None:
    waiting = queue()
    waiting.push("ann", "x", "1")
    waiting.push("ann", "y", "2")
    waiting.push("ann", "x", "3")
    assert list(waiting) == ["1", "2", "3"]
    assert drained(waiting, frozenset({"x", "y"})) == ["1", "2", "3"]


def test_what_leaves_is_gone_and_its_principals_turn_stays() -> None:
    waiting = queue(("ann", "a1"), ("bob", "b1"), ("ann", "a2"))
    assert waiting.remove("a1")
    assert not waiting.remove("a1")
    assert "a1" not in waiting
    assert drained(waiting) == ["a2", "b1"]


def test_a_kept_place_is_there_for_the_retry() -> None:
    waiting = queue(("ann", "a1"), ("bob", "b1"))
    waiting.keep("ann", until=10.0)
    waiting.remove("a1")
    waiting.push("cem", "lane", "c1")
    waiting.expire(now=9.0)
    assert list(waiting) == ["b1", "c1"]
    waiting.push("ann", "lane", "a2")
    assert drained(waiting) == ["a2", "b1", "c1"]


def test_a_kept_place_ends() -> None:
    waiting = queue(("ann", "a1"), ("bob", "b1"))
    waiting.keep("ann", until=10.0)
    waiting.remove("a1")
    waiting.expire(now=10.0)
    assert waiting.principals == 1
    waiting.push("ann", "lane", "a2")
    assert drained(waiting) == ["b1", "a2"]


def test_a_place_may_be_kept_for_somebody_who_has_nothing_waiting() -> None:
    waiting = queue()
    waiting.keep("ann", until=10.0)
    waiting.push("bob", "lane", "b1")
    waiting.push("ann", "lane", "a1")
    assert drained(waiting) == ["a1", "b1"]
    waiting.expire(now=99.0)
    assert waiting.principals == 0


def test_a_place_kept_beside_others_that_are_served_goes_to_the_back() -> None:
    waiting = queue(("ann", "a1"), ("bob", "b1"))
    waiting.keep("ann", until=10.0)
    assert waiting.take(ANY) == "a1"
    waiting.push("ann", "lane", "a2")
    assert drained(waiting) == ["b1", "a2"]
    waiting.expire(now=99.0)
    assert waiting.principals == 0


def test_kept_places_are_bounded_and_one_caller_uses_one() -> None:
    waiting = queue(kept_most=3)
    waiting.keep("first", until=10.0)
    for number in range(100):
        waiting.keep("poller", until=11.0 + number)
    assert waiting.principals == 2
    for number in range(10):
        waiting.keep(f"caller-{number}", until=200.0)
    assert waiting.principals == 3


def test_what_would_go_first_is_counted_by_turns() -> None:
    waiting = queue(("ann", "a1"), ("ann", "a2"), ("ann", "a3"), ("bob", "b1"))
    assert waiting.ahead_of_next("new") == 2
    assert waiting.ahead_of_next("bob") == 3
    assert waiting.ahead_of_next("ann") == 4
    assert waiting.size_of("ann") == 3
    assert waiting.size_of("new") == 0
