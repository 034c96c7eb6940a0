# SPDX-License-Identifier: Apache-2.0
"""What SQLAlchemy, sqlite3 and psycopg raise, as one of our errors with a sentence that says what to do."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from firstkit.core.errors import FirstError, InternalError, SiteError
from firstkit.ports.store import StoreUnavailable

# https://www.postgresql.org/docs/current/errcodes-appendix.html; by number, so that SQLite alone imports no psycopg
_GIVEN_UP = frozenset({"40001", "40P01"})  # serialization_failure, deadlock_detected
_TOO_LATE = frozenset({"57014", "55P03"})  # query_canceled, lock_not_available
_NO_RIGHT = frozenset({"42501", "25006"})  # insufficient_privilege, read_only_sql_transaction
_FULL = "53100"  # disk_full


def may_run_again(error: SQLAlchemyError) -> bool:
    """Tell whether a transaction that had not begun to commit surely did nothing and may do better at once."""
    return isinstance(error, DBAPIError) and (error.connection_invalidated or _sqlstate(error) in _GIVEN_UP)


def translated(error: SQLAlchemyError, where: str) -> FirstError:
    """Make a database's error one of ours."""
    if isinstance(error, PoolTimeout):
        return StoreUnavailable(f"the store {where} is busy: no connection became free in time", code="store_busy")
    if not isinstance(error, DBAPIError):
        return InternalError(f"the store was asked wrongly: {type(error).__name__}", code="store_failed")
    if isinstance(error.orig, sqlite3.Error):
        return _of_sqlite(error.orig, where)
    return _of_postgres(error, where)


def _sqlstate(error: DBAPIError) -> str:
    return str(getattr(error.orig, "sqlstate", None) or "")


def _of_sqlite(cause: sqlite3.Error, where: str) -> FirstError:
    # The low byte is the primary result code (https://sqlite.org/rescode.html).
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    match code:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreUnavailable(
                f"the store {where} is busy: another process holds it for too long", code="store_busy"
            )
        case sqlite3.SQLITE_FULL:
            return StoreUnavailable(
                f"the disk that holds the store {where} is full; free some space", code="store_full"
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return StoreUnavailable(
                f"the store {where} cannot be opened for writing ({cause}); see to its folder's permissions",
                code="store_not_writable",
            )
        case sqlite3.SQLITE_IOERR:
            return StoreUnavailable(f"the disk that holds the store {where} fails ({cause})")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return SiteError(
                f"the store {where} is damaged or no database of SQLite ({cause}); bring it back from a backup",
                code="store_damaged",
            )
        case _:
            return InternalError(f"the store {where} refused a statement: {cause}", code="store_failed")


def _of_postgres(error: DBAPIError, where: str) -> FirstError:
    first_line = str(error.orig).strip().split("\n", 1)[0]
    state = _sqlstate(error)
    if state in _TOO_LATE:
        return StoreUnavailable(f"the store {where} did not answer in time ({first_line})")
    if state in _NO_RIGHT:
        return StoreUnavailable(
            f"the store {where} may not be written by this user ({first_line})", code="store_not_writable"
        )
    if state == _FULL:
        return StoreUnavailable(f"the disk of the store {where} is full; free some space", code="store_full")
    if error.connection_invalidated or isinstance(error, OperationalError | InterfaceError):
        return StoreUnavailable(f"the store {where} cannot be reached ({first_line})")
    return InternalError(f"the store {where} refused a statement: {type(error.orig).__name__}", code="store_failed")
