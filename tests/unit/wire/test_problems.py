# SPDX-License-Identifier: Apache-2.0
"""The error table: each error's status, its body in each dialect, the event that ends a stream."""

import json

import pytest

from firstkit.core.errors import (
    ConfigError,
    FirstError,
    Forbidden,
    InternalError,
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
from firstkit.wire.problems import error_event, foreign_error_event, problem, status_of

TABLE = [
    (InvalidRequest("x"), 400, "invalid_request_error", "invalid_request_error"),
    (InvalidRequest("x", code="request_timeout"), 408, "invalid_request_error", "timeout_error"),
    (InvalidRequest("x", code="method_not_allowed"), 405, "invalid_request_error", "invalid_request_error"),
    (InvalidRequest("x", code="unsupported_media_type"), 415, "invalid_request_error", "invalid_request_error"),
    (InvalidRequest("x", code="expectation_failed"), 417, "invalid_request_error", "invalid_request_error"),
    (InvalidRequest("x", code="method_not_known"), 501, "server_error", "api_error"),
    (InvalidRequest("x", code="version_not_supported"), 505, "server_error", "api_error"),
    (Unauthenticated("x"), 401, "authentication_error", "authentication_error"),
    (Forbidden("x", code="model_not_allowed"), 403, "permission_error", "permission_error"),
    (NotFound("x", code="model_not_found"), 404, "not_found_error", "not_found_error"),
    (TooLarge("x"), 413, "invalid_request_error", "request_too_large"),
    (TooLarge("x", code="head_too_large"), 431, "invalid_request_error", "invalid_request_error"),
    (Limited("x"), 429, "rate_limit_error", "rate_limit_error"),
    (InternalError("x"), 500, "server_error", "api_error"),
    (UpstreamError("x"), 502, "server_error", "api_error"),
    (UpstreamError("x", code="engine_timeout"), 504, "server_error", "timeout_error"),
    (Unavailable("x", code="model_starting"), 503, "server_error", "overloaded_error"),
    (SiteError("x"), 503, "server_error", "overloaded_error"),
    (ConfigError("x"), 422, "invalid_request_error", "invalid_request_error"),
]


@pytest.mark.parametrize(("error", "status", "kind", "anthropic"), TABLE)
def test_an_error_has_one_status_and_each_dialects_own_body(
    error: FirstError, status: int, kind: str, anthropic: str
) -> None:
    assert status_of(error) == status
    for dialect in (Dialect.OPENAI, Dialect.RESPONSES):
        told = problem(error, dialect=dialect, request_id="req-1")
        assert told.status == status
        assert json.loads(told.body) == {"error": {"message": "x", "type": kind, "param": None, "code": error.code}}
    told = problem(error, dialect=Dialect.ANTHROPIC, request_id="req-1")
    assert json.loads(told.body) == {
        "type": "error",
        "error": {"type": anthropic, "message": "x", "code": error.code},
        "request_id": "req-1",
    }


def test_the_time_to_come_back_is_told_in_whole_seconds_rounded_up() -> None:
    for seconds, told in ((0.2, "1"), (1.0, "1"), (1.1, "2"), (90.0, "90")):
        assert ("retry-after", told) in problem(Limited("x", retry_after_s=seconds)).headers
    assert not any(name == "retry-after" for name, _ in problem(Limited("x")).headers)


def test_who_are_you_says_how_to_answer() -> None:
    assert ("www-authenticate", "Bearer") in problem(Unauthenticated("x")).headers


def test_headers_of_the_error_and_its_param_are_told() -> None:
    error = Limited("x", param="model", headers=(("x-ratelimit-limit-requests", "5"),))
    told = problem(error)
    assert ("x-ratelimit-limit-requests", "5") in told.headers
    assert json.loads(told.body)["error"]["param"] == "model"
    assert json.loads(problem(error, dialect=Dialect.ANTHROPIC).body)["error"]["param"] == "model"


def fields_of(event: bytes, name: str) -> dict:
    start = f"event: {name}\n".encode() if name else b""
    assert event.startswith(start + b"data: ")
    assert event.endswith(b"\n\n")
    assert event.count(b"\n") == (3 if name else 2)
    return json.loads(event[len(start) + 6 :])


def test_a_stream_ends_in_the_event_of_its_dialect() -> None:
    error = UpstreamError("line\nbreak")
    chat = fields_of(error_event(error, dialect=Dialect.OPENAI), "")
    assert chat == {"error": {"message": "line\nbreak", "type": "server_error", "param": None, "code": "engine_failed"}}
    responses = fields_of(error_event(error, dialect=Dialect.RESPONSES, sequence_number=7), "error")
    assert (responses["type"], responses["sequence_number"], responses["code"]) == ("error", 7, "engine_failed")
    assert responses["error"]["message"] == responses["message"] == "line\nbreak"
    messages = fields_of(error_event(error, dialect=Dialect.ANTHROPIC), "error")
    assert messages["error"]["type"] == "api_error"


@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"too long","code":400}}', "too long"),
        (b'{"detail":"Not Found"}', "The engine answered with status 404."),
        (b"<html>", "The engine answered with status 404."),
        (b'{"error":"text"}', "The engine answered with status 404."),
        (b'["error"]', "The engine answered with status 404."),
    ],
)
def test_an_engines_error_answer_becomes_an_event(dialect: Dialect, body: bytes, message: str) -> None:
    event = foreign_error_event(body, status=404, dialect=dialect)
    error = fields_of(event, "" if dialect is Dialect.OPENAI else "error")["error"]
    assert error["message"] == message
