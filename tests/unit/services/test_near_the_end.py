# SPDX-License-Identifier: Apache-2.0
"""Requests near the end of an instance: sent where they can finish, held for a successor, never refused for it."""

from firstkit.core.reasons import Reason
from firstkit.core.topology import Heat
from firstkit.testing.dispatching import DispatcherWorld, catalog, route, status

ENDING = route("i-old", cap=4, ends_in_s=50.0)
HOT = status(Heat.HOT, reason=Reason.SERVING)
RELIEVED = status(Heat.HOT, reason=Reason.SERVING, relief=True)


def world(*, relief: bool = True) -> DispatcherWorld:
    it = DispatcherWorld()
    it.dispatcher.set_catalog(catalog())
    it.tell(ENDING, RELIEVED if relief else HOT, fresh_for_s=1000.0)
    return it


def test_a_request_that_may_outlast_the_instance_waits_for_the_successor_and_gets_it() -> None:
    it = world()
    caller = it.open()
    assert caller.waits
    assert caller.ticket is not None
    told = caller.ticket.status()
    assert (told.heat, told.reason, told.to_hot_s) == (Heat.WARM, Reason.HANDOVER, None)
    it.tell(ENDING, route("i-new", ends_in_s=9000.0), HOT)
    assert caller.instance == "i-new"


def test_what_was_measured_lets_short_ones_go_where_long_ones_are_held() -> None:
    it = world(relief=False)
    for _ in range(40):
        caller = it.open(max_tokens=100)
        assert caller.grant is not None
        caller.grant.lease.took(total_s=2.0, first_s=1.0, tokens=100)
        caller.done()
    it.tell(ENDING, RELIEVED)
    assert it.open(max_tokens=500).instance == "i-old"
    assert it.open(max_tokens=50_000).waits
    assert it.open(max_tokens=500).instance == "i-old", "one that is held holds up nobody who fits"


def test_what_is_known_of_the_pace_holds_for_the_successor_too() -> None:
    it = world(relief=False)
    for _ in range(40):
        caller = it.open(max_tokens=100)
        assert caller.grant is not None
        caller.grant.lease.took(total_s=2.0, first_s=1.0, tokens=100)
        caller.done()
    it.tell(route("i-new", ends_in_s=20.0), RELIEVED)
    assert it.open(max_tokens=500).instance == "i-new"
    assert it.open(max_tokens=5000).waits


def test_where_nothing_comes_the_longest_lived_takes_it() -> None:
    it = world(relief=False)
    caller = it.open()
    assert caller.instance == "i-old"
    assert caller.grant is not None
    assert "may end too soon" in caller.grant.decision


def test_when_the_successor_does_not_come_after_all_the_longest_lived_takes_who_waits() -> None:
    it = world()
    caller = it.open()
    assert caller.waits
    it.tell(ENDING, HOT)
    assert caller.instance == "i-old"


def test_who_must_not_wait_is_sent_and_not_refused() -> None:
    assert world().open(max_wait_s=0.0).instance == "i-old"


def test_who_can_wait_no_longer_is_sent_and_not_refused() -> None:
    it = world()
    caller = it.open(max_wait_s=20.0)
    assert caller.waits
    it.time.advance(21.0)
    assert caller.instance == "i-old"


def test_who_waits_beyond_the_end_of_the_last_one_waits_as_for_a_cold_model() -> None:
    it = world()
    caller = it.open()
    it.time.advance(51.0)
    it.tell(status(Heat.WARM, reason=Reason.LOADING, relief=True))
    assert caller.waits
    it.tell(route("i-new"), HOT)
    assert caller.instance == "i-new"
