# SPDX-License-Identifier: Apache-2.0
"""The one tree of errors that firstkit raises or answers with.

FirstError
├── RequestError            the client's request cannot be served as it is        fault: client
│   ├── InvalidRequest          body, header or path is wrong
│   ├── Unauthenticated         no credential, or not a valid one
│   ├── NotFound                no such route, model, or object
│   └── TooLarge                head or body over its limit
├── PolicyError             the request is fine, but may not or not now           fault: policy
│   ├── Forbidden               this principal may not
│   ├── Limited                 a rate, a queue or memory is full; try later
│   └── Unavailable             the model cannot answer now, with reason and time
├── UpstreamError           an engine failed the request                          fault: upstream
├── SiteError               a cluster, its scheduler or the machine failed        fault: site
├── ConfigError             the configuration is wrong                            fault: client
└── InternalError           our own fault                                         fault: internal

Only `wire/problems.py` knows which HTTP status and body each becomes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from firstkit.core.findings import Finding


class Fault(StrEnum):
    """Whose doing an error is."""

    CLIENT = "client"
    POLICY = "policy"
    UPSTREAM = "upstream"
    SITE = "site"
    INTERNAL = "internal"


class FirstError(Exception):
    """Carry a stable code, a sentence that says what to do, and what a client may need to act on it.

    `code` is the stable word that scripts compare; `message` is for people; `param` names the offending field;
    `retry_after_s` is set where trying again later can help.
    """

    fault: ClassVar[Fault] = Fault.INTERNAL
    retryable: ClassVar[bool] = False
    default_code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.retry_after_s = retry_after_s
        self.headers = headers


class RequestError(FirstError):
    """The client's request cannot be served as it is."""

    fault = Fault.CLIENT
    default_code = "invalid_request"


class InvalidRequest(RequestError):
    """Body, header or path is wrong."""


class Unauthenticated(RequestError):
    """No credential was given, or not a valid one."""

    default_code = "invalid_api_key"


class NotFound(RequestError):
    """No such route, model or object."""

    default_code = "not_found"


class TooLarge(RequestError):
    """Head or body is over its limit."""

    default_code = "request_too_large"


class PolicyError(FirstError):
    """The request is well formed, but may not be served, or not now."""

    fault = Fault.POLICY


class Forbidden(PolicyError):
    """This principal may not do that."""

    default_code = "forbidden"


class Limited(PolicyError):
    """A rate, a queue or a memory bound is full; trying later helps."""

    retryable = True
    default_code = "rate_limit_exceeded"


class Unavailable(PolicyError):
    """The model cannot answer now; the message says why and how long."""

    retryable = True
    default_code = "model_unavailable"


class UpstreamError(FirstError):
    """An engine failed the request."""

    fault = Fault.UPSTREAM
    retryable = True
    default_code = "engine_failed"


class SiteError(FirstError):
    """A cluster, its scheduler or this machine failed."""

    fault = Fault.SITE
    retryable = True
    default_code = "site_failed"


class ConfigError(FirstError):
    """The configuration is wrong; `findings` lists every mistake with file, line and what was expected."""

    fault = Fault.CLIENT
    default_code = "invalid_config"

    def __init__(self, message: str, *, findings: tuple[Finding, ...] = (), code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.findings = findings


class InternalError(FirstError):
    """Our own fault."""
