# SPDX-License-Identifier: Apache-2.0
"""API keys in the store."""

import hashlib
import threading

import pytest

from firstkit.adapters.store import SqlStore
from firstkit.core.errors import InvalidRequest
from firstkit.core.principal import Principal, RateLimits, Role
from firstkit.ports.store import KeyRow


def add(store: SqlStore, name: str, *, id_: str | None = None, expires_at: float | None = None) -> KeyRow:
    id_ = id_ or hashlib.sha256(name.encode()).hexdigest()[:8]
    principal = Principal(
        subject=f"key:{id_}",
        name=name,
        groups=frozenset({"a", "b"}),
        roles=frozenset({Role.USER, Role.OPERATOR}),
        models=frozenset({"m"}),
        limits=RateLimits(requests_per_minute=5),
        expires_at=expires_at,
    )
    digest = hashlib.sha256(f"{id_}{name}".encode()).digest()
    return store.key_add(name=name, digest=digest, prefix=f"fk-{id_}", principal=principal, expires_at=expires_at)


def live(store: SqlStore) -> list[str]:
    rows = store.keys()
    return [row.id for row in rows]


def test_a_key_comes_back_as_it_was_added(store: SqlStore, another: SqlStore) -> None:
    row = add(store, "laptop")
    assert row.revoked_at is None
    assert another.keys() == [row]
    assert another.key_list() == [row]


def test_a_name_is_taken_as_long_as_its_key_lives(store: SqlStore) -> None:
    add(store, "laptop", id_="aaaaaaaa")
    with pytest.raises(InvalidRequest, match="already") as caught:
        add(store, "laptop", id_="bbbbbbbb")
    assert (caught.value.code, caught.value.param) == ("key_name_taken", "name")
    store.key_revoke("laptop")
    add(store, "laptop", id_="bbbbbbbb")
    assert live(store) == ["bbbbbbbb"]


def test_the_name_of_an_expired_key_is_free(store: SqlStore) -> None:
    add(store, "course", id_="aaaaaaaa", expires_at=store.now() - 1)
    add(store, "course", id_="bbbbbbbb", expires_at=store.now() + 1000)
    assert live(store) == ["bbbbbbbb"]
    assert [row.id for row in store.key_list()] == ["aaaaaaaa", "bbbbbbbb"]


def test_of_two_who_want_a_name_at_once_one_gets_it(store: SqlStore) -> None:
    outcomes: list[str] = []
    barrier = threading.Barrier(4)

    def want(id_: str) -> None:
        barrier.wait()
        try:
            outcomes.append(add(store, "laptop", id_=id_).id)
        except InvalidRequest:
            outcomes.append("taken")

    threads = [threading.Thread(target=want, args=[f"id{number}aaaaa"]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("taken") == 3
    assert len(store.keys()) == 1


@pytest.mark.parametrize("by", ["laptop", "aaaaaaaa", "fk-aaaaaaaa"])
def test_a_key_is_revoked_by_name_id_or_prefix(store: SqlStore, another: SqlStore, by: str) -> None:
    add(store, "laptop", id_="aaaaaaaa")
    add(store, "other", id_="bbbbbbbb")
    gone = store.key_revoke(by)
    assert gone is not None
    assert gone.revoked_at == pytest.approx(store.now(), abs=60)
    assert live(another) == ["bbbbbbbb"]
    assert another.key_list()[0] == gone
    assert store.key_revoke(by) is None


def test_of_keys_with_one_name_the_living_one_is_revoked(store: SqlStore) -> None:
    add(store, "course", id_="aaaaaaaa", expires_at=store.now() - 1)
    add(store, "course", id_="bbbbbbbb")
    gone = store.key_revoke("course")
    assert gone is not None
    assert gone.id == "bbbbbbbb"


def test_revoking_what_is_not_there_is_none(store: SqlStore) -> None:
    assert store.key_revoke("nobody") is None


def test_each_change_of_keys_raises_their_version(store: SqlStore, another: SqlStore) -> None:
    versions = [another.keys_version()]
    add(store, "a")
    versions.append(another.keys_version())
    add(store, "b")
    versions.append(another.keys_version())
    store.key_revoke("a")
    versions.append(another.keys_version())
    assert versions == sorted(set(versions))


def test_a_refused_key_changes_nothing(store: SqlStore) -> None:
    add(store, "a", id_="aaaaaaaa")
    before = store.keys_version()
    with pytest.raises(InvalidRequest):
        add(store, "a", id_="bbbbbbbb")
    assert store.keys_version() == before


def test_the_last_use_of_a_key_is_noted_and_never_goes_back(store: SqlStore, another: SqlStore) -> None:
    add(store, "a", id_="aaaaaaaa")
    add(store, "b", id_="bbbbbbbb")
    version = store.keys_version()
    store.touch_keys(["aaaaaaaa", "aaaaaaaa"])
    first = store.key_list()[0].last_used_at
    assert first == pytest.approx(store.now(), abs=60)
    another.touch_keys(["aaaaaaaa"])
    again = store.key_list()[0].last_used_at
    assert again is not None
    assert first is not None
    assert again >= first
    assert store.key_list()[1].last_used_at is None
    assert store.keys_version() == version  # a use is no change
    store.touch_keys([])


def test_the_store_holds_no_key(store: SqlStore) -> None:
    row = add(store, "laptop")
    assert row.digest == hashlib.sha256(f"{row.id}laptop".encode()).digest()
    assert store.keys()[0].digest == row.digest
