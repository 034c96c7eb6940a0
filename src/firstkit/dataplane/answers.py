# SPDX-License-Identifier: Apache-2.0
"""Whole answers that the gateway gives itself: errors, health, preflights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from firstkit.core.errors import FirstError
from firstkit.core.request import Dialect
from firstkit.dataplane.reply import status_line
from firstkit.wire.problems import problem

Headers = Iterable[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAnswer:
    """What an in-process route answers."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class Local(Protocol):
    """An in-process route: `/healthz`, `/readyz`, and `/metrics` on the admin listener. Must not block."""

    def __call__(self) -> LocalAnswer: ...


def write_answer(
    status: int,
    body: bytes,
    *,
    content_type: str = "application/json",
    headers: Headers = (),
    extra: bytes = b"",
    close: bool,
    to_head: bool = False,
) -> bytes:
    """Write a whole answer. `extra` are header lines that are already bytes."""
    parts = [status_line(status), extra]
    parts += [f"{name}: {_clean(value)}\r\n".encode("latin-1", "replace") for name, value in headers]
    if body or status != 204:
        parts.append(f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\n".encode())
    if close:
        parts.append(b"connection: close\r\n")
    parts.append(b"\r\n")
    if not to_head:
        parts.append(body)
    return b"".join(parts)


def write_error(
    error: FirstError,
    *,
    dialect: Dialect = Dialect.OPENAI,
    request_id: str = "",
    headers: Headers = (),
    extra: bytes = b"",
    close: bool,
    to_head: bool = False,
) -> tuple[int, bytes]:
    """Write an error as a whole answer; return its status too."""
    told = problem(error, dialect=dialect, request_id=request_id)
    data = write_answer(
        told.status, told.body, headers=(*headers, *told.headers), extra=extra, close=close, to_head=to_head
    )
    return told.status, data


def _clean(value: str) -> str:
    """Keep a header's value on its line."""
    return value.replace("\r", " ").replace("\n", " ")
