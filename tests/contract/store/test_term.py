# SPDX-License-Identifier: Apache-2.0
"""The controller's term: one holder at a time, and nothing written by one whose term is over."""

import threading

import pytest

from firstkit.adapters.store import SqlStore
from firstkit.core.topology import Snapshot
from firstkit.ports.store import EventRow, Fenced, Term

EVENT = EventRow(at=1.0, kind="job", subject="j-1", state="QUEUED", reason="JOB_WAITS", detail="")


def take(store: SqlStore, holder: str, *, ttl_s: float = 60) -> Term:
    term = store.take_term(holder=holder, ttl_s=ttl_s)
    assert term is not None
    return term


def test_the_first_who_asks_holds_the_term_and_others_wait(store: SqlStore, another: SqlStore) -> None:
    assert take(store, "a").epoch == 1
    assert another.take_term(holder="b", ttl_s=60) is None


def test_the_holder_renews_its_term_under_the_same_epoch(store: SqlStore) -> None:
    first = take(store, "a", ttl_s=0)
    assert take(store, "a") == first
    assert store.take_term(holder="b", ttl_s=60) is None


def test_an_expired_term_is_taken_over_under_a_higher_epoch(store: SqlStore) -> None:
    take(store, "a", ttl_s=0)
    assert take(store, "b") == Term(epoch=2, holder="b")


def test_a_term_given_up_can_be_taken_at_once(store: SqlStore) -> None:
    store.give_up_term(take(store, "a"))
    assert take(store, "b").epoch == 2


def test_giving_up_a_term_that_is_over_changes_nothing(store: SqlStore) -> None:
    old = take(store, "a", ttl_s=0)
    take(store, "b")
    store.give_up_term(old)
    assert store.take_term(holder="c", ttl_s=60) is None


def test_a_controller_whose_term_was_taken_over_can_write_nothing(store: SqlStore, another: SqlStore) -> None:
    old = take(store, "a", ttl_s=0)
    new = take(another, "b")
    with pytest.raises(Fenced):
        store.save(old, events=[EVENT])
    with pytest.raises(Fenced):
        store.set_desired(old, job="j-1", version=1, document=b"{}")
    with pytest.raises(Fenced):
        store.write_snapshot(old, Snapshot(version=1, epoch=old.epoch))
    with pytest.raises(Fenced):
        store.touch_snapshot(old)
    with pytest.raises(Fenced):
        store.prune(old, ended_before=10.0, usage_before=10.0)
    assert store.events(subject="j-1") == []
    assert store.desired("j-1") is None
    assert store.snapshot(newer_than=(0, 0))[0] is None
    another.save(new, events=[EVENT])
    assert store.events(subject="j-1") == [EVENT]


def test_a_controller_that_gave_up_its_term_can_write_nothing(store: SqlStore) -> None:
    term = take(store, "a")
    store.give_up_term(term)
    with pytest.raises(Fenced):
        store.save(term, events=[EVENT])


def test_an_expired_term_that_nobody_took_is_still_good(store: SqlStore) -> None:
    term = take(store, "a", ttl_s=0)
    store.save(term, events=[EVENT])
    assert store.events(subject="j-1") == [EVENT]


def test_of_many_who_ask_at_once_one_holds_the_term(store: SqlStore) -> None:
    taken: list[Term] = []
    barrier = threading.Barrier(6)

    def ask(holder: str) -> None:
        barrier.wait()
        term = store.take_term(holder=holder, ttl_s=60)
        if term is not None:
            taken.append(term)

    threads = [threading.Thread(target=ask, args=[f"c{number}"]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1


def test_the_stores_clock_runs(store: SqlStore) -> None:
    first = store.now()
    assert first > 1_000_000_000
    assert store.now() >= first


def test_an_installation_keeps_its_id(store: SqlStore, another: SqlStore) -> None:
    assert len(store.installation()) == 8
    assert another.installation() == store.installation()
