# SPDX-License-Identifier: Apache-2.0
"""Requests and tokens per minute of each principal."""

from dataclasses import replace

import pytest

from firstkit.core.errors import Limited
from firstkit.core.principal import Principal, RateLimits
from firstkit.services.admission import FORGET_AFTER_S, Admission


def limited(name: str = "ann", *, requests: int | None = None, tokens: int | None = None) -> Principal:
    limits = RateLimits(requests_per_minute=requests, tokens_per_minute=tokens)
    return Principal(subject=f"key:{name}", name=name, limits=limits)


def test_a_principal_without_limits_costs_nothing_and_is_not_remembered() -> None:
    admission = Admission()
    assert admission.admit(limited(), 0.0) == ()
    admission.charge("key:ann", 1000, 0.0)
    assert len(admission) == 0


def test_headers_tell_what_is_left() -> None:
    headers = dict(Admission().admit(limited(requests=60, tokens=1000), 0.0))
    assert headers == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1.000s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "1000",
        "x-ratelimit-reset-tokens": "0.000s",
    }


def test_requests_above_the_limit_are_refused_with_the_time_to_come_back() -> None:
    admission = Admission()
    ann = limited(requests=2)
    admission.admit(ann, 0.0)
    admission.admit(ann, 0.0)
    with pytest.raises(Limited) as told:
        admission.admit(ann, 1.0)
    assert told.value.code == "rate_limit_exceeded"
    assert told.value.retry_after_s == 29.0
    assert dict(told.value.headers)["x-ratelimit-remaining-requests"] == "0"
    assert "2 requests per minute" in told.value.message
    assert admission.admit(ann, 30.0)


def test_tokens_are_charged_afterwards_and_a_debt_is_waited_off() -> None:
    admission = Admission()
    ann = limited(tokens=600)
    admission.admit(ann, 0.0)
    admission.charge("key:ann", 1200, 5.0)
    with pytest.raises(Limited) as told:
        admission.admit(ann, 5.0)
    assert "600 tokens per minute" in told.value.message
    assert told.value.retry_after_s == 61.0
    assert dict(told.value.headers)["x-ratelimit-remaining-tokens"] == "0"
    assert dict(admission.admit(ann, 66.0))["x-ratelimit-remaining-tokens"] == "10"


def test_a_request_refused_for_its_tokens_uses_up_no_request() -> None:
    admission = Admission()
    ann = limited(requests=1, tokens=60)
    admission.admit(ann, 0.0)
    admission.charge("key:ann", 120, 0.0)
    with pytest.raises(Limited) as told:
        admission.admit(ann, 60.5)
    assert "tokens" in told.value.message
    assert admission.admit(ann, 61.0)
    with pytest.raises(Limited) as told:
        admission.admit(ann, 61.5)
    assert "requests" in told.value.message


def test_one_principals_limit_is_not_anothers() -> None:
    admission = Admission()
    admission.admit(limited("ann", requests=1), 0.0)
    admission.admit(limited("bob", requests=1), 0.0)
    with pytest.raises(Limited):
        admission.admit(limited("ann", requests=1), 0.0)


def test_changed_limits_count_at_once_and_what_was_used_stays_used() -> None:
    admission = Admission()
    ann = limited(requests=1)
    admission.admit(ann, 0.0)
    more = replace(ann, limits=RateLimits(requests_per_minute=60))
    with pytest.raises(Limited):
        admission.admit(more, 0.5)
    assert admission.admit(more, 2.0)


def test_principals_not_heard_of_for_long_are_forgotten() -> None:
    admission = Admission()
    for number in range(100):
        admission.admit(limited(f"caller-{number}", requests=5), 0.0)
    for number in range(100):
        admission.admit(limited(f"new-{number}", requests=5), FORGET_AFTER_S + 1)
    assert len(admission) == 100


def test_the_memory_is_bounded_whatever_comes() -> None:
    admission = Admission(subjects_most=50)
    for number in range(500):
        admission.admit(limited(f"caller-{number}", requests=5), float(number))
    assert len(admission) == 50
