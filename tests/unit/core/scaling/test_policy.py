# SPDX-License-Identifier: Apache-2.0
"""How many instances a deployment needs, from the demand it sees."""

import pytest

from firstkit.core.catalog import Scaling
from firstkit.core.reasons import Reason
from firstkit.core.scaling.policy import LOOKS_S, RECENTLY_S, SCALE_OUT_WAIT_S, Need, need
from firstkit.core.scaling.shares import Candidate, share
from firstkit.core.scaling.signals import ModelDemand, Signals, fold
from firstkit.testing.records import make_deployment

SCALING = Scaling(min=0, max=4, in_flight=10)


def ask(*, serving: int = 0, scaling: Scaling = SCALING, **signals: float | None) -> Need:
    return need(Signals(**signals), scaling=scaling, serving=serving)  # pyright: ignore[reportArgumentType]


def test_nothing_is_needed_when_nobody_asks() -> None:
    assert ask() == Need(count=0, reason=Reason.NO_DEMAND)


def test_min_is_kept_whether_wanted_or_not() -> None:
    assert ask(scaling=Scaling(min=2, max=4)) == Need(count=2, reason=Reason.MIN_KEPT)


def test_one_waiting_request_starts_the_first_instance_at_once() -> None:
    assert ask(waiting=1) == Need(count=1, reason=Reason.DEMAND)


def test_a_request_that_came_and_went_between_two_looks_is_wanted_too() -> None:
    assert ask(wanted_ago_s=RECENTLY_S).count == 1
    assert ask(wanted_ago_s=RECENTLY_S + 0.1).count == 0


@pytest.mark.parametrize(
    ("idle_s", "wanted_for_s"), [(1.0, LOOKS_S), (5.0, 5.0), (3600.0, RECENTLY_S), (None, RECENTLY_S)]
)
def test_what_was_asked_for_is_wanted_no_longer_than_idle_but_over_several_looks(
    idle_s: float | None, wanted_for_s: float
) -> None:
    scaling = Scaling(min=0, max=4, idle_s=idle_s)
    assert ask(scaling=scaling, wanted_ago_s=wanted_for_s).count == 1
    assert ask(scaling=scaling, wanted_ago_s=wanted_for_s + 0.1).count == 0


def test_a_recent_wish_counts_from_when_it_was_and_work_from_now() -> None:
    assert ask(wanted_ago_s=4.0).ago_s == 4.0
    assert ask(wanted_ago_s=4.0, in_flight=1, serving=1).ago_s == 0.0
    assert ask(wanted_ago_s=4.0, waiting=1).ago_s == 0.0


def test_a_short_queue_beside_a_serving_instance_starts_no_other() -> None:
    assert ask(serving=1, in_flight=10, waiting=5, oldest_wait_s=SCALE_OUT_WAIT_S - 0.1).count == 1


def test_a_queue_that_does_not_drain_starts_another() -> None:
    assert ask(serving=1, in_flight=10, waiting=5, oldest_wait_s=SCALE_OUT_WAIT_S).count == 2


@pytest.mark.parametrize(("load", "count"), [(1, 1), (10, 1), (11, 2), (30, 3), (31, 4)])
def test_each_instance_carries_its_cap(load: int, count: int) -> None:
    assert ask(serving=1, in_flight=load).count == count


def test_max_is_not_exceeded_and_said_to_be_reached() -> None:
    assert ask(serving=4, in_flight=41) == Need(count=4, reason=Reason.AT_MAX)


def test_demand_of_all_gateways_is_one() -> None:
    mine, other = make_deployment("a"), make_deployment("b", model="other")
    found = fold(
        [
            ModelDemand(model="demo-model", waiting=2, oldest_wait_s=1.0, in_flight={"i-1": 3}, wanted_ago_s=5.0),
            ModelDemand(model="demo-model", waiting=1, oldest_wait_s=4.0, in_flight={"i-1": 1}, wanted_ago_s=None),
            ModelDemand(model="demo-model", waiting=0, oldest_wait_s=None, in_flight={"i-?": 9}, wanted_ago_s=2.0),
        ],
        deployments=[mine, other],
        deployment_of={"i-1": "a"},
    )
    assert found["a"] == Signals(waiting=3, oldest_wait_s=4.0, in_flight=4, wanted_ago_s=2.0)
    assert found["b"] == Signals()


def candidate(name: str, **fields: object) -> Candidate:
    usual = {
        "deployment": name, "model": "m", "signals": Signals(waiting=30, oldest_wait_s=3.0, wanted_ago_s=0.0),
        "capacity": 20, "serving": False, "coming": False, "able": True,
    }  # fmt: skip
    return Candidate(**(usual | fields))  # pyright: ignore[reportArgumentType]


def waiting(*candidates: Candidate) -> dict[str, int]:
    return {name: signals.waiting for name, signals in share(candidates).items()}


def test_the_first_deployment_that_is_able_sees_the_whole_queue_and_the_next_what_is_too_much() -> None:
    assert waiting(candidate("a"), candidate("b"), candidate("c")) == {"a": 30, "b": 10, "c": 0}


def test_a_deployment_that_serves_comes_first_wherever_it_stands() -> None:
    assert waiting(candidate("a"), candidate("b", serving=True, coming=True)) == {"b": 30, "a": 10}
    assert waiting(candidate("a"), candidate("b", coming=True, capacity=50)) == {"b": 30, "a": 0}


def test_one_that_may_not_start_is_passed_over() -> None:
    assert waiting(candidate("a", able=False), candidate("b")) == {"b": 30, "a": 0}


def test_where_none_may_start_each_sees_the_queue_and_says_why() -> None:
    assert waiting(candidate("a", able=False), candidate("b", able=False)) == {"a": 30, "b": 30}


def test_recent_demand_wakes_one_deployment_of_a_model_alone() -> None:
    asked = Signals(wanted_ago_s=1.0)
    found = share([candidate("a", signals=asked), candidate("b", signals=asked)])
    assert (found["a"].wanted_ago_s, found["b"].wanted_ago_s) == (1.0, None)


def test_what_is_in_flight_stays_with_its_deployment() -> None:
    busy = Signals(waiting=5, in_flight=18, wanted_ago_s=0.0)
    found = share([candidate("a", signals=busy, serving=True), candidate("b", signals=Signals(waiting=5, in_flight=2))])
    assert (found["a"].in_flight, found["b"].in_flight, found["b"].waiting) == (18, 2, 3)
