# SPDX-License-Identifier: Apache-2.0
"""Which schema the store has, whether this code can work with it, and how it is brought to the newest."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from sqlalchemy import Connection, inspect, select, text

from firstkit.adapters.store.database import Database
from firstkit.adapters.store.schema import NEEDS, SCHEMA, installation, keys_version, term
from firstkit.core.ids import installation_id
from firstkit.ports.store import SchemaMismatch, StoreUnavailable

MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_WAIT_S = 60
_MIGRATION_LOCK = 7_161_357_290_133_914  # any number, the same for ever: PostgreSQL's advisory lock of our migrations


def found(connection: Connection) -> tuple[int, int] | None:
    """Read (schema, oldest schema whose code may use it); None: nobody has made the tables yet."""
    if not inspect(connection).has_table(installation.name):
        return None
    row = connection.execute(select(installation.c.schema, installation.c.serves_from)).one_or_none()
    return (int(row[0]), int(row[1])) if row is not None else None


def check(database: Database) -> None:
    """Raise SchemaMismatch, with a sentence, when this code cannot work with the store as it is."""
    versions = database.read(found)
    if versions is None:
        raise SchemaMismatch(
            f"the store {database.where} is empty; start the controller or run `first store migrate`",
            code="store_not_migrated",
        )
    schema, serves_from = versions
    if schema < NEEDS:
        raise SchemaMismatch(
            f"the store {database.where} has schema {schema} and this version of firstkit needs {NEEDS} or later; "
            "restart the controller with this version or run `first store migrate`",
            code="store_not_migrated",
        )
    if serves_from > SCHEMA:
        raise SchemaMismatch(
            f"the store {database.where} has schema {schema}, made for a newer firstkit than this one, "
            f"which knows up to {SCHEMA}; update firstkit here"
        )


def migrate(database: Database) -> tuple[int, int]:
    """Bring the store to the newest schema this code knows; return the schema (before, after); 0 is an empty store.

    All of it is one transaction under a lock, so a killed migration has done nothing and two at once follow one
    another. A store that is newer is left as it is.
    """

    def work(connection: Connection) -> tuple[int, int]:
        if database.postgres:
            # A large table may take longer than a statement is given otherwise; somebody else's migration, too.
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text(f"SET LOCAL lock_timeout = '{MIGRATION_WAIT_S}s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
        versions = found(connection)
        before = versions[0] if versions else 0
        if before >= SCHEMA:
            return before, before
        serves_from = _upgrade(connection, "head")
        if versions is None:
            _first_rows(connection, database.now(connection), serves_from)
        else:
            connection.execute(
                installation.update().values(schema=SCHEMA, serves_from=max(versions[1], serves_from)),
            )
        return before, SCHEMA

    deadline = time.monotonic() + MIGRATION_WAIT_S
    while True:
        versions = database.read(found)
        if versions is not None and versions[0] >= SCHEMA:
            return versions[0], versions[0]
        try:
            return database.write(work)
        except StoreUnavailable as error:
            if database.postgres or error.code != "store_busy" or time.monotonic() > deadline:
                raise


def _upgrade(connection: Connection, to: str) -> int:
    """Run the migrations up to a revision on an open transaction; return the oldest schema whose code they serve."""
    # Alembic takes a while to import and is needed once in a version's life.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, to)
    scripts = ScriptDirectory.from_config(config).walk_revisions(base="base", head=to)
    return max(int(script.module.SERVES_FROM) for script in scripts)


def _first_rows(connection: Connection, now: float, serves_from: int) -> None:
    connection.execute(
        installation.insert().values(
            id=1,
            installation=installation_id(secrets.token_bytes(5)),
            created_at=now,
            schema=SCHEMA,
            serves_from=serves_from,
        )
    )
    connection.execute(term.insert().values(id=1, epoch=0, holder="", expires_at=0.0))
    connection.execute(keys_version.insert().values(id=1, version=0))
