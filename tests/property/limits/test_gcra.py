# SPDX-License-Identifier: Apache-2.0
"""The rate limit against what it promises, for any sequence of requests."""

from hypothesis import given
from hypothesis import strategies as st

from firstkit.core.limits.gcra import Rate, charge, check

steps = st.lists(st.tuples(st.floats(0.0, 30.0), st.integers(1, 5)), max_size=60)
limits = st.integers(1, 50)


@given(limits, steps)
def test_no_stretch_of_time_sees_more_than_the_limit_and_what_it_brings(
    limit: int, asked: list[tuple[float, int]]
) -> None:
    rate = Rate(limit=limit)
    now, full_at = 0.0, float("-inf")
    admitted: list[tuple[float, int]] = []
    for pause, cost in asked:
        now += pause
        verdict = check(rate, full_at, now=now, cost=cost)
        full_at = verdict.full_at
        assert 0 <= verdict.remaining <= limit
        if verdict.allowed:
            admitted.append((now, cost))
    for first in range(len(admitted)):
        spent = 0
        for moment, cost in admitted[first:]:
            spent += cost
            allowed = limit + (moment - admitted[first][0]) / rate.unit_s
            # what costs more than the whole limit passes once, on a full bucket
            assert spent <= allowed + 1e-6 * limit + max(0, cost - limit)


@given(limits, steps, st.integers(1, 5))
def test_whoever_waits_as_long_as_told_is_let_in(limit: int, asked: list[tuple[float, int]], last: int) -> None:
    rate = Rate(limit=limit)
    now, full_at = 0.0, float("-inf")
    for pause, cost in asked:
        now += pause
        full_at = check(rate, full_at, now=now, cost=cost).full_at
    refused = check(rate, full_at, now=now, cost=last)
    assert check(rate, refused.full_at if not refused.allowed else full_at, now=now + refused.wait_s, cost=last).allowed


@given(limits, st.lists(st.tuples(st.floats(0.0, 30.0), st.integers(0, 500)), max_size=40))
def test_charged_debt_is_paid_off_by_time_alone(limit: int, charges: list[tuple[float, int]]) -> None:
    rate = Rate(limit=limit)
    now, full_at, total = 0.0, float("-inf"), 0
    for pause, cost in charges:
        now += pause
        full_at = charge(rate, full_at, now=now, cost=cost)
        total += cost
    assert check(rate, full_at, now=now + total * rate.unit_s + rate.per_s).remaining == limit - 1
