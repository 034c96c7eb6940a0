# SPDX-License-Identifier: Apache-2.0
"""What changes for one deployment: starts, drains, replacements, and the verdict people see."""

from dataclasses import replace
from typing import Any

import pytest

from firstkit.core.catalog import Deployment, Scaling, UpdateStyle
from firstkit.core.instance.record import Contact, Instance, InstanceState
from firstkit.core.reasons import Reason
from firstkit.core.scaling.diff import Changes, Situation, decide
from firstkit.core.scaling.failures import Standing
from firstkit.core.scaling.policy import Need
from firstkit.testing.records import T0, make_deployment, make_instance

NOW = T0 + 10_000
S = InstanceState


def one(
    name: str, state: InstanceState = S.READY, *, old: bool = False, idle_s: float = 0.0, **fields: object
) -> Instance:
    return make_instance(
        **{
            "id": name,
            "state": state,
            "spec": "spec-0" if old else "spec-1",
            "created_at": NOW - 5000 + len(name),
            "ready_at": NOW - 4000 if state in {S.READY, S.DRAINING} else None,
            "wanted_at": NOW - idle_s,
            **fields,
        }
    )


def situation(*instances: Instance, count: int = 0, reason: Reason | None = None, **fields: object) -> Situation:
    usual = Situation(
        deployment=make_deployment(scaling=Scaling(min=0, max=4, idle_s=600.0)),
        spec="spec-1",
        instances=instances,
        need=Need(count=count, reason=reason or (Reason.DEMAND if count else Reason.NO_DEMAND)),
        standing=Standing(),
        now=NOW,
        drain_s=300.0,
    )
    return replace(usual, **fields)  # pyright: ignore[reportArgumentType]


def drained(changes: Changes) -> dict[str, Reason]:
    return {drain.instance: drain.reason for drain in changes.drains}


DRAIN_FIRST: Deployment = make_deployment(update=UpdateStyle.DRAIN_FIRST)


def test_what_is_missing_is_started() -> None:
    changes = decide(situation(one("a"), count=3))
    assert (changes.start, changes.start_reason, changes.verdict, changes.wanted) == (
        2, Reason.DEMAND, Reason.DEMAND, ("a",),
    )  # fmt: skip


def test_what_is_on_its_way_counts() -> None:
    assert decide(situation(one("a", S.PLANNED), one("b", S.LOADING), count=2)).start == 0


def test_what_drains_does_not_count() -> None:
    assert decide(situation(one("a", S.DRAINING), count=1)).start == 1


def test_an_instance_out_of_reach_does_not_count_and_is_not_drained() -> None:
    changes = decide(situation(one("a", contact=Contact.LOST, idle_s=9999), count=1))
    assert (changes.start, changes.drains) == (1, ())


def test_a_suspect_instance_counts() -> None:
    assert decide(situation(one("a", contact=Contact.SUSPECT), count=1)).start == 0


def test_beyond_max_demand_still_starts_up_to_max_and_says_so() -> None:
    changes = decide(situation(one("a"), count=4, reason=Reason.AT_MAX))
    assert (changes.start, changes.start_reason, changes.verdict) == (3, Reason.DEMAND, Reason.AT_MAX)


def test_after_a_failure_one_is_tried_at_a_time() -> None:
    assert decide(situation(count=3, standing=Standing(failures=1))).start == 1


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({"standing": Standing(held=True, failures=4, detail="boom")}, Reason.HELD),
        ({"cluster_stopped": True}, Reason.CLUSTER_STOPPED),
        ({"cordoned": True}, Reason.CORDONED),
        ({"standing": Standing(failures=1, wait_s=3.0)}, Reason.BACKING_OFF),
        ({"room": 0}, Reason.CLUSTER_LIMIT),
        ({"blocked": Reason.UPDATED}, Reason.UPDATED),
    ],
)
def test_what_forbids_a_start_is_the_verdict(fields: dict[str, Any], verdict: Reason) -> None:
    changes = decide(situation(count=1, **fields))
    assert (changes.start, changes.verdict) == (0, verdict)
    assert decide(situation(one("a"), count=1, **fields)).verdict is Reason.DEMAND


def test_room_bounds_what_is_started() -> None:
    assert decide(situation(count=3, room=2)).start == 2


