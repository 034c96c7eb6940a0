# SPDX-License-Identifier: Apache-2.0
"""Schemas: from nothing and from each earlier one to the newest, and who may use which."""

import threading
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, select, update

from firstkit.adapters.store import SqlStore, migrate_store, open_store, versions
from firstkit.adapters.store.database import Database, connect
from firstkit.adapters.store.schema import NEEDS, SCHEMA, installation, metadata
from firstkit.ports.store import SchemaMismatch


def config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(versions.MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config


SCRIPTS = list(ScriptDirectory.from_config(config()).walk_revisions())[::-1]


def the_database(place: Any) -> Database:
    return connect(place.settings.url, folder=place.folder)


def differences(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    return compare_metadata(context, metadata)


def test_migrations_are_numbered_without_a_gap_and_the_last_is_the_schema_of_this_code() -> None:
    assert [script.revision for script in SCRIPTS] == [f"{number:04}" for number in range(1, SCHEMA + 1)]
    assert all(1 <= script.module.SERVES_FROM <= int(script.revision) for script in SCRIPTS)
    assert NEEDS <= SCHEMA


def test_every_table_names_its_one_writer() -> None:
    assert not [table.name for table in metadata.sorted_tables if not str(table.info.get("writer", "")).strip()]


def test_an_empty_store_is_brought_to_the_newest_schema_once(empty_place: Any) -> None:
    assert migrate_store(empty_place.settings, folder=empty_place.folder) == (0, SCHEMA)
    assert migrate_store(empty_place.settings, folder=empty_place.folder) == (SCHEMA, SCHEMA)
    store = empty_place.open()
    assert len(store.installation()) == 8
    store.close()


def test_the_migrations_make_exactly_the_tables_of_the_schema_file(store: SqlStore) -> None:
    assert store.database.read(differences) == []


def test_the_comparison_would_see_a_difference(store: SqlStore) -> None:
    store.database.write(lambda c: c.exec_driver_sql("ALTER TABLE jobs ADD COLUMN odd INTEGER"))
    assert store.database.read(differences)


@pytest.mark.parametrize("revision", [script.revision for script in SCRIPTS])
def test_every_earlier_schema_is_brought_to_the_newest(empty_place: Any, revision: str) -> None:
    database = the_database(empty_place)

    def as_it_was(connection: Connection) -> None:
        alembic = config()
        alembic.attributes["connection"] = connection
        command.upgrade(alembic, revision)
        values = {"id": 1, "installation": "abcdefgh", "created_at": 1.0, "schema": int(revision), "serves_from": 1}
        connection.execute(installation.insert().values(values))

    database.write(as_it_was)
    assert versions.migrate(database) == (int(revision), SCHEMA)
    assert database.read(differences) == []
    assert database.read(lambda c: c.execute(select(installation.c.installation)).scalar_one()) == "abcdefgh"
    database.close()


def test_several_may_migrate_at_once(empty_place: Any) -> None:
    outcomes: list[tuple[int, int]] = []
    barrier = threading.Barrier(4)

    def work() -> None:
        barrier.wait()
        outcomes.append(migrate_store(empty_place.settings, folder=empty_place.folder))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [(0, SCHEMA)] + [(SCHEMA, SCHEMA)] * 3


def test_a_migration_that_fails_has_done_nothing(empty_place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError("killed here")

    monkeypatch.setattr(versions, "_first_rows", fail)
    with pytest.raises(RuntimeError):
        migrate_store(empty_place.settings, folder=empty_place.folder)
    monkeypatch.undo()
    with pytest.raises(SchemaMismatch):
        empty_place.open()
    assert migrate_store(empty_place.settings, folder=empty_place.folder) == (0, SCHEMA)


def test_nobody_but_who_migrates_uses_an_empty_store(empty_place: Any) -> None:
    with pytest.raises(SchemaMismatch, match="first store migrate") as caught:
        empty_place.open()
    assert caught.value.code == "store_not_migrated"


def pretend(store: SqlStore, **values: int) -> None:
    store.database.write(lambda c: c.execute(update(installation).values(**values)))


def test_a_store_with_an_older_schema_than_this_code_needs_is_refused(store: SqlStore, place: Any) -> None:
    pretend(store, schema=NEEDS - 1)
    with pytest.raises(SchemaMismatch, match="restart the controller") as caught:
        place.open()
    assert caught.value.code == "store_not_migrated"


def test_a_store_that_has_grown_is_used_by_older_code_and_left_as_it_is(store: SqlStore, place: Any) -> None:
    pretend(store, schema=SCHEMA + 3)
    place.open().close()
    assert migrate_store(place.settings, folder=place.folder) == (SCHEMA + 3, SCHEMA + 3)


def test_a_store_that_has_shed_what_this_code_needs_is_refused(store: SqlStore, place: Any) -> None:
    pretend(store, schema=SCHEMA + 3, serves_from=SCHEMA + 1)
    with pytest.raises(SchemaMismatch, match="update firstkit") as caught:
        open_store(place.settings, folder=place.folder)
    assert caught.value.code == "store_schema"
