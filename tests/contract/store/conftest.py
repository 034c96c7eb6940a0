# SPDX-License-Identifier: Apache-2.0
"""Stores for the contract suite: each test gets a fresh one, once on SQLite and once on a real PostgreSQL."""

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from firstkit.adapters.store import SqlStore, migrate_store, open_store
from firstkit.core.settings import StoreSettings

PASSWORD = "only-for-tests"
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def find_tools() -> Path | None:
    """Find the folder of initdb and postgres: the newest that Debian has, or the one on the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


def _unprivileged() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


class PostgresServer:
    """One cluster. Users: `owner` (everything, no password) and `guarded` (needs PASSWORD)."""

    def __init__(self, tools: Path) -> None:
        self._tools = tools
        # Not under pytest's folder, which only root may enter; a socket's path must be short, too.
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self._as: dict[str, Any] = {}
        if os.getuid() == 0:  # the server refuses to run as root
            user = _unprivileged()
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._process: subprocess.Popen[Any] | None = None
        self._databases = 0

    def initialise(self) -> None:
        """Make the cluster's files."""
        self._run("initdb", "-D", "data", "-U", "owner", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        (self.folder / "data" / "pg_hba.conf").write_text("local all guarded scram-sha-256\nlocal all owner trust\n")

    def _run(self, tool: str, *arguments: str) -> None:
        subprocess.run(
            [self._tools / tool, *arguments],
            cwd=self.folder,
            check=True,
            capture_output=True,
            env=ENVIRONMENT,
            **self._as,
        )

    def start(self) -> None:
        """Start the server and wait until it answers."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
            "max_connections": "60",
            "shared_buffers": "16MB",
        }
        flags = [flag for key, value in settings.items() for flag in ("-c", f"{key}={value}")]
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [self._tools / "postgres", "-D", "data", *flags],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                env=ENVIRONMENT,
                **self._as,
            )
        self._process = process
        deadline = time.monotonic() + 30
        while True:
            try:
                self.admin().close()
                return
            except psycopg.OperationalError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.folder / "log").read_text()) from None
                time.sleep(0.05)

    def stop(self) -> None:
        """End the server by its pid: fast shutdown, which cuts all sessions."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(10)
        self._process = None

    def remove(self) -> None:
        """End the server and forget its data."""
        self.stop()
        shutil.rmtree(self.folder)

    def admin(self, database: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(host=str(self.folder), user="owner", dbname=database, autocommit=True, connect_timeout=5)

    def create(self, *, template: str = "template0", owner: str = "owner") -> str:
        """Make a database and return its name."""
        self._databases += 1
        name = f"db{self._databases}"
        with self.admin() as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} OWNER {owner}".encode())
        return name

    def drop(self, name: str) -> None:
        with self.admin() as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

    def url(self, name: str, *, user: str = "owner") -> str:
        return f"postgresql://{user}@/{name}?host={self.folder}"

    def cut(self, name: str) -> int:
        """End all sessions of a database, as a restart or a firewall would; return how many there were."""
        with self.admin() as connection:
            query = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s"
            return len(connection.execute(query, [name]).fetchall())


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    tools = find_tools()
    if tools is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    server = PostgresServer(tools)
    try:
        server.initialise()
        server.start()
        with server.admin() as connection:
            connection.execute(f"CREATE ROLE guarded LOGIN PASSWORD '{PASSWORD}'".encode())
        yield server
    finally:
        server.remove()


@dataclass(frozen=True)
class Place:
    """Where one store lies: its settings and the state folder; `open` opens it."""

    settings: StoreSettings
    folder: Path

    def open(self) -> SqlStore:
        return open_store(self.settings, folder=self.folder)


class SqlitePlaces:
    """Makes stores in files; copies a migrated one, as migrating takes a while."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = itertools.count()
        self._ready = self.empty()
        migrate_store(self._ready.settings, folder=self._ready.folder)

    def empty(self) -> Place:
        folder = self._folder / str(next(self._count))
        return Place(StoreSettings(url="sqlite:///first.db"), folder)

    def ready(self) -> Place:
        place = self.empty()
        place.folder.mkdir()
        shutil.copy(self._ready.folder / "first.db", place.folder)
        return place

    def remove(self, place: Place) -> None:
        shutil.rmtree(place.folder, ignore_errors=True)


class PostgresPlaces:
    """Makes stores in databases of one server; copies a migrated one."""

    def __init__(self, server: PostgresServer, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._template = server.create()
        migrate_store(self._place(self._template).settings, folder=folder)

    def _place(self, name: str) -> Place:
        return Place(StoreSettings(url=self._server.url(name)), self._folder)

    def empty(self) -> Place:
        return self._place(self._server.create())

    def ready(self) -> Place:
        return self._place(self._server.create(template=self._template))

    def remove(self, place: Place) -> None:
        self._server.drop(place.settings.url.split("@/")[1].split("?")[0])


@pytest.fixture(scope="session", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def places(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SqlitePlaces | PostgresPlaces:
    folder = tmp_path_factory.mktemp("stores")
    if request.param == "sqlite":
        return SqlitePlaces(folder)
    return PostgresPlaces(request.getfixturevalue("postgres"), folder)


@pytest.fixture
def empty_place(places: SqlitePlaces | PostgresPlaces) -> Iterator[Place]:
    """Where a store may be made."""
    place = places.empty()
    yield place
    places.remove(place)


@pytest.fixture
def place(places: SqlitePlaces | PostgresPlaces) -> Iterator[Place]:
    """Where a migrated store lies."""
    place = places.ready()
    yield place
    places.remove(place)


@pytest.fixture
def store(place: Place) -> Iterator[SqlStore]:
    store = place.open()
    yield store
    store.close()


@pytest.fixture
def another(place: Place) -> Iterator[SqlStore]:
    """The same store as another process has it open."""
    store = place.open()
    yield store
    store.close()
