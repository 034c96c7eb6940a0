# SPDX-License-Identifier: Apache-2.0
"""The installation's memory in SQLite or PostgreSQL: `open_store` to use it, `migrate_store` to bring it up to date."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from firstkit.adapters.store import versions
from firstkit.adapters.store.api import SqlApiStore
from firstkit.adapters.store.catalog import SqlCatalogStore
from firstkit.adapters.store.controller import SqlControllerStore
from firstkit.adapters.store.database import Database, connect
from firstkit.adapters.store.gateway import SqlGatewayStore
from firstkit.core.settings import StoreSettings

_T = TypeVar("_T")


class SqlStore(SqlCatalogStore, SqlControllerStore, SqlGatewayStore, SqlApiStore):
    """Implements `Store`. May be called from several threads; each call is one short transaction of its own."""

    def __init__(self, database: Database) -> None:
        SqlCatalogStore.__init__(self, database)
        SqlControllerStore.__init__(self, database)
        SqlGatewayStore.__init__(self, database)
        SqlApiStore.__init__(self, database)
        self.database = database

    def together(self, reads: Callable[[], _T]) -> _T:
        return self.database.together(reads)

    def close(self) -> None:
        """Close all connections."""
        self.database.close()


def open_store(settings: StoreSettings, *, folder: Path) -> SqlStore:
    """Open the store; relative paths in its settings are below `folder`, the state folder.

    Raises SchemaMismatch when this code and the store's schema do not go together (code `store_not_migrated`: the
    controller will mend that), StoreUnavailable when it does not answer, SiteError where SQLite cannot live, and
    ConfigError.
    """
    database = connect(settings.url, folder=folder, password_file=settings.password_file)
    try:
        versions.check(database)
    except BaseException:
        database.close()
        raise
    return SqlStore(database)


def migrate_store(settings: StoreSettings, *, folder: Path) -> tuple[int, int]:
    """Bring the store to the newest schema, making it when it is not there; return the schema (before, after).

    For the controller at its start and `first store migrate` alone. Does nothing to a store that is newer.
    """
    database = connect(settings.url, folder=folder, password_file=settings.password_file)
    try:
        return versions.migrate(database)
    finally:
        database.close()


__all__ = ["SqlStore", "migrate_store", "open_store"]
