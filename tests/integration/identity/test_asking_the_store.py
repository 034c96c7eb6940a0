# SPDX-License-Identifier: Apache-2.0
"""Keys that memory does not know: the store is asked seldom, and never takes a good key for a bad one."""

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from firstkit.adapters.clock import SystemClock
from firstkit.adapters.identity import api_keys
from firstkit.adapters.identity.api_keys import ApiKeyIdentity, NewKey, digest, new_key
from firstkit.adapters.store import SqlStore, migrate_store, open_store
from firstkit.core.principal import Principal
from firstkit.core.settings import StoreSettings
from firstkit.ports.store import KeyRow, StoreUnavailable

pytestmark = pytest.mark.anyio

SETTINGS = StoreSettings(url="sqlite:///first.db")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    migrate_store(SETTINGS, folder=tmp_path)
    store = open_store(SETTINGS, folder=tmp_path)
    yield store
    store.close()


class CountingStore:
    """The store as the identity asks it, with a count, a gate and a way to fail."""

    def __init__(self, store: SqlStore) -> None:
        self.store = store
        self.asked = 0
        self.failing: StoreUnavailable | None = None
        self.gate: anyio.Event | None = None

    async def load(self) -> list[KeyRow]:
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.failing is not None:
            raise self.failing
        return await anyio.to_thread.run_sync(self.store.keys)

    def add(self, made: NewKey) -> None:
        principal = Principal(subject=f"key:{made.id}", name=made.id)
        self.store.key_add(name=made.id, digest=made.digest, prefix=made.prefix, principal=principal, expires_at=None)


@pytest.fixture
def counting(store: SqlStore) -> CountingStore:
    return CountingStore(store)


@pytest.fixture
def identity(counting: CountingStore) -> ApiKeyIdentity:
    clock = SystemClock()
    return ApiKeyIdentity(load=counting.load, wall_s=clock.wall_s, monotonic_s=clock.monotonic_s)


async def test_a_key_made_a_moment_ago_works_at_once(counting: CountingStore, identity: ApiKeyIdentity) -> None:
    made = new_key()
    counting.add(made)
    assert identity.lookup(made.digest) is None
    principal = await identity.resolve(made.key)
    assert principal is not None
    assert principal.subject == f"key:{made.id}"
    assert identity.lookup(digest(made.key)) == principal
    assert await identity.resolve(made.key) == principal
    assert counting.asked == 1


async def test_an_unknown_key_asks_the_store_once_in_five_seconds(
    counting: CountingStore, identity: ApiKeyIdentity
) -> None:
    unknown = new_key().key
    for _ in range(50):
        assert await identity.resolve(unknown) is None
    assert counting.asked == 1


async def test_many_unknown_keys_at_once_share_one_question(counting: CountingStore, identity: ApiKeyIdentity) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(200):
            group.start_soon(identity.resolve, new_key().key)
    assert counting.asked <= 2


async def test_what_is_no_key_at_all_asks_nobody(counting: CountingStore, identity: ApiKeyIdentity) -> None:
    for credential in ("", "sk-proj-abc", "fk-short", new_key().key + "x", new_key().key.upper(), "\udcff" * 52):
        assert await identity.resolve(credential) is None
    assert counting.asked == 0


async def test_while_the_store_is_away_a_key_is_not_called_bad(
    counting: CountingStore, identity: ApiKeyIdentity
) -> None:
    made = new_key()
    counting.add(made)
    counting.failing = StoreUnavailable("away")
    with pytest.raises(StoreUnavailable):
        await identity.resolve(made.key)
    counting.failing = None
    assert await identity.resolve(made.key) is not None


async def test_known_keys_work_while_the_store_is_away(counting: CountingStore, identity: ApiKeyIdentity) -> None:
    made = new_key()
    counting.add(made)
    await identity.resolve(made.key)
    counting.failing = StoreUnavailable("away")
    with pytest.raises(StoreUnavailable):
        await identity.resolve(new_key().key)
    assert identity.lookup(made.digest) is not None


async def test_a_store_that_does_not_answer_does_not_hold_a_client_for_ever(
    counting: CountingStore, identity: ApiKeyIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_keys, "ASK_DEADLINE_S", 0.05)
    counting.gate = anyio.Event()
    with pytest.raises(StoreUnavailable, match="in time"):
        await identity.resolve(new_key().key)


async def test_a_client_that_leaves_while_the_store_is_asked_does_not_spoil_the_answer_of_the_next(
    counting: CountingStore, identity: ApiKeyIdentity
) -> None:
    made = new_key()
    counting.add(made)
    counting.gate = anyio.Event()
    answers: list[object] = []

    async def leave(scope: anyio.CancelScope) -> None:
        with scope:
            await identity.resolve(new_key().key)

    async def stay() -> None:
        answers.append(await identity.resolve(made.key))

    leaving = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        group.start_soon(leave, leaving)
        with anyio.fail_after(10):
            while counting.asked == 0:
                await anyio.lowlevel.checkpoint()
        group.start_soon(stay)
        await anyio.lowlevel.checkpoint()
        leaving.cancel()
        counting.gate.set()
    assert answers[0] is not None


async def test_what_is_known_to_be_unknown_is_bounded(
    counting: CountingStore, identity: ApiKeyIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_keys, "UNKNOWN_KEPT", 10)
    monkeypatch.setattr(api_keys, "ASK_EVERY_S", 0.0)
    for _ in range(30):
        await identity.resolve(new_key().key)
    assert len(identity._unknown) == 10
