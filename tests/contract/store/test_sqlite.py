# SPDX-License-Identifier: Apache-2.0
"""What can befall an SQLite file, each told in one sentence."""

import ctypes
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from firstkit.adapters.store import SqlStore, database, migrate_store, open_store
from firstkit.core.errors import ConfigError, FirstError, SiteError
from firstkit.core.settings import StoreSettings
from firstkit.ports.store import StoreUnavailable

SETTINGS = StoreSettings(url="sqlite:///first.db")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    migrate_store(SETTINGS, folder=tmp_path)
    return tmp_path


@pytest.fixture
def alone(folder: Path) -> Iterator[SqlStore]:
    store = open_store(SETTINGS, folder=folder)
    yield store
    store.close()


def is_one_sentence(error: FirstError) -> bool:
    return "\n" not in error.message and len(error.message) < 300


@pytest.mark.parametrize(
    "url", ["first.db", "sqlite://", "sqlite:///:memory:", "mysql://host/x", "postgresql://me:secret@host/x"]
)
def test_a_url_that_cannot_be_a_store_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(StoreSettings(url=url), folder=tmp_path)
    assert is_one_sentence(caught.value)
    assert "secret" not in caught.value.message


def as_somebody_else(work: Callable[[], object]) -> list[BaseException]:
    """Run work with the file rights of another user, in a thread, since Linux keeps these per thread."""
    raised: list[BaseException] = []

    def run() -> None:
        ctypes.CDLL(None).setfsuid(65534)
        try:
            work()
        except BaseException as error:  # noqa: BLE001 handed back
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised


def test_an_unwritable_folder_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o500)
    work = lambda: migrate_store(SETTINGS, folder=folder)  # noqa: E731
    if os.getuid() == 0:
        raised = as_somebody_else(work)
    else:
        with pytest.raises(SiteError) as caught:
            work()
        raised = [caught.value]
    (error,) = raised
    assert isinstance(error, SiteError)
    assert error.code == "store_not_writable"
    assert is_one_sentence(error)


def test_a_full_disk_is_told_and_over_when_there_is_room_again(alone: SqlStore) -> None:
    bounded = True

    def bound(connection: Any, _record: object, _proxy: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0] if bounded else 1_000_000
        connection.execute(f"PRAGMA max_page_count={pages}")

    event.listen(alone.database.engine, "checkout", bound)
    with pytest.raises(StoreUnavailable, match="full; free some space") as caught:
        alone.add_revision(document="x" * 1_000_000, by="ann")
    assert caught.value.code == "store_full"
    assert is_one_sentence(caught.value)
    assert alone.current_revision() is None
    bounded = False
    assert alone.add_revision(document="x" * 1_000_000, by="ann").number == 1


def test_a_store_that_somebody_holds_for_too_long_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_WAIT_S", 0.05)
    store = open_store(SETTINGS, folder=folder)
    other = sqlite3.connect(folder / "first.db", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="busy") as caught:
            store.add_revision(document="a", by="ann")
        assert is_one_sentence(caught.value)
        assert store.current_revision() is None  # reading never waits
        other.execute("ROLLBACK")
        assert store.add_revision(document="a", by="ann").number == 1
    finally:
        other.close()
        store.close()


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "first.db").write_bytes(b"not a database, by far" * 1000)
    with pytest.raises(SiteError, match="damaged or no database") as caught:
        open_store(SETTINGS, folder=tmp_path)
    assert is_one_sentence(caught.value)


def test_a_writer_killed_in_the_middle_leaves_the_store_as_it_was(folder: Path, alone: SqlStore) -> None:
    alone.add_revision(document="before", by="ann")
    program = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('BEGIN IMMEDIATE')\n"
        "connection.execute('DELETE FROM revisions')\n"
        "print('written', flush=True)\n"
        "sys.stdin.read()\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", program, str(folder / "first.db")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        writer.kill()
    assert [revision.document for revision in alone.revisions()] == ["before"]
    assert alone.add_revision(document="after", by="ann").number == 2


def test_the_files_are_the_owners_alone(folder: Path, alone: SqlStore) -> None:
    alone.add_revision(document="a", by="ann")
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {"first.db": 0o600, "first.db-wal": 0o600, "first.db-shm": 0o600}


def test_one_call_is_one_short_transaction(alone: SqlStore, folder: Path) -> None:
    alone.current_revision()
    other = sqlite3.connect(folder / "first.db", isolation_level=None, timeout=0)
    other.execute("BEGIN EXCLUSIVE")  # would fail if the store still held anything
    other.close()


def test_beside_sqlite_no_process_loads_the_driver_of_postgres() -> None:
    program = (
        "import sys, pathlib, tempfile\n"
        "from firstkit.adapters.store import migrate_store, nudge, open_store\n"
        "from firstkit.core.settings import StoreSettings\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    settings = StoreSettings(url='sqlite:///first.db')\n"
        "    migrate_store(settings, folder=pathlib.Path(folder))\n"
        "    open_store(settings, folder=pathlib.Path(folder)).close()\n"
        "print('psycopg' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
