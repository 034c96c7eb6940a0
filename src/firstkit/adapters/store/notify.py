# SPDX-License-Identifier: Apache-2.0
"""Nudges over PostgreSQL: LISTEN and NOTIFY on a connection of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import threading
from collections.abc import Iterable
from typing import Any

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from firstkit.adapters.store.database import CONNECT_WAIT_S, Database
from firstkit.adapters.store.nudge import Callback, checked_topics
from firstkit.core.errors import FirstError

_CHANNEL = "firstkit"
_RETRY_FIRST_S, _RETRY_MAX_S = 0.1, 15.0


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
        wanted = checked_topics(topics)
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
