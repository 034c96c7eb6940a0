# SPDX-License-Identifier: Apache-2.0
"""Error bodies and error events of OpenAI's API, chat and Responses."""

from __future__ import annotations

import json
from typing import Any

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def error_type(status: int) -> str:
    """Name the class of error as OpenAI does."""
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")


def error_fields(*, status: int, code: str, message: str, param: str | None) -> dict[str, Any]:
    """Build the `error` object."""
    return {"message": message, "type": error_type(status), "param": param, "code": code}


def error_body(*, status: int, code: str, message: str, param: str | None) -> bytes:
    """Build the body of an error answer."""
    return json.dumps({"error": error_fields(status=status, code=code, message=message, param=param)}).encode()


def chat_event(error: dict[str, Any]) -> bytes:
    """End a chat or completions stream with an error; the API's own last event does not follow."""
    return b"data: " + json.dumps({"error": error}).encode() + b"\n\n"


def responses_event(error: dict[str, Any], sequence_number: int) -> bytes:
    """End a Responses stream with an error.

    The API's own event has its fields at the top; the official clients raise when there is an `error` object, so both
    are given.
    """
    fields = {
        "type": "error",
        "code": error.get("code"),
        "message": error.get("message"),
        "param": error.get("param"),
        "sequence_number": sequence_number,
        "error": error,
    }
    return b"event: error\ndata: " + json.dumps(fields).encode() + b"\n\n"
