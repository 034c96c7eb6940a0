# SPDX-License-Identifier: Apache-2.0
"""Revisions of the catalog and overrides beside it."""

import threading
from dataclasses import replace

import pytest

from firstkit.adapters.store import SqlStore
from firstkit.ports.store import Override, Revision


def test_an_empty_store_has_no_revision(store: SqlStore) -> None:
    assert store.current_revision() is None
    assert store.revisions() == []


def test_revisions_are_numbered_from_one_and_the_newest_holds(store: SqlStore, another: SqlStore) -> None:
    assert store.add_revision(document="a: 1", by="ann").number == 1
    second = store.add_revision(document="a: 2 # ü", by="bob")
    assert second.number == 2
    assert another.current_revision() == second
    assert [revision.number for revision in another.revisions()] == [2, 1]
    assert [revision.number for revision in another.revisions(limit=1)] == [2]
    assert (second.document, second.applied_by) == ("a: 2 # ü", "bob")
    assert len(second.digest) == 64


def test_applying_what_holds_already_makes_no_revision(store: SqlStore) -> None:
    first = store.add_revision(document="a: 1", by="ann")
    assert store.add_revision(document="a: 1", by="bob") == first
    again = store.add_revision(document="a: 1", by="bob", repeat=True)
    assert (again.number, again.document, again.digest, again.applied_by) == (2, first.document, first.digest, "bob")
    assert store.last_applied("bob") == again


def test_going_back_to_an_earlier_document_is_a_new_revision(store: SqlStore) -> None:
    for document in ("one", "two", "one"):
        store.add_revision(document=document, by="ann")
    assert [revision.document for revision in store.revisions()] == ["one", "two", "one"]


def test_a_revision_is_found_by_its_number(store: SqlStore) -> None:
    revision = store.add_revision(document="one", by="ann")
    store.add_revision(document="two", by="ann")
    assert store.revision(1) == revision
    assert store.revision(3) is None


def test_what_one_party_applied_last_is_found_however_many_came_after_it(store: SqlStore) -> None:
    assert store.last_applied("file") is None
    store.add_revision(document="first", by="file on node1")
    mine = store.add_revision(document="second", by="file on node2")
    for number in range(60):
        store.add_revision(document=f"n: {number}", by="f%")
    assert store.last_applied("file") == mine
    assert store.last_applied("fil_") is None


def test_revisions_applied_at_once_follow_one_another(store: SqlStore) -> None:
    threads = [
        threading.Thread(target=lambda number=number: store.add_revision(document=f"n: {number}", by="ann"))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(revision.number for revision in store.revisions()) == list(range(1, 9))


def test_an_override_replaces_the_one_of_its_kind_and_subject(store: SqlStore, another: SqlStore) -> None:
    store.set_override(kind="scale", subject="d", value={"min": 1, "max": 2}, by="ann", until=None, note="talk")
    other = store.set_override(kind="cordon", subject="d", value={}, by="ann", until=None, note="")
    newer = store.set_override(kind="scale", subject="d", value={"min": 3}, by="bob", until=None, note="")
    assert {override.kind: override for override in another.overrides()} == {"scale": newer, "cordon": other}
    assert (newer.value, newer.by, newer.note) == ({"min": 3}, "bob", "")


def test_an_override_ends_by_itself(store: SqlStore) -> None:
    now = store.now()
    store.set_override(kind="cordon", subject="old", value={}, by="ann", until=now - 1, note="")
    store.set_override(kind="cordon", subject="new", value={}, by="ann", until=now + 600, note="")
    assert [override.subject for override in store.overrides()] == ["new"]


def test_an_override_can_be_cleared_once(store: SqlStore) -> None:
    store.set_override(kind="stop", subject="c", value={}, by="ann", until=None, note="")
    assert not store.clear_override(kind="cordon", subject="c")
    assert store.clear_override(kind="stop", subject="c")
    assert not store.clear_override(kind="stop", subject="c")
    assert store.overrides() == []


def test_the_known_revision_is_not_read_again_and_another_one_is(store: SqlStore) -> None:
    assert store.current_revision() is None
    first = store.add_revision(document="{}", by="file")
    known = store.current_revision(None)
    assert known == first
    assert store.current_revision(known) is known
    second = store.add_revision(document='{"models": {}}', by="file")
    assert store.current_revision(known) == second
    restored = replace(second, digest="another document under the same number")
    assert store.current_revision(restored) == second


def test_reads_together_see_what_is_there_and_writes_after_them_count(store: SqlStore) -> None:
    def reads() -> tuple[Revision | None, int, list[Override]]:
        return store.current_revision(), store.keys_version(), store.overrides()

    assert store.together(reads) == reads()
    added = store.add_revision(document="{}", by="file")
    assert store.together(reads)[0] == added
    with pytest.raises(ZeroDivisionError):
        store.together(lambda: 1 // 0)
    assert store.together(reads)[0] == store.current_revision() == added
