# SPDX-License-Identifier: Apache-2.0
"""What SQLAlchemy, sqlite3 and psycopg raise, as one of our errors with a sentence that says what to do."""

from __future__ import annotations

import sqlite3

import psycopg.errors
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from firstkit.core.errors import FirstError, InternalError, SiteError
from firstkit.ports.store import StoreUnavailable

_GIVEN_UP = (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected)


def may_run_again(error: SQLAlchemyError) -> bool:
    """Tell whether a transaction that had not begun to commit surely did nothing and may do better at once."""
    return isinstance(error, DBAPIError) and (error.connection_invalidated or isinstance(error.orig, _GIVEN_UP))


def translated(error: SQLAlchemyError, where: str) -> FirstError:
    """Make a database's error one of ours."""
    if isinstance(error, PoolTimeout):
        return StoreUnavailable(f"the store {where} is busy: no connection became free in time", code="store_busy")
    if not isinstance(error, DBAPIError):
        return InternalError(f"the store was asked wrongly: {type(error).__name__}", code="store_failed")
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        return _of_sqlite(cause, where)
    if isinstance(cause, psycopg.Error):
        return _of_postgres(cause, where, lost=error.connection_invalidated)
    return InternalError(f"the store failed: {type(cause).__name__}", code="store_failed")


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


def _of_postgres(cause: psycopg.Error, where: str, *, lost: bool) -> FirstError:
    first_line = str(cause).strip().split("\n", 1)[0]
    if isinstance(cause, psycopg.errors.QueryCanceled | psycopg.errors.LockNotAvailable):
        return StoreUnavailable(f"the store {where} did not answer in time ({first_line})")
    if isinstance(cause, psycopg.errors.InsufficientPrivilege | psycopg.errors.ReadOnlySqlTransaction):
        return StoreUnavailable(
            f"the store {where} may not be written by this user ({first_line})", code="store_not_writable"
        )
    if isinstance(cause, psycopg.errors.DiskFull):
        return StoreUnavailable(f"the disk of the store {where} is full; free some space", code="store_full")
    if lost or isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError):
        return StoreUnavailable(f"the store {where} cannot be reached ({first_line})")
    return InternalError(f"the store {where} refused a statement: {type(cause).__name__}", code="store_failed")
