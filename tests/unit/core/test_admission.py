# SPDX-License-Identifier: Apache-2.0
"""Whether a request is held, tried again, and what it is told of the time."""

from dataclasses import replace

import pytest

from firstkit.core.admission import Hold, TurnAway, Why, hold, wait_bound_s
from firstkit.core.estimate import UNKNOWN_RETRY_S, DrainRate, queue_retry_s, queue_wait_s, retry_after_s, to_hot_left_s
from firstkit.core.reasons import Reason
from firstkit.core.retry import Stop, stop
from firstkit.core.topology import Heat, ModelStatus

COLD = ModelStatus(model="m", heat=Heat.COLD, reason=Reason.NO_DEMAND)
HELD = ModelStatus(model="m", heat=Heat.COLD, reason=Reason.HELD, held=True)


@pytest.mark.parametrize(
    ("max_wait_s", "stream", "bound_s"),
    [(None, True, None), (None, False, 540.0), (10.0, True, 10.0), (10.0, False, 10.0), (900.0, False, 900.0)],
)
def test_the_clients_own_bound_counts_before_the_settings(
    max_wait_s: float | None, stream: bool, bound_s: float | None
) -> None:
    assert wait_bound_s(max_wait_s=max_wait_s, stream=stream, hold_s=540.0) == bound_s


def test_a_negative_bound_is_none_at_all() -> None:
    assert wait_bound_s(max_wait_s=-5.0, stream=True, hold_s=540.0) == 0.0


def test_a_model_that_comes_in_time_or_nobody_knows_when_is_waited_for() -> None:
    assert hold(COLD, to_hot_s=100.0, bound_s=100.0) == Hold(bound_s=100.0)
    assert hold(COLD, to_hot_s=None, bound_s=100.0) == Hold(bound_s=100.0)
    assert hold(None, to_hot_s=None, bound_s=None) == Hold(bound_s=None)
    assert hold(COLD, to_hot_s=1e9, bound_s=None) == Hold(bound_s=None)


def test_a_model_that_comes_too_late_is_not() -> None:
    assert hold(COLD, to_hot_s=100.1, bound_s=100.0) == TurnAway(why=Why.TOO_LONG, retry_after_s=100.1)


def test_no_wait_means_none_however_soon_the_model_comes() -> None:
    assert hold(COLD, to_hot_s=0.1, bound_s=0.0) == TurnAway(why=Why.NO_WAIT, retry_after_s=0.1)


def test_a_held_model_is_waited_for_by_nobody() -> None:
    assert hold(HELD, to_hot_s=1.0, bound_s=None) == TurnAway(why=Why.MODEL_HELD, retry_after_s=None)


def test_nothing_is_sent_again_once_part_of_the_answer_has_gone_out() -> None:
    assert stop(attempt=1, attempts=3, answered=True) is Stop.ANSWERED
    assert stop(attempt=1, attempts=3, answered=False) is None


def test_attempts_the_body_and_the_client_must_all_be_there_for_another_try() -> None:
    assert stop(attempt=2, attempts=3, answered=False) is None
    assert stop(attempt=3, attempts=3, answered=False) is Stop.ATTEMPTS
    assert stop(attempt=1, attempts=3, answered=False, body_kept=False) is Stop.BODY_GONE
    assert stop(attempt=1, attempts=3, answered=False, client_gone=True) is Stop.CLIENT_GONE


def test_a_prediction_counts_down_to_nothing_and_unknown_stays_unknown() -> None:
    loading = replace(COLD, heat=Heat.WARM, to_hot_s=30.0)
    assert to_hot_left_s(loading, elapsed_s=12.0) == 18.0
    assert to_hot_left_s(loading, elapsed_s=31.0) == 0.0
    assert to_hot_left_s(replace(loading, to_hot_s=None), elapsed_s=31.0) is None


def test_the_prediction_for_a_start_that_has_not_begun_stands_still() -> None:
    assert to_hot_left_s(replace(COLD, to_hot_s=30.0), elapsed_s=600.0) == 30.0


def test_retry_after_is_in_whole_seconds_and_bounded() -> None:
    assert [retry_after_s(seconds) for seconds in (0.0, 0.2, 1.0, 1.01, 1e9)] == [1.0, 1.0, 1.0, 2.0, 3600.0]


def test_the_wait_in_a_queue_follows_from_its_speed() -> None:
    assert queue_wait_s(9, 2.0) == 5.0
    assert queue_wait_s(9, None) is None
    assert queue_retry_s(9, 2.0) == 5.0
    assert queue_retry_s(9, None) == UNKNOWN_RETRY_S


def test_the_speed_of_a_queue_is_learnt_and_forgotten() -> None:
    rate = DrainRate()
    assert rate.per_s(now=0.0) is None
    rate.begin(now=0.0)
    assert rate.per_s(now=60.0) is None
    for number in range(1, 201):
        rate.note(now=60.0 + number / 4)
    assert rate.per_s(now=110.0) == pytest.approx(4.0, rel=0.3)
    for number in range(200):
        rate.note(now=110.0 + number)
    assert rate.per_s(now=310.0) == pytest.approx(1.0, rel=0.1)
    assert rate.per_s(now=1e6) is None


def test_time_in_which_nobody_waited_does_not_count() -> None:
    rate = DrainRate()
    rate.begin(now=0.0)
    for number in range(1, 61):
        rate.note(now=float(number))
    rate.begin(now=5000.0)
    assert rate.per_s(now=5000.0) == pytest.approx(1.0, rel=0.15)