def test_a_ready_instance_that_nobody_needed_for_idle_is_drained() -> None:
    assert drained(decide(situation(one("a", idle_s=600)))) == {"a": Reason.SCALED_IN}
    assert not decide(situation(one("a", idle_s=599))).drains


def test_idle_counts_from_ready_when_that_was_later() -> None:
    assert not decide(situation(one("a", idle_s=9999, ready_at=NOW - 10))).drains


def test_without_idle_nothing_is_scaled_in() -> None:
    never = make_deployment(scaling=Scaling(min=0, max=4, idle_s=None))
    assert not decide(situation(one("a", idle_s=10**6), deployment=never)).drains


def test_what_still_comes_keeps_its_place_for_linger() -> None:
    patient = make_deployment(scaling=Scaling(min=0, max=4, idle_s=60.0, linger_s=3600.0))
    assert not decide(situation(one("a", S.PLANNED, idle_s=3599), deployment=patient)).drains
    assert drained(decide(situation(one("a", S.LOADING, idle_s=3600), deployment=patient))) == {"a": Reason.SCALED_IN}


def test_min_is_never_drained_for_idleness_and_the_youngest_goes_first() -> None:
    keep = make_deployment(scaling=Scaling(min=1, max=4, idle_s=60.0))
    changes = decide(situation(one("a", idle_s=99), one("bb", idle_s=99), count=1, deployment=keep))
    assert drained(changes) == {"bb": Reason.SCALED_IN}


def test_a_lower_max_drains_at_once() -> None:
    lower = make_deployment(scaling=Scaling(min=0, max=1, idle_s=None))
    assert drained(decide(situation(one("a"), one("bb"), count=1, deployment=lower))) == {"bb": Reason.OVERRIDE}


def test_a_removed_or_draining_deployment_drains_everything() -> None:
    assert drained(decide(situation(one("a"), one("b", S.PLANNED), removed=True))) == {
        "a": Reason.REMOVED, "b": Reason.REMOVED,
    }  # fmt: skip
    assert drained(decide(situation(one("a"), count=1, draining=True))) == {"a": Reason.OVERRIDE}


def test_a_roll_keeps_the_old_until_new_ones_are_ready() -> None:
    changes = decide(situation(one("a", old=True), count=1))
    assert (changes.start, changes.drains) == (1, ())
    assert not decide(situation(one("a", old=True), one("b", S.LOADING), count=1)).drains
    assert drained(decide(situation(one("a", old=True), one("b"), count=1))) == {"a": Reason.UPDATED}


def test_a_roll_of_several_never_falls_below_what_is_needed() -> None:
    olds = [one("a", old=True), one("bb", old=True)]
    first = decide(situation(*olds, one("c"), one("d", S.LOADING), count=2))
    assert len(first.drains) == 1
    left = [item for item in olds if item.id not in drained(first)]
    gone = [replace(item, state=S.DRAINING) for item in olds if item.id in drained(first)]
    assert not decide(situation(*left, *gone, one("c"), one("d", S.LOADING), count=2)).drains


def test_old_instances_that_nobody_needs_or_that_still_load_go_at_once() -> None:
    assert drained(decide(situation(one("a", old=True)))) == {"a": Reason.UPDATED}
    assert drained(decide(situation(one("a", S.LOADING, old=True), count=1))) == {"a": Reason.UPDATED}


def test_a_roll_without_room_lets_one_old_instance_make_room() -> None:
    olds = [one("a", old=True), one("bb", old=True)]
    full: dict[str, Any] = {"count": 2, "room": 0, "crowded": True}
    assert len(decide(situation(*olds, **full)).drains) == 1
    leaving = [replace(olds[1], state=S.DRAINING)]
    assert not decide(situation(olds[0], *leaving, **full)).drains


def test_a_limit_that_only_time_lifts_does_not_end_what_serves() -> None:
    assert not decide(situation(one("a", old=True), count=1, room=0, crowded=False)).drains


def test_drain_first_starts_the_new_only_when_the_old_is_gone() -> None:
    changes = decide(situation(one("a", old=True), count=1, deployment=DRAIN_FIRST))
    assert (changes.start, drained(changes)) == (0, {"a": Reason.UPDATED})
    assert decide(situation(one("a", S.DRAINING, old=True), count=1, deployment=DRAIN_FIRST)).start == 0
    assert decide(situation(count=1, deployment=DRAIN_FIRST)).start == 1
