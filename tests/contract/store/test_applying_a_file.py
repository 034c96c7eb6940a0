# SPDX-License-Identifier: Apache-2.0
"""What a controller does with its configuration file at each start, beside what operators apply."""

from firstkit.adapters.store import SqlStore
from firstkit.apps.controller import add_revision, apply_file


def current(store: SqlStore) -> str:
    found = store.current_revision()
    assert found is not None
    return found.document


def test_a_file_is_applied_once_and_again_when_it_changes(store: SqlStore) -> None:
    assert apply_file(store, "file")[1]
    assert not apply_file(store, "file")[1]
    assert apply_file(store, "changed")[1]
    assert [revision.document for revision in store.revisions()] == ["changed", "file"]


def test_what_an_operator_applies_over_the_file_holds_over_restarts(store: SqlStore) -> None:
    apply_file(store, "file")
    store.add_revision(document="operator's", by="ann")
    revision, applied = apply_file(store, "file")
    assert (revision.applied_by, applied) == ("ann", False)
    assert current(store) == "operator's"


def test_a_file_that_an_operator_applied_first_is_not_applied_over_what_comes_next(store: SqlStore) -> None:
    apply_file(store, "older file")
    store.add_revision(document="file", by="ann")
    apply_file(store, "file")
    store.add_revision(document="next", by="ann")
    apply_file(store, "file")
    assert current(store) == "next"


def test_the_same_holds_for_a_file_that_is_read_again(store: SqlStore) -> None:
    apply_file(store, "older file")
    store.add_revision(document="file", by="ann")
    for _ in range(2):
        add_revision(store, "file", by="configuration file, SIGHUP")
    assert len(store.revisions()) == 3
    store.add_revision(document="next", by="ann")
    apply_file(store, "file")
    assert current(store) == "next"
