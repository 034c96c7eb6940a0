# SPDX-License-Identifier: Apache-2.0
"""When a successor is due, and what a decision about closing instances may never do, whatever there is."""

from dataclasses import replace
from random import Random

import pytest

from firstkit.core.catalog import Scaling
from firstkit.core.instance.record import Contact, Instance, InstanceState
from firstkit.core.reasons import Reason
from firstkit.core.scaling.diff import Situation, decide
from firstkit.core.scaling.failures import Standing
from firstkit.core.scaling.forecast import Start, Typical, slow
from firstkit.core.scaling.policy import Need
from firstkit.core.scaling.walltime import End, closing, kept_past, lead_s, margin_s
from firstkit.testing.records import T0, make_deployment, make_instance

NOW = T0 + 100_000
S = InstanceState


def serving(name: str, *, age_s: float = 50_000.0, **fields: object) -> Instance:
    usual = {"id": name, "state": S.READY, "ready_at": NOW - age_s, "wanted_at": NOW}
    return make_instance(**(usual | fields))


def end(in_s: float, reason: Reason = Reason.WALLTIME) -> End:
    return End(at=NOW + in_s, reason=reason)


def names(instances: list[Instance]) -> list[str]:
    return [item.id for item in instances]


def test_the_lead_is_what_slow_starts_take_and_a_quarter_and_a_little_more() -> None:
    assert lead_s(Typical(job_wait_s=100.0, boot_s=20.0, load_s=80.0)) == 280.0
    assert lead_s(Typical(load_s=80.0)) == 130.0


def test_where_no_start_was_ever_seen_it_is_taken_to_last_long() -> None:
    assert lead_s(Typical()) > 600


def test_slow_starts_are_told_part_by_part_and_one_exception_in_ten_is_not() -> None:
    starts = [Start(deployment="d", spec="s", job_wait_s=float(n), boot_s=None, load_s=60.0) for n in range(9)]
    assert slow(starts, deployment="d", spec="s") == Typical(job_wait_s=8.0, load_s=60.0)
    odd = Start(deployment="d", spec="s", job_wait_s=86400.0, boot_s=None, load_s=60.0)
    assert slow([*starts, odd], deployment="d", spec="s").job_wait_s == 8.0


@pytest.mark.parametrize(("walltime_s", "margin"), [(None, 30.0), (43200.0, 30.0), (60.0, 15.0)])
def test_a_short_walltime_has_a_short_margin(walltime_s: float | None, margin: float) -> None:
    assert margin_s(walltime_s) == margin


def test_an_instance_closes_when_no_more_is_left_than_the_lead() -> None:
    items = [serving("a"), serving("b")]
    ends = {"a": end(299), "b": end(301)}
    assert names(closing(items, ends, lead_s=300, abreast=None, now=NOW)) == ["a"]
    assert not closing(items, {}, lead_s=300, abreast=None, now=NOW)


def test_one_that_does_not_serve_yet_does_not_close() -> None:
    assert not closing([make_instance(state=S.LOADING)], {"i-000000000001": end(1)}, lead_s=300, abreast=None, now=NOW)


def test_half_of_the_time_is_served_however_long_a_start_takes() -> None:
    assert not closing([serving("a", age_s=400)], {"a": end(500)}, lead_s=1e6, abreast=None, now=NOW)
    assert closing([serving("a", age_s=500)], {"a": end(499)}, lead_s=1e6, abreast=None, now=NOW)


def test_those_that_end_together_close_one_after_the_other_where_one_successor_fits() -> None:
    items = [serving("a"), serving("b"), serving("c")]
    for left_s, expected in ((900, ["a"]), (600, ["a", "b"]), (300, ["a", "b", "c"]), (901, [])):
        ends = {name: end(left_s) for name in "abc"}
        assert names(closing(items, ends, lead_s=300, abreast=1, now=NOW)) == expected


def test_idle_may_keep_an_instance_beyond_its_end() -> None:
    item = replace(serving("a"), wanted_at=NOW - 100)
    assert kept_past(item, NOW + 100, idle_s=201)
    assert not kept_past(item, NOW + 100, idle_s=200)
    assert kept_past(item, NOW + 100, idle_s=None)


def situation(*instances: Instance, count: int, **fields: object) -> Situation:
    usual = Situation(
        deployment=make_deployment(scaling=Scaling(min=0, max=2, idle_s=600.0)),
        spec="spec-1",
        instances=instances,
        need=Need(count=count, reason=Reason.DEMAND if count else Reason.NO_DEMAND),
        standing=Standing(),
        now=NOW,
        drain_s=300.0,
        lead_s=300.0,
    )
    return replace(usual, **fields)  # pyright: ignore[reportArgumentType]


