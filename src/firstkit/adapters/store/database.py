# SPDX-License-Identifier: Apache-2.0
"""One database, SQLite or PostgreSQL: connections, short transactions, its clock; foreign errors become ours."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Double, Engine, Table, cast, create_engine, event, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import QueuePool
from sqlalchemy.types import TypeEngine

from firstkit.adapters.store import place
from firstkit.adapters.store.failures import may_run_again, translated
from firstkit.core.errors import ConfigError

_T = TypeVar("_T")
Work = Callable[[Connection], _T]

_SECONDS: TypeEngine[float] = Double()

LOCK_WAIT_S = 5.0
CONNECT_WAIT_S = 5
STATEMENT_LIMIT_S = 10


class _Shared(threading.local):
    """The connection that all reads of a thread use at present."""

    connection: Connection | None = None


class Database:
    """Runs pieces of work, each in one transaction of its own, from any thread (one connection each at a time).

    A piece of work may run twice: when the connection was lost, or PostgreSQL gave the transaction up, before it was
    committed. A connection lost while committing is not tried again, since nobody knows whether it was done.
    """

    def __init__(self, engine: Engine, *, where: str, machine_s: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self.where = where
        self.postgres = engine.dialect.name == "postgresql"
        self.clock: ColumnElement[float] = _postgres_clock() if self.postgres else _machine_clock()
        """The expression that is now by the store's clock: the server's, or for SQLite this machine's."""
        self._machine_s = machine_s
        self._writing = engine.execution_options(first_immediate=True)
        self._shared = _Shared()

    def read(self, work: Work[_T]) -> _T:
        """Run work that writes nothing."""
        shared = self._shared.connection
        return self._run(self.engine, work) if shared is None else work(shared)

    def together(self, reads: Callable[[], _T]) -> _T:
        """Run several `read`s of this thread in one transaction."""

        def work(connection: Connection) -> _T:
            self._shared.connection = connection
            try:
                return reads()
            finally:
                self._shared.connection = None

        return self._run(self.engine, work)

    def write(self, work: Work[_T]) -> _T:
        """Run work that may write; on SQLite it holds the one write lock from its first statement on."""
        return self._run(self._writing, work)

    def _run(self, engine: Engine, work: Work[_T]) -> _T:
        again = True
        while True:
            committing = False
            try:
                with engine.begin() as connection:
                    result = work(connection)
                    committing = True
                return result
            except SQLAlchemyError as error:
                if again and not committing and may_run_again(error):
                    again = False
                    continue
                raise translated(error, self.where) from error

    def now(self, connection: Connection) -> float:
        """Read the store's clock."""
        if self.postgres:
            return float(connection.execute(select(self.clock)).scalar_one())
        return self._machine_s()

    def insert(self, table: Table) -> postgresql.Insert | sqlite.Insert:
        """Build an insert that knows `ON CONFLICT`, which both databases have."""
        return postgresql.insert(table) if self.postgres else sqlite.insert(table)

    def replace(self, table: Table, values: Mapping[str, Any] | None = None) -> postgresql.Insert | sqlite.Insert:
        """Build an insert that replaces the row of the same primary key.

        `values` None: all columns are given at execution (a list of rows).
        """
        statement = self.insert(table)
        if values is not None:
            statement = statement.values(**values)
        keys = [column.name for column in table.primary_key]
        names = [column.name for column in table.columns if column.name not in keys]
        return statement.on_conflict_do_update(
            index_elements=keys, set_={name: statement.excluded[name] for name in names}
        )

    def close(self) -> None:
        """Close all connections; the next use opens new ones."""
        self.engine.dispose()


def _postgres_clock() -> ColumnElement[float]:
    return cast(func.extract("epoch", func.clock_timestamp()), _SECONDS)


def _machine_clock() -> ColumnElement[float]:
    return func.first_now(type_=_SECONDS)


def connect(url: str, *, folder: Path, password_file: str = "", machine_s: Callable[[], float] = time.time) -> Database:
    """Make ready to use the database of that URL; relative SQLite and password paths are below `folder`.

    Raises ConfigError for a URL that firstkit cannot use and SiteError where SQLite cannot live. PostgreSQL is not
    asked yet: that it does not answer shows at the first use.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigError(
            f"{url!r} is no store; write for example sqlite:///first.db or postgresql://host/name"
        ) from None
    kind = parsed.get_backend_name()
    if kind == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise ConfigError("the store needs a file that all processes share: write for example sqlite:///first.db")
        return _sqlite(folder / parsed.database, machine_s)
    if kind in {"postgresql", "postgres"}:
        if parsed.password is not None:
            raise ConfigError(
                "no password belongs in the store's URL; put it into a file and name it in `password_file`"
            )
        return _postgres(parsed, folder / password_file if password_file else None)
    raise ConfigError(f"the store can be sqlite or postgresql, not {kind!r}")


def _sqlite(path: Path, machine_s: Callable[[], float]) -> Database:
    place.prepare(path)
    engine = create_engine(
        URL.create("sqlite+pysqlite", database=str(path)),
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=7,
        # No implicit BEGIN of the driver's: transactions begin in _begin below.
        connect_args={"timeout": LOCK_WAIT_S, "check_same_thread": False, "isolation_level": None},
    )

    def set_up(connection: Any, _record: object) -> None:
        connection.create_function("first_now", 0, machine_s)
        _set_up_sqlite(connection)

    event.listen(engine, "connect", set_up)
    event.listen(engine, "begin", _begin_sqlite)
    return Database(engine, where=str(path), machine_s=machine_s)


def _set_up_sqlite(connection: Any) -> None:
    """Set what SQLite keeps per connection.

    synchronous=NORMAL syncs at checkpoints, not at each commit: after a power cut the database is whole but may lack
    the last moments, which the next look at the world brings back (law 4). A killed process loses nothing either way.
    """
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            # Turning a new file to WAL needs it alone, and SQLite does not wait for that by itself.
            connection.execute("PRAGMA journal_mode=WAL").fetchall()
            break
        except connection.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA journal_size_limit=16777216")


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("first_immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _postgres_options() -> str:
    limits_s = {
        "statement_timeout": STATEMENT_LIMIT_S,
        "lock_timeout": LOCK_WAIT_S,
        "idle_in_transaction_session_timeout": 3 * STATEMENT_LIMIT_S,
    }
    return " ".join(f"-c {name}={int(seconds * 1000)}" for name, seconds in limits_s.items())


def _postgres(url: URL, password_file: Path | None) -> Database:
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=7,
        pool_timeout=LOCK_WAIT_S,
        connect_args={
            "connect_timeout": CONNECT_WAIT_S,
            "options": _postgres_options(),
            "application_name": "firstkit",
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
        },
    )
    if password_file is not None:

        def give_password(_dialect: object, _record: object, _args: object, parameters: dict[str, Any]) -> None:
            parameters["password"] = read_password(password_file)

        event.listen(engine, "do_connect", give_password)
    shown = url.render_as_string(hide_password=True)
    return Database(engine, where=shown)


def read_password(path: Path) -> str:
    """Read a password file; at each new connection, so that a changed password needs no restart."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the store's password file {path} cannot be read: {error}") from error


__all__ = ["Database", "Work", "connect", "read_password"]
