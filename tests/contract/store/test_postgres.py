# SPDX-License-Identifier: Apache-2.0
"""What can befall a connection to PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from firstkit.adapters.store import SqlStore, database, migrate_store, open_store
from firstkit.core.errors import ConfigError
from firstkit.core.settings import StoreSettings
from firstkit.ports.store import StoreUnavailable

pytestmark = pytest.mark.postgres

PASSWORD = "only-for-tests"


@pytest.fixture
def name(postgres: Any) -> Iterator[str]:
    name = postgres.create(owner="guarded")
    yield name
    postgres.drop(name)


@pytest.fixture
def settings(postgres: Any, name: str) -> StoreSettings:
    return StoreSettings(url=postgres.url(name))


@pytest.fixture
def alone(settings: StoreSettings, tmp_path: Path) -> Iterator[SqlStore]:
    migrate_store(settings, folder=tmp_path)
    store = open_store(settings, folder=tmp_path)
    yield store
    store.close()


def test_after_a_lost_connection_the_next_call_works(postgres: Any, name: str, alone: SqlStore) -> None:
    alone.add_revision(document="a", by="ann")
    assert postgres.cut(name) == 1
    assert alone.current_revision() is not None
    assert postgres.cut(name) == 1
    assert alone.add_revision(document="b", by="ann").number == 2


def test_work_whose_connection_is_lost_before_the_commit_is_done_once_more(
    postgres: Any, name: str, alone: SqlStore
) -> None:
    runs = 0

    def work(connection: Connection) -> None:
        nonlocal runs
        runs += 1
        connection.execute(text("UPDATE term SET epoch = epoch + 1"))
        if runs == 1:
            postgres.cut(name)
        connection.execute(text("UPDATE keys_version SET version = version + 1"))

    alone.database.write(work)
    assert runs == 2
    assert alone.keys_version() == 1
    epochs = alone.database.read(lambda c: c.execute(text("SELECT epoch FROM term")).scalar_one())
    assert epochs == 1


def test_a_connection_lost_at_the_commit_is_told_and_nothing_is_done_twice(
    postgres: Any, name: str, alone: SqlStore
) -> None:
    runs = 0

    def cut(_connection: Connection) -> None:
        postgres.cut(name)

    def work(connection: Connection) -> None:
        nonlocal runs
        runs += 1
        connection.execute(text("UPDATE term SET epoch = epoch + 1"))

    event.listen(alone.database.engine, "commit", cut)
    with pytest.raises(StoreUnavailable):
        alone.database.write(work)
    event.remove(alone.database.engine, "commit", cut)
    assert runs == 1
    alone.database.write(work)


def test_work_that_postgres_gave_up_for_a_deadlock_is_done_once_more(alone: SqlStore) -> None:
    runs = 0

    def work(connection: Connection) -> str:
        nonlocal runs
        runs += 1
        if runs == 1:
            connection.execute(text("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; END $$"))
        return "done"

    assert alone.database.write(work) == "done"
    assert runs == 2


def test_a_server_that_is_away_is_told_and_used_again_when_it_is_back(
    postgres: Any, alone: SqlStore, tmp_path: Path, settings: StoreSettings
) -> None:
    before = alone.installation()
    socket = next(postgres.folder.glob(".s.PGSQL.*[0-9]"))
    hidden = socket.rename(socket.with_name("hidden"))  # as good as stopped, for who comes new
    try:
        with pytest.raises(StoreUnavailable, match="cannot be reached") as caught:
            open_store(settings, folder=tmp_path)
        assert "\n" not in caught.value.message
    finally:
        hidden.rename(socket)
    assert alone.installation() == before
    open_store(settings, folder=tmp_path).close()


def test_a_lock_that_somebody_keeps_does_not_hold_us_for_ever(
    postgres: Any, settings: StoreSettings, alone: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOCK_WAIT_S", 0.05)
    store = open_store(settings, folder=tmp_path)
    name = str(alone.database.engine.url.database)
    with postgres.admin(name) as other, other.transaction():
        other.execute("UPDATE term SET epoch = epoch")
        with pytest.raises(StoreUnavailable, match="in time"):
            store.take_term(holder="a", ttl_s=10)
    assert store.take_term(holder="a", ttl_s=10) is not None
    store.close()


def test_a_statement_that_takes_too_long_is_given_up(
    settings: StoreSettings, alone: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "STATEMENT_LIMIT_S", 0.05)
    store = open_store(settings, folder=tmp_path)
    with pytest.raises(StoreUnavailable, match="in time"):
        store.database.read(lambda c: c.execute(text("SELECT pg_sleep(20)")))
    store.close()


def test_the_password_comes_from_a_file_that_is_read_at_each_connection(
    postgres: Any, name: str, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    settings = StoreSettings(url=postgres.url(name, user="guarded"), password_file="password")
    with pytest.raises(ConfigError, match="password file"):
        open_store(settings, folder=tmp_path)
    file.write_text("wrong-canary")
    with pytest.raises(StoreUnavailable) as caught:
        migrate_store(settings, folder=tmp_path)
    assert "canary" not in str(caught.value)
    file.write_text(PASSWORD + "\n")
    migrate_store(settings, folder=tmp_path)
    store = open_store(settings, folder=tmp_path)
    assert store.keys_version() == 0
    file.write_text("changed")
    postgres.cut(name)
    with pytest.raises(StoreUnavailable):
        store.keys_version()
    file.write_text(PASSWORD)
    assert store.keys_version() == 0
    store.close()


def test_a_user_without_rights_is_told(postgres: Any, name: str, alone: SqlStore, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    with postgres.admin(name) as connection:
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO guarded")
    settings = StoreSettings(url=postgres.url(name, user="guarded"), password_file="password")
    store = open_store(settings, folder=tmp_path)
    with pytest.raises(StoreUnavailable, match="may not be written") as caught:
        store.add_revision(document="a", by="ann")
    assert caught.value.code == "store_not_writable"
    store.close()
