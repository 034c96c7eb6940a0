# SPDX-License-Identifier: Apache-2.0
"""How a gateway judges an instance: alive, suspect, lost, and back."""

import pytest

from firstkit.core.health.breaker import FIRST_S, MOST_S, open_for_s
from firstkit.core.health.liveness import SOUND, Failure, Health, contact, observe, on_trial, suspicion
from firstkit.core.instance.record import Contact


def test_a_refusal_loses_an_instance_and_a_timeout_makes_it_suspect() -> None:
    assert contact(observe(SOUND, Failure.REFUSED, now=10.0), now=10.0) is Contact.LOST
    assert contact(observe(SOUND, Failure.TIMEOUT, now=10.0), now=10.0) is Contact.SUSPECT


@pytest.mark.parametrize("how", [Failure.REFUSED, Failure.TIMEOUT])
def test_an_answer_makes_it_sound_again(how: Failure) -> None:
    assert observe(observe(SOUND, how, now=10.0), Failure.OK, now=11.0) is SOUND
    assert observe(SOUND, Failure.OK, now=1.0) is SOUND


@pytest.mark.parametrize("how", [Failure.REFUSED, Failure.TIMEOUT])
def test_after_a_while_it_is_on_trial_and_counts_as_alive(how: Failure) -> None:
    failed = observe(SOUND, how, now=10.0)
    assert not on_trial(failed, now=10.0)
    assert on_trial(failed, now=failed.until)
    assert contact(failed, now=failed.until) is Contact.ALIVE
    assert not on_trial(SOUND, now=10.0)


def test_a_suspect_instance_that_refuses_is_lost() -> None:
    suspect = observe(SOUND, Failure.TIMEOUT, now=10.0)
    lost = observe(suspect, Failure.REFUSED, now=11.0)
    assert contact(lost, now=11.0) is Contact.LOST
    assert lost.strikes == 1


def test_a_lost_instance_is_not_made_suspect_by_an_old_request_that_times_out() -> None:
    lost = observe(SOUND, Failure.REFUSED, now=10.0)
    assert observe(lost, Failure.TIMEOUT, now=10.5) is lost


def test_failures_of_one_moment_are_one_strike_and_later_ones_are_more() -> None:
    health = observe(SOUND, Failure.TIMEOUT, now=10.0)
    assert observe(health, Failure.TIMEOUT, now=12.0) is health
    again = observe(health, Failure.TIMEOUT, now=health.until)
    assert again.strikes == 2
    assert again.since == 10.0


def test_each_strike_doubles_the_time_up_to_a_bound() -> None:
    health = SOUND
    pauses: list[float] = []
    now = 0.0
    for _ in range(12):
        health = observe(health, Failure.TIMEOUT, now=now)
        pauses.append(health.until - now)
        now = health.until
    assert pauses[:5] == [5.0, 10.0, 20.0, 40.0, 60.0]
    assert set(pauses[4:]) == {60.0}


@pytest.mark.parametrize("judged", [Contact.SUSPECT, Contact.LOST])
def test_a_pause_lies_between_its_first_and_its_longest(judged: Contact) -> None:
    assert open_for_s(judged, 1) == FIRST_S[judged]
    assert open_for_s(judged, 10**9) == MOST_S[judged]
    assert open_for_s(judged, 0) == FIRST_S[judged]


def test_the_least_suspect_has_the_fewest_strikes_and_among_those_is_suspect_longest() -> None:
    old, new = Health(strikes=1, since=1.0), Health(strikes=1, since=5.0)
    worse = Health(strikes=2, since=0.0)
    assert sorted([worse, new, old], key=suspicion) == [old, new, worse]
