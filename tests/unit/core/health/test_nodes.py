# SPDX-License-Identifier: Apache-2.0
"""Which nodes are left out: bad twice while others are not, for a time, never many, and cleared by what goes well."""

import random
from dataclasses import replace

from firstkit.core.health.nodes import EXCLUDED_S, REMEMBERED_S, SHARE, exclusions
from firstkit.core.instance.record import Instance, InstanceState
from firstkit.core.job.record import Job
from firstkit.core.reasons import Reason
from firstkit.testing.records import make_instance, make_job

History = list[tuple[float, str, bool]]


def records(history: History) -> tuple[list[Job], list[Instance]]:
    """Make a job and an instance for each (time, node, whether it was fit)."""
    jobs: list[Job] = []
    instances: list[Instance] = []
    for number, (at, node, fit) in enumerate(history):
        job = make_job(id=f"j-{number:012d}", cluster="c", nodes=(node,) if node else ())
        item = make_instance(id=f"i-{number:012d}", cluster="c", job=job.id)
        if fit:
            item = replace(item, state=InstanceState.READY, ready_at=at)
        else:
            item = replace(
                item, state=InstanceState.ENDED, reason=Reason.NODE_UNFIT, ended_at=at, detail=f"{node}: no GPU"
            )
        jobs.append(job)
        instances.append(item)
    return jobs, instances


def out(history: History, *, now: float, cleared_at: float | None = None) -> list[str]:
    jobs, instances = records(history)
    return [one.node for one in exclusions(jobs, instances, cluster="c", cleared_at=cleared_at, now=now)]


TWICE: History = [(10.0, "n1", False), (20.0, "n1", False)]


def test_a_node_is_left_out_after_two_instances_in_a_row_found_it_unfit() -> None:
    assert out(TWICE[:1], now=30.0) == []
    assert out(TWICE, now=30.0) == ["n1"]


def test_it_is_told_until_when_and_why() -> None:
    jobs, instances = records(TWICE)
    [one] = exclusions(jobs, instances, cluster="c", cleared_at=None, now=30.0)
    assert (one.until, one.detail) == (20.0 + EXCLUDED_S, "n1: no GPU")


def test_where_other_nodes_are_unfit_too_the_fault_is_in_what_is_asked_for() -> None:
    assert out([(5.0, "n2", False), *TWICE], now=30.0) == []


def test_another_node_that_has_done_well_since_does_not_count() -> None:
    assert out([(5.0, "n2", False), (8.0, "n2", True), *TWICE], now=30.0) == ["n1"]


def test_one_that_is_left_out_already_does_not_hide_a_second_bad_node_where_there_are_many() -> None:
    many: History = [(float(number), f"m{number}", True) for number in range(2 * SHARE)]
    second: History = [(40.0, "n2", False), (50.0, "n2", False)]
    assert out([*many, *TWICE, *second], now=60.0) == ["n1", "n2"]
    assert out([*TWICE, *second], now=60.0) == ["n1"], "among few nodes only one is left out"


def test_an_engine_that_becomes_ready_there_clears_a_node() -> None:
    assert out([*TWICE, (30.0, "n1", True)], now=40.0) == []
    assert out([(10.0, "n1", False), (15.0, "n1", True), (20.0, "n1", False)], now=40.0) == []


def test_time_clears_a_node_and_one_more_find_leaves_it_out_again() -> None:
    later = 20.0 + EXCLUDED_S
    assert out(TWICE, now=later - 1.0) == ["n1"]
    assert out(TWICE, now=later) == []
    assert out([*TWICE, (later + 5.0, "n1", False)], now=later + 6.0) == ["n1"]


def test_an_operator_clears_all_nodes_of_a_cluster() -> None:
    assert out(TWICE, now=30.0, cleared_at=25.0) == []
    assert out([*TWICE, (26.0, "n1", False)], now=30.0, cleared_at=25.0) == []
    assert out([*TWICE, (26.0, "n1", False), (27.0, "n1", False)], now=30.0, cleared_at=25.0) == ["n1"]


def test_what_was_long_ago_is_forgotten() -> None:
    assert out([(10.0, "n1", False), (20.0 + REMEMBERED_S, "n1", False)], now=21.0 + REMEMBERED_S) == []


def test_other_clusters_and_unknown_nodes_do_not_count() -> None:
    jobs, instances = records(TWICE)
    assert exclusions(jobs, instances, cluster="d", cleared_at=None, now=30.0) == ()
    assert out([(10.0, "", False), (20.0, "", False)], now=30.0) == []


def test_whatever_happens_only_a_share_is_left_out_and_order_of_records_does_not_matter() -> None:
    dice = random.Random(4)
    for _ in range(300):
        history = [
            (dice.uniform(0, 2 * EXCLUDED_S), f"n{dice.randrange(12)}", dice.random() < 0.3)
            for _ in range(dice.randrange(60))
        ]
        now = 2 * EXCLUDED_S + 1
        found = out(history, now=now)
        assert len(found) <= max(1, len({node for _, node, _ in history}) // SHARE)
        assert set(found) <= {node for _, node, fit in history if not fit}
        jobs, instances = records(history)
        dice.shuffle(instances)
        assert {one.node for one in exclusions(jobs, instances, cluster="c", cleared_at=None, now=now)} == set(found)