def test_one_that_closes_and_is_needed_gets_one_successor() -> None:
    changes = decide(situation(serving("a"), count=1, ends={"a": end(200)}))
    assert (changes.heirs, changes.start, changes.drains, changes.wanted) == (("a",), 0, (), ("a",))
    heir = make_instance(id="b", replaces="a")
    again = decide(situation(serving("a"), heir, count=1, ends={"a": end(200)}))
    assert (again.heirs, again.start, again.drains) == ((), 0, ())


def test_growth_beside_a_handover_is_no_successor() -> None:
    changes = decide(situation(serving("a"), count=2, ends={"a": end(200)}))
    assert (changes.heirs, changes.start) == (("a",), 1)


def test_the_predecessor_may_use_all_of_its_time_to_finish() -> None:
    heir = serving("b", age_s=1, replaces="a")
    (drain,) = decide(situation(serving("a"), heir, count=1, ends={"a": end(200)})).drains
    assert (drain.instance, drain.reason, drain.within_s) == ("a", Reason.WALLTIME, 200.0)


def test_a_successor_out_of_reach_relieves_nobody_and_another_is_asked_for() -> None:
    heir = serving("b", age_s=1, replaces="a", contact=Contact.LOST)
    changes = decide(situation(serving("a"), heir, count=1, ends={"a": end(200)}))
    assert (changes.heirs, changes.drains) == (("a",), ())


def test_a_handover_that_has_begun_goes_on_though_the_lead_has_shrunk() -> None:
    heir = serving("b", age_s=1, replaces="a")
    one = make_deployment(scaling=Scaling(max=1, idle_s=600.0))
    (drain,) = decide(situation(serving("a"), heir, count=1, ends={"a": end(9000)}, deployment=one)).drains
    assert drain.instance == "a"


def test_what_is_over_is_drained_and_what_waits_in_vain_called_off() -> None:
    over = {"a": End(at=NOW, reason=Reason.MAINTENANCE, margin_s=20.0)}
    changes = decide(situation(serving("a"), make_instance(id="b"), count=1, unfit=frozenset({"b"}), ends=over))
    told = [(drain.instance, drain.reason, drain.within_s) for drain in changes.drains]
    assert told == [("a", Reason.MAINTENANCE, 20.0), ("b", Reason.MAINTENANCE, 0.0)]
    assert changes.start == 1


def some_instances(random: Random) -> list[Instance]:
    items: list[Instance] = []
    for number in range(random.randrange(6)):
        item = make_instance(
            id=f"i{number}",
            state=random.choice([S.PLANNED, S.LOADING, S.READY, S.READY, S.DRAINING]),
            ready_at=NOW - random.choice([1.0, 5000.0]),
            wanted_at=NOW - random.choice([0.0, 500.0, 700.0]),
            contact=random.choice([Contact.ALIVE, Contact.ALIVE, Contact.SUSPECT, Contact.LOST]),
            spec=random.choice(["spec-1", "spec-1", "spec-0"]),
            replaces=random.choice(["", *(one.id for one in items)]),
        )
        items.append(item)
    return items


def test_whatever_there_is_no_bound_is_exceeded_and_nobody_leaves_before_a_successor_serves() -> None:
    random = Random(20)
    for _ in range(20_000):
        items = some_instances(random)
        by_id = {item.id: item for item in items}
        ends = {item.id: end(random.choice([-5, 100, 299, 5000])) for item in items if random.random() < 0.8}
        room = random.choice([None, 0, 1, 2])
        count, reserve = random.randrange(3), random.randrange(2)
        changes = decide(situation(*items, count=count, ends=ends, room=room, reserve=reserve))
        assert changes.start >= 0
        assert room is None or changes.start + len(changes.heirs) <= room
        assert len(set(changes.heirs)) == len(changes.heirs)
        for name in changes.heirs:
            assert (by_id[name].state, by_id[name].spec) == (S.READY, "spec-1")
            assert ends[name].at > NOW
        for drain in changes.drains:
            if drain.reason is Reason.WALLTIME and ends[drain.instance].at > NOW:
                heirs = [item for item in items if item.replaces == drain.instance]
                assert any((heir.state, heir.contact) == (S.READY, Contact.ALIVE) for heir in heirs)
