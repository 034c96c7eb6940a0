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
import socket
from collections.abc import AsyncGenerator, Callable, Iterable
from pathlib import Path
from typing import Protocol

import anyio
import anyio.to_thread

from firstkit.adapters.store.database import connect
from firstkit.core.settings import StoreSettings

TOPIC = re.compile(r"[a-z]{1,20}")
FOLDER = Path("run") / "nudges"

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
    # psycopg takes 10 MB, which a process beside SQLite need not spend.
    from firstkit.adapters.store.notify import NotifyNudge  # noqa: PLC0415

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
        wanted = checked_topics(topics)
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


def checked_topics(topics: Iterable[str]) -> frozenset[str]:
    """Return the topics as a set; ValueError for what is no topic."""
    wanted = frozenset(topics)
    if not wanted or not all(TOPIC.fullmatch(topic) for topic in wanted):
        raise ValueError(f"a topic is a short lower-case word: {sorted(wanted)}")
    return wanted


__all__ = ["DatagramNudge", "Nudge", "open_nudge"]
