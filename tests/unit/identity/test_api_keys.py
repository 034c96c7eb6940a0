# SPDX-License-Identifier: Apache-2.0
"""API keys: what one looks like, and who is behind one as far as memory goes."""

import hashlib
from dataclasses import replace

from firstkit.adapters.identity.api_keys import KEY, TOLD_EVERY_S, ApiKeyIdentity, digest, new_key
from firstkit.core.principal import Principal
from firstkit.ports.store import KeyRow


class Moment:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def never() -> list[KeyRow]:
    raise AssertionError("the store must not be asked")


def row(key: str, *, expires_at: float | None = None, revoked_at: float | None = None) -> KeyRow:
    id_ = key.split("-")[1]
    return KeyRow(
        id=id_,
        name=f"name of {id_}",
        prefix=f"fk-{id_}",
        digest=digest(key),
        principal=Principal(subject=f"key:{id_}", name="n"),
        created_at=0.0,
        expires_at=expires_at,
        revoked_at=revoked_at,
        last_used_at=None,
    )


def identity(moment: Moment) -> ApiKeyIdentity:
    return ApiKeyIdentity(load=never, wall_s=moment, monotonic_s=moment)


def test_a_key_is_recognisable_and_known_by_its_sha256() -> None:
    made = new_key()
    assert KEY.fullmatch(made.key)
    assert made.key.startswith(made.prefix + "-")
    assert made.prefix == f"fk-{made.id}"
    assert made.digest == hashlib.sha256(made.key.encode()).digest()


def test_keys_differ_and_use_all_the_randomness_they_are_given() -> None:
    assert len({new_key().key for _ in range(1000)}) == 1000
    asked: list[int] = []

    def random(count: int) -> bytes:
        asked.append(count)
        return bytes(range(count))

    new_key(random)
    assert sum(asked) * 8 == 48 * 5


def test_showing_a_new_key_by_accident_shows_no_secret() -> None:
    made = new_key()
    assert made.key not in repr(made)
    assert made.prefix in repr(made)


def test_a_known_key_is_answered_from_memory_and_an_unknown_one_is_not() -> None:
    moment = Moment()
    keys = identity(moment)
    key = new_key().key
    keys.take([row(key)])
    principal = keys.lookup(digest(key))
    assert principal is not None
    assert principal.subject == f"key:{key.split('-')[1]}"
    assert keys.lookup(digest(new_key().key)) is None


def test_a_key_that_is_no_longer_listed_stops_at_once() -> None:
    keys = identity(Moment())
    one, two = new_key().key, new_key().key
    keys.take([row(one), row(two)])
    keys.take([row(two)])
    assert keys.lookup(digest(one)) is None
    assert keys.lookup(digest(two)) is not None
    keys.take([row(two, revoked_at=5.0)])
    assert keys.lookup(digest(two)) is None


def test_a_key_expires_without_anybody_saying_so() -> None:
    moment = Moment()
    keys = identity(moment)
    key = new_key().key
    keys.take([row(key, expires_at=1010.0)])
    assert keys.lookup(digest(key)) is not None
    moment.now = 1010.0
    assert keys.lookup(digest(key)) is None


def test_the_earlier_of_two_expiries_counts() -> None:
    moment = Moment()
    keys = identity(moment)
    key = new_key().key
    listed = row(key, expires_at=2000.0)
    keys.take([replace(listed, principal=replace(listed.principal, expires_at=1500.0))])
    principal = keys.lookup(digest(key))
    assert principal is not None
    assert principal.expires_at == 1500.0


def test_used_keys_are_told_once_a_minute() -> None:
    moment = Moment()
    keys = identity(moment)
    one, two = new_key().key, new_key().key
    keys.take([row(one), row(two)])
    assert keys.used() == []
    keys.lookup(digest(one))
    keys.lookup(digest(one))
    assert keys.used() == [one.split("-")[1]]
    keys.lookup(digest(two))
    assert keys.used() == []
    moment.now += TOLD_EVERY_S
    assert keys.used() == [two.split("-")[1]]
    moment.now += TOLD_EVERY_S
    assert keys.used() == []


def test_words_that_are_no_text_have_a_digest_too() -> None:
    assert len(digest("\udcff")) == 32
