# SPDX-License-Identifier: Apache-2.0
"""Error bodies and error events of Anthropic's Messages API."""

from __future__ import annotations

import json
from typing import Any

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_type(status: int) -> str:
    """Name the class of error as Anthropic does."""
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")


def error_fields(*, status: int, code: str, message: str, param: str | None) -> dict[str, Any]:
    """Build the `error` object: Anthropic's own two fields, and ours beside them."""
    fields: dict[str, Any] = {"type": error_type(status), "message": message, "code": code}
    if param is not None:
        fields["param"] = param
    return fields


def error_body(*, status: int, code: str, message: str, param: str | None, request_id: str) -> bytes:
    """Build the body of an error answer."""
    error = error_fields(status=status, code=code, message=message, param=param)
    return json.dumps({"type": "error", "error": error, "request_id": request_id}).encode()


def error_event(error: dict[str, Any]) -> bytes:
    """End a Messages stream with an error."""
    return b"event: error\ndata: " + json.dumps({"type": "error", "error": error}).encode() + b"\n\n"
