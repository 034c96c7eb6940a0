# SPDX-License-Identifier: Apache-2.0
"""Failures in a row: back-off, hold, release."""

import random

import pytest

from firstkit.core.instance.record import Instance, InstanceState
from firstkit.core.reasons import FAILURES, HEALING, Reason
from firstkit.core.scaling.failures import HEALTHY_S, NEVER_HEAL, Patience, Standing, standing
from firstkit.testing.records import T0, make_instance

PATIENCE = Patience(failures_to_hold=4, backoff_first_s=2.0, backoff_max_s=300.0)


def ended(at: float, reason: Reason = Reason.ENGINE_EXIT, **fields: object) -> Instance:
    return make_instance(
        **{"id": f"i-{at:.3f}", "state": InstanceState.ENDED, "reason": reason, "ended_at": T0 + at, **fields}
    )


def judge(
    *instances: Instance, now: float, released_at: float | None = None, patience: Patience = PATIENCE
) -> Standing:
    return standing(
        instances,
        spec="spec-1",
        released_at=None if released_at is None else T0 + released_at,
        now=T0 + now,
        patience=patience,
    )


def test_nothing_has_failed() -> None:
    assert judge(now=0) == Standing()


def test_the_pause_doubles_with_each_failure_and_runs_down() -> None:
    assert judge(ended(0), now=0).wait_s == 2.0
    assert judge(ended(0), ended(10), now=10).wait_s == 4.0
    assert judge(ended(0), ended(10), ended(20), now=21).wait_s == 7.0
    assert judge(ended(0), now=100).wait_s == 0.0


def test_after_a_few_in_a_row_it_is_held_with_the_last_ones_reason_and_words() -> None:
    found = judge(*(ended(at, detail=f"end {at}") for at in range(4)), now=5)
    assert (found.held, found.failures, found.reason, found.detail) == (True, 4, Reason.ENGINE_EXIT, "end 3")
    assert not judge(*(ended(at) for at in range(3)), now=5).held


@pytest.mark.parametrize("reason", sorted(NEVER_HEAL))
def test_what_waiting_cannot_mend_is_held_at_the_second(reason: Reason) -> None:
    assert not judge(ended(0, reason), now=1).held
    assert judge(ended(0, reason), ended(1, reason), now=2).held


@pytest.mark.parametrize("reason", sorted(HEALING))
def test_failures_of_the_site_are_waited_out_and_never_hold(reason: Reason) -> None:
    found = judge(*(ended(at, reason) for at in range(100)), now=100)
    assert not found.held
    assert found.wait_s == 299.0


def test_a_very_long_row_does_not_overflow() -> None:
    found = judge(*(ended(at, Reason.NODE_FAILURE) for at in range(3000)), now=3000)
    assert found.failures == 3000


@pytest.mark.parametrize("reason", sorted(set(Reason) - FAILURES))
def test_other_ends_neither_count_nor_reset(reason: Reason) -> None:
    assert judge(ended(0, reason), now=1) == Standing()
    assert judge(ended(0), ended(1, reason), ended(2), now=2).failures == 2


def test_a_healthy_life_before_a_failure_starts_a_new_row() -> None:
    healthy = ended(HEALTHY_S + 50, ready_at=T0 + 50.0)
    assert judge(ended(0), ended(1), healthy, now=HEALTHY_S + 50).failures == 1


def test_a_healthy_life_that_ended_well_resets() -> None:
    good = ended(HEALTHY_S + 50, Reason.SCALED_IN, ready_at=T0 + 50.0)
    assert judge(ended(0), ended(1), good, now=HEALTHY_S + 51) == Standing()


def test_a_short_life_does_not_reset() -> None:
    assert judge(ended(0), ended(HEALTHY_S - 1, ready_at=T0 + 1.0), now=HEALTHY_S).failures == 2


def test_a_release_forgives_what_was_before_it() -> None:
    four = [ended(at) for at in range(4)]
    assert judge(*four, now=5).held
    assert judge(*four, now=5, released_at=3) == Standing()
    assert judge(*four, ended(6), now=7, released_at=4).failures == 1


def test_another_spec_starts_afresh() -> None:
    assert judge(*(ended(at, spec="spec-0") for at in range(9)), now=9) == Standing()


def test_without_words_the_last_line_of_the_log_says_what_happened() -> None:
    assert judge(ended(0, exit_tail=("one", "two")), now=1).detail == "two"


def test_the_order_of_the_records_does_not_matter() -> None:
    chance = random.Random(3)
    rows = [ended(at, chance.choice(sorted(Reason)), ready_at=T0 + at - chance.uniform(0, 300)) for at in range(40)]
    first = judge(*rows, now=41)
    for _ in range(20):
        chance.shuffle(rows)
        assert judge(*rows, now=41) == first
