# SPDX-License-Identifier: Apache-2.0
"""Sends at the end of a turn of the loop what it has produced: writes back to back wake a sleeping reader once."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Sender(Protocol):
    """Whoever holds bytes until the end of the turn."""

    def flush(self) -> None:
        """Hand them to the transport now; nothing held is no error."""
        ...


class Outbox:
    """The senders of this turn, in the order in which they first had something to send."""

    __slots__ = ("_flushing", "_loop", "_senders")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._senders: list[Sender] = []
        self._flushing = False

    def add(self, sender: Sender) -> None:
        """Have the sender flushed once the events that are already here have been taken, or in the present flush."""
        if not self._senders and not self._flushing:
            self._loop.call_soon(self._flush)
        self._senders.append(sender)

    def _flush(self) -> None:
        self._flushing = True
        try:
            while self._senders:
                senders, self._senders = self._senders, []
                for sender in senders:
                    try:
                        sender.flush()
                    except Exception as error:  # noqa: BLE001 one sender's fault must not keep the others' bytes back
                        self._loop.call_exception_handler({"message": "sending failed", "exception": error})
        finally:
            self._flushing = False
