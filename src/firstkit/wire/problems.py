# SPDX-License-Identifier: Apache-2.0
"""The one place where an error becomes HTTP: status, headers, and the body or event of the route's dialect."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, cast

from firstkit.core.errors import (
    ConfigError,
    FirstError,
    Forbidden,
    InvalidRequest,
    Limited,
    NotFound,
    SiteError,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UpstreamError,
)
from firstkit.core.request import Dialect
from firstkit.wire.anthropic import errors as anthropic
from firstkit.wire.openai import errors as openai

_STATUS_OF_CLASS: tuple[tuple[type[FirstError], int], ...] = (
    (Unauthenticated, 401),
    (NotFound, 404),
    (TooLarge, 413),
    (InvalidRequest, 400),
    (Forbidden, 403),
    (Limited, 429),
    (Unavailable, 503),
    (UpstreamError, 502),
    (SiteError, 503),
    (ConfigError, 422),
)

_STATUS_OF_CODE = {
    "head_too_large": 431,
    "request_timeout": 408,
    "method_not_allowed": 405,
    "method_not_known": 501,
    "transfer_encoding_not_supported": 501,
    "version_not_supported": 505,
    "unsupported_media_type": 415,
    "expectation_failed": 417,
    "engine_timeout": 504,
    "job_gone": 410,
}
"""Codes whose status is finer than their class's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An error as it goes over the wire. `headers` has no content type and no length."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def status_of(error: FirstError) -> int:
    """Say which status an error is answered with."""
    if (status := _STATUS_OF_CODE.get(error.code)) is not None:
        return status
    return next((status for kind, status in _STATUS_OF_CLASS if isinstance(error, kind)), 500)


def problem(error: FirstError, *, dialect: Dialect = Dialect.OPENAI, request_id: str = "") -> Problem:
    """Turn an error into an answer in the route's dialect."""
    status = status_of(error)
    headers = list(error.headers)
    if error.retry_after_s is not None:
        headers.append(("retry-after", str(max(1, math.ceil(error.retry_after_s)))))
    if status == 401:
        headers.append(("www-authenticate", "Bearer"))
    if dialect is Dialect.ANTHROPIC:
        body = anthropic.error_body(
            status=status, code=error.code, message=error.message, param=error.param, request_id=request_id
        )
    else:
        body = openai.error_body(status=status, code=error.code, message=error.message, param=error.param)
    return Problem(status=status, headers=tuple(headers), body=body)


def error_event(error: FirstError, *, dialect: Dialect, sequence_number: int = 0) -> bytes:
    """Turn an error into the event that ends a stream of the route's dialect."""
    status = status_of(error)
    if dialect is Dialect.ANTHROPIC:
        return anthropic.error_event(
            anthropic.error_fields(status=status, code=error.code, message=error.message, param=error.param)
        )
    fields = openai.error_fields(status=status, code=error.code, message=error.message, param=error.param)
    return _openai_event(fields, dialect=dialect, sequence_number=sequence_number)


def foreign_error_event(body: bytes, *, status: int, dialect: Dialect, sequence_number: int = 0) -> bytes:
    """Turn an engine's error answer into an event, for a stream whose head had already gone out.

    The engine's own error object is kept where it has one; otherwise ours says which status it answered.
    """
    error: dict[str, Any] = {}
    try:
        fields = json.loads(body)
        given = fields.get("error") if isinstance(fields, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if isinstance(given, dict):
            error = cast("dict[str, Any]", given)
    except ValueError:
        pass
    message = str(error.get("message") or f"The engine answered with status {status}.")
    if dialect is Dialect.ANTHROPIC:
        own = anthropic.error_fields(status=status, code="engine_failed", message=message, param=None)
        return anthropic.error_event({**own, **error})
    own = openai.error_fields(status=status, code="engine_failed", message=message, param=None)
    return _openai_event({**own, **error}, dialect=dialect, sequence_number=sequence_number)


def _openai_event(fields: dict[str, Any], *, dialect: Dialect, sequence_number: int) -> bytes:
    if dialect is Dialect.RESPONSES:
        return openai.responses_event(fields, sequence_number)
    return openai.chat_event(fields)
