# SPDX-License-Identifier: Apache-2.0
"""Instances cancelled from outside at similar idle ages point to a site that ends idle jobs; nothing else does."""

import pytest

from firstkit.core.instance.record import Instance, InstanceState
from firstkit.core.reasons import Reason
from firstkit.core.scaling.failures import Patience, Standing, standing
from firstkit.testing.records import T0, make_instance

NOW = T0 + 1_000_000


def ended(number: int, idle_s: float, reason: Reason = Reason.CANCELLED, **fields: object) -> Instance:
    at = NOW - number * 10_000
    usual = {"id": f"i{number}", "state": InstanceState.ENDED, "reason": reason, "ended_at": at}
    return make_instance(**(usual | {"ready_at": at - 9000, "used_at": at - idle_s} | fields))


def judged(*instances: Instance, released_at: float | None = None) -> Standing:
    return standing(instances, spec="spec-1", released_at=released_at, now=NOW, patience=Patience())


def test_three_in_a_row_at_about_the_same_idle_age_hold_and_say_what_to_ask_for() -> None:
    found = judged(ended(1, 3600), ended(2, 3500), ended(3, 3650))
    assert (found.held, found.reason) == (True, Reason.CANCELLED_BY_SITE)
    assert "after about 1 h 1 min without a request" in found.detail
    assert "ask it to exempt" in found.detail


@pytest.mark.parametrize(
    "instances",
    [
        [ended(1, 3600), ended(2, 3600)],
        [ended(1, 3600), ended(2, 3600), ended(3, 1000)],
        [ended(1, 10), ended(2, 10), ended(3, 10)],
        [ended(1, 3600, Reason.PREEMPTED), ended(2, 3600), ended(3, 3600)],
        [ended(1, 3600, Reason.WALLTIME), ended(2, 3600), ended(3, 3600), ended(4, 3600)],
        [ended(1, 3600, Reason.SCALED_IN), ended(2, 3600), ended(3, 3600), ended(4, 3600)],
    ],
)
def test_fewer_different_or_busy_ones_and_other_ends_hold_nothing(instances: list[Instance]) -> None:
    assert not judged(*instances).held


def test_one_that_never_served_tells_nothing_either_way() -> None:
    never = ended(0, 0, Reason.CANCELLED, ready_at=None)
    assert judged(never, ended(1, 3600), ended(2, 3600), ended(3, 3600)).held


def test_a_release_ends_the_hold_and_what_came_before_is_forgotten() -> None:
    instances = [ended(1, 3600), ended(2, 3600), ended(3, 3600)]
    assert not judged(*instances, released_at=NOW).held
