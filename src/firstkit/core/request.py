# SPDX-License-Identifier: Apache-2.0
"""What is known of one request before anything is decided about it, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from firstkit.core.principal import Principal


class RequestClass(StrEnum):
    """Interactive requests are pushed to engines at once; batch requests are pulled when there is room."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class Dialect(StrEnum):
    """Which API's error bodies, error events and usage fields a route speaks."""

    OPENAI = "openai"
    RESPONSES = "responses"
    ANTHROPIC = "anthropic"


@dataclass(slots=True, kw_only=True)
class RequestFacts:
    """A request that passed identity and syntax, ready for admission and routing.

    Not frozen, since one is made for every request and frozen costs three times as much; nobody changes it.

    `model` is the canonical name, `asked` what the client wrote. `cluster` pins it (None: any). `max_wait_s` is the
    client's own bound on waiting (None: the gateway's default; 0: do not wait).
    """

    id: str
    principal: Principal
    path: str
    model: str
    asked: str
    cluster: str | None = None
    stream: bool = False
    max_tokens: int | None = None
    body_bytes: int = 0
    request_class: RequestClass = RequestClass.INTERACTIVE
    max_wait_s: float | None = None


class Outcome(StrEnum):
    """How one attempt or one whole request ended."""

    COMPLETE = "complete"
    ENGINE_ERROR = "engine_error"
    CLIENT_GONE = "client_gone"
    CUT = "cut"
    REFUSED = "refused"
    RETRIED = "retried"
    TIMED_OUT = "timed_out"
    REJECTED = "rejected"


class UsageSource(StrEnum):
    """Where token counts come from: the engine said so, we counted chunks, or nobody knows."""

    ENGINE = "engine"
    COUNTED = "counted"
    UNKNOWN = "unknown"


@dataclass(slots=True, kw_only=True)
class Usage:
    """Tokens of one attempt. Not frozen, for speed; nobody changes it."""

    source: UsageSource = UsageSource.UNKNOWN
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None


@dataclass(slots=True, kw_only=True)
class AttemptRecord:
    """One line of the spool: everything that is kept of one attempt of a request; never any content.

    Not frozen, for speed; nobody changes it.

    `at` is wall time (Unix seconds) of the request's arrival, for records only. Durations are seconds from that moment.
    `ended` marks the last attempt, by which the request is settled. `decision` tells why this instance was chosen, in
    words.
    """

    request: str
    attempt: int
    ended: bool
    at: float
    subject: str
    project: str
    client_request_id: str
    path: str
    model: str
    asked: str
    deployment: str
    cluster: str
    instance: str
    stream: bool
    request_class: RequestClass
    outcome: Outcome
    status: int
    error_code: str
    decision: str
    usage: Usage
    waited_s: float
    first_byte_s: float | None
    first_token_s: float | None
    total_s: float
    gap_max_s: float | None
    gap_mean_s: float | None
    chunks: int
    request_bytes: int
    response_bytes: int
