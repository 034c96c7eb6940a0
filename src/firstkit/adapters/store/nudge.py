# SPDX-License-Identifier: Apache-2.0
"""Tell other processes that a row they poll has changed: datagrams beside SQLite, NOTIFY on PostgreSQL.

A nudge only makes things fast: it may be lost, come twice or come late, and whoever listens polls all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import selectors
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import anyio
import anyio.to_thread
import psycopg
from sqlalchemy.exc import SQLAlchemyError

from firstkit.adapters.store.database import CONNECT_WAIT_S, Database, connect
from firstkit.core.errors import FirstError
from firstkit.core.settings import StoreSettings

TOPIC = re.compile(r"[a-z]{1,20}")
FOLDER = Path("run") / "nudges"
_CHANNEL = "firstkit"
_RETRY_FIRST_S, _RETRY_MAX_S = 0.1, 15.0

Callback = Callable[[str], None]


class Nudge(Protocol):
    """One process's end; topics are short words: demand, snapshot, catalog, keys, report, desired."""

    def send(self, topic: str) -> None:
        """Nudge whoever listens to the topic. Never waits and never fails; may be called from any thread."""
        ...

    def listen(self, topics: Iterable[str], callback: Callback) -> None:
        """Have `callback(topic)` called on the running asyncio loop at each nudge, until the end of `open_nudge`."""
        ...


@contextlib.asynccontextmanager
async def open_nudge(settings: StoreSettings, *, folder: Path) -> AsyncGenerator[Nudge]:
    """Open this process's end, for the store that `settings` names; `folder` is the state folder.

    A PostgreSQL that is away is no error: nudges begin once it answers.
    """
    if settings.url.startswith("sqlite"):
        datagrams = DatagramNudge(folder / FOLDER)
        try:
            yield datagrams
        finally:
            datagrams.close()
        return
    notify = NotifyNudge(connect(settings.url, folder=folder, password_file=settings.password_file))
    try:
        yield notify
    finally:
        notify.stop()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(notify.close)


# ------------------------------------------------------------------------------------------------------- datagrams


