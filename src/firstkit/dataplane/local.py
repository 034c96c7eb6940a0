# SPDX-License-Identifier: Apache-2.0
"""Requests that the gateway answers itself and at once: health, preflights, refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firstkit.core.errors import FirstError
from firstkit.dataplane.answers import LocalAnswer, write_answer, write_error

if TYPE_CHECKING:
    from firstkit.dataplane.connection import Connection
    from firstkit.dataplane.head import Head


class LocalExchange:
    """Answers in `begin`; what it is given is an answer or the error to answer with."""

    __slots__ = ("_conn", "_extra", "_head", "_told")

    def __init__(self, conn: Connection, head: Head, told: LocalAnswer | FirstError, *, extra: bytes = b"") -> None:
        self._conn = conn
        self._head = head
        self._told = told
        self._extra = extra

    def begin(self) -> None:
        """Answer (called by the connection)."""
        conn, told = self._conn, self._told
        close, to_head = conn.will_close(), self._head.method == "HEAD"
        if isinstance(told, LocalAnswer):
            data = write_answer(
                told.status,
                told.body,
                content_type=told.content_type,
                headers=told.headers,
                extra=self._extra,
                close=close,
                to_head=to_head,
            )
        else:
            _, data = write_error(told, extra=self._extra, close=close, to_head=to_head)
        conn.write(data)
        conn.finished()

    def body(self, piece: bytes) -> None:
        """No body is asked for."""

    def body_end(self) -> None:
        """No body is asked for."""

    def client_gone(self) -> None:
        """Nothing is under way."""

    def client_slow(self) -> None:
        """Nothing more is written."""

    def client_ready(self) -> None:
        """Nothing more is written."""

    def refuse(self, error: FirstError) -> None:
        """Do nothing: the answer has been given."""

    def on_due(self) -> None:
        """No deadline is set."""
