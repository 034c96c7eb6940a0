# SPDX-License-Identifier: Apache-2.0
"""Requests and tokens per minute as one number."""

import pytest

from firstkit.core.limits.concurrency import batch_cap
from firstkit.core.limits.gcra import Rate, charge, check

RATE = Rate(limit=6)  # one each ten seconds
NEW = float("-inf")


def test_a_whole_minutes_worth_may_come_at_once_and_no_more() -> None:
    full_at = NEW
    remaining = []
    for _ in range(6):
        verdict = check(RATE, full_at, now=100.0)
        assert verdict.allowed
        full_at = verdict.full_at
        remaining.append(verdict.remaining)
    assert remaining == [5, 4, 3, 2, 1, 0]
    refused = check(RATE, full_at, now=100.0)
    assert not refused.allowed
    assert refused.wait_s == pytest.approx(10.0)
    assert refused.full_in_s == pytest.approx(60.0)


def test_a_refused_request_costs_nothing() -> None:
    full_at = check(RATE, NEW, now=0.0, cost=6).full_at
    for now in (1.0, 5.0, 9.0):
        refused = check(RATE, full_at, now=now)
        assert not refused.allowed
        full_at = refused.full_at
    assert check(RATE, full_at, now=10.0).allowed


def test_waiting_as_long_as_told_is_enough() -> None:
    full_at = check(RATE, NEW, now=0.0, cost=6).full_at
    refused = check(RATE, full_at, now=3.7, cost=2)
    assert check(RATE, refused.full_at, now=3.7 + refused.wait_s, cost=2).allowed


def test_unused_time_does_not_add_up() -> None:
    full_at = check(RATE, NEW, now=0.0).full_at
    assert check(RATE, full_at, now=1e6).remaining == 5


def test_what_costs_more_than_the_limit_is_allowed_when_the_bucket_is_full() -> None:
    assert not check(RATE, check(RATE, NEW, now=0.0).full_at, now=1.0, cost=60).allowed
    verdict = check(RATE, NEW, now=0.0, cost=60)
    assert verdict.allowed
    assert check(RATE, verdict.full_at, now=0.0).wait_s == pytest.approx(550.0)


def test_tokens_are_charged_into_debt_and_the_debt_is_paid_off_by_time() -> None:
    tokens = Rate(limit=600)
    full_at = charge(tokens, NEW, now=0.0, cost=1200)
    refused = check(tokens, full_at, now=0.0)
    assert not refused.allowed
    assert refused.remaining == 0
    assert refused.wait_s == pytest.approx(60.1)
    assert check(tokens, full_at, now=60.2).allowed


@pytest.mark.parametrize(
    ("cap", "reserve", "batch"), [(8, 0.25, 6), (8, 0.0, 8), (10, 0.01, 9), (1, 0.5, 1), (2, 1.0, 1), (0, 0.1, 0)]
)
def test_batch_leaves_its_share_free_but_may_always_use_one_place(cap: int, reserve: float, batch: int) -> None:
    assert batch_cap(cap, reserve) == batch