class DatagramNudge:
    """A Unix datagram socket for each who listens, in one folder; its file's name says to which topics.

    Addresses go through the folder's descriptor, since a socket's path may have 107 bytes only.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._listening: list[tuple[asyncio.AbstractEventLoop, socket.socket, str]] = []

    def _address(self, name: str) -> str:
        return f"/proc/self/fd/{self._folder}/{name}"

    def send(self, topic: str) -> None:
        with contextlib.suppress(OSError):
            for name in os.listdir(self._folder):  # noqa: PTH208 a Path cannot be made of a descriptor
                if topic in name.split(".", 1)[0].split("+"):
                    self._send_to(name, topic)

    def _send_to(self, name: str, topic: str) -> None:
        try:
            self._sender.sendto(topic.encode(), self._address(name))
        except ConnectionRefusedError:  # its process has died without removing it; names are never used again
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._folder)
        except OSError:  # it has just gone, or has more nudges waiting than it can hold, and so will look anyway
            return

    def listen(self, topics: Iterable[str], callback: Callback) -> None:
        wanted = _checked(topics)
        loop = asyncio.get_running_loop()
        name = f"{'+'.join(sorted(wanted))}.{os.getpid()}.{secrets.token_hex(4)}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            listener.bind(self._address(name))
        except OSError:
            listener.close()
            raise
        self._listening.append((loop, listener, name))
        loop.add_reader(listener.fileno(), _drain, listener, wanted, callback)

    def close(self) -> None:
        """Stop listening and remove what was made in the folder."""
        for loop, listener, name in self._listening:
            loop.remove_reader(listener.fileno())
            listener.close()
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._folder)
        self._listening.clear()
        self._sender.close()
        os.close(self._folder)
        self._folder = -1


def _drain(listener: socket.socket, wanted: frozenset[str], callback: Callback) -> None:
    """Read all that waits and tell each topic once."""
    told: dict[str, None] = {}
    with contextlib.suppress(BlockingIOError):
        while True:
            told[listener.recv(64).decode(errors="replace")] = None
    for topic in told:
        if topic in wanted:
            callback(topic)


def _checked(topics: Iterable[str]) -> frozenset[str]:
    wanted = frozenset(topics)
    if not wanted or not all(TOPIC.fullmatch(topic) for topic in wanted):
        raise ValueError(f"a topic is a short lower-case word: {sorted(wanted)}")
    return wanted


# ---------------------------------------------------------------------------------------------------------- NOTIFY


class NotifyNudge:
    """LISTEN and NOTIFY on a connection and in a thread of their own, made anew whenever it is lost."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pending: set[str] = set()
        self._listening: list[tuple[asyncio.AbstractEventLoop, frozenset[str], Callback]] = []
        self._lock = threading.Lock()
        self._woken = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nudge", daemon=True)
        self._thread.start()

    def send(self, topic: str) -> None:
        with self._lock:
            if self._ended.is_set():
                return
            self._pending.add(topic)
            os.eventfd_write(self._woken, 1)

    def listen(self, topics: Iterable[str], callback: Callback) -> None:
        wanted = _checked(topics)
        loop = asyncio.get_running_loop()
        with self._lock:
            self._listening.append((loop, wanted, callback))
            os.eventfd_write(self._woken, 1)

    def stop(self) -> None:
        """Tell the thread to end; nothing is called back from now on."""
        with self._lock:
            self._ended.set()
            self._listening.clear()
            os.eventfd_write(self._woken, 1)

    def close(self) -> None:
        """Wait for the thread, a connection attempt's deadline at most, and close its connection."""
        self._thread.join(2 * CONNECT_WAIT_S)
        self._database.close()
        if not self._thread.is_alive():
            os.close(self._woken)

    def _run(self) -> None:
        pause_s = _RETRY_FIRST_S
        while not self._ended.is_set():
            try:
                with self._database.engine.connect() as connection:
                    connection.execution_options(isolation_level="AUTOCOMMIT")
                    driver: Any = connection.connection.driver_connection
                    pause_s = _RETRY_FIRST_S
                    try:
                        self._serve(driver)
                    finally:
                        connection.invalidate()  # it listens, or is lost: nobody else should get it
            except (SQLAlchemyError, psycopg.Error, OSError, FirstError):
                self._ended.wait(pause_s)
                pause_s = min(2 * pause_s, _RETRY_MAX_S)

    def _serve(self, connection: psycopg.Connection[Any]) -> None:
        """Send and receive until the connection is lost (raises) or the end has been told."""
        heard: set[str] = set()
        connection.add_notify_handler(lambda notify: heard.add(notify.payload))
        listens = False
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._woken, selectors.EVENT_READ)
            waiting.register(connection.fileno(), selectors.EVENT_READ)
            while not self._ended.is_set():
                if self._listening and not listens:
                    connection.execute(f"LISTEN {_CHANNEL}".encode())
                    listens = True
                    heard |= {topic for _, topics, _ in self._listening for topic in topics}  # sent while we were away
                self._send_pending(connection)
                self._tell(heard)
                waiting.select()
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._woken)
                connection.pgconn.consume_input()
                while (notify := connection.pgconn.notifies()) is not None:
                    heard.add(notify.extra.decode(errors="replace"))

    def _send_pending(self, connection: psycopg.Connection[Any]) -> None:
        with self._lock:
            pending, self._pending = self._pending, set()
        try:
            for topic in sorted(pending):
                connection.execute("SELECT pg_notify(%s, %s)", [_CHANNEL, topic])
        except psycopg.Error:
            with self._lock:
                self._pending |= pending
            raise

    def _tell(self, heard: set[str]) -> None:
        with self._lock:
            listening = list(self._listening)
        for topic in sorted(heard):
            for loop, wanted, callback in listening:
                if topic in wanted:
                    with contextlib.suppress(RuntimeError):  # its loop has ended
                        loop.call_soon_threadsafe(callback, topic)
        heard.clear()


__all__ = ["DatagramNudge", "NotifyNudge", "Nudge", "open_nudge"]
