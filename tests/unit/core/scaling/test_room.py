# SPDX-License-Identifier: Apache-2.0
"""What a cluster's hard limits leave."""

import pytest

from firstkit.core.catalog import ClusterLimits
from firstkit.core.job.record import Job, JobState
from firstkit.core.scaling.room import Room, room
from firstkit.testing.records import T0, make_job

NODES = {"big": 4, "demo": 1}


def left(limits: ClusterLimits, *jobs: Job, now: float = T0) -> Room:
    return room(limits, jobs, nodes_of=lambda name: NODES.get(name, 1), now=now)


def job(state: JobState = JobState.RUNNING, **fields: object) -> Job:
    return make_job(**{"state": state, "submitted_at": T0 - 10, **fields})


def test_no_limit_is_no_bound() -> None:
    assert left(ClusterLimits(), job(), job()).for_jobs_of(1) is None


@pytest.mark.parametrize("state", [one for one in JobState if one is not JobState.ENDED])
def test_every_job_that_has_not_ended_takes_a_place(state: JobState) -> None:
    assert left(ClusterLimits(jobs=3), job(state), job(JobState.ENDED)).for_jobs_of(1) == 2


def test_room_is_never_negative() -> None:
    assert left(ClusterLimits(jobs=1), job(), job()).for_jobs_of(1) == 0


def test_nodes_are_counted_by_what_each_deployment_holds_and_needs() -> None:
    found = left(ClusterLimits(nodes=10), job(deployment="big"), job())
    assert (found.for_jobs_of(1), found.for_jobs_of(4), found.for_jobs_of(6)) == (5, 1, 0)


def test_submissions_of_the_last_hour_and_those_about_to_be_count() -> None:
    jobs = [job(JobState.ENDED), job(JobState.ENDED, submitted_at=T0 - 3601), job(JobState.PLANNED, submitted_at=None)]
    assert left(ClusterLimits(submits_per_hour=5), *jobs).for_jobs_of(1) == 3


def test_node_hours_of_the_last_day_close_the_cluster_when_they_are_used() -> None:
    yesterday = job(JobState.ENDED, deployment="big", running_at=T0 - 30 * 3600, ended_at=T0 - 23 * 3600)
    assert left(ClusterLimits(node_hours_per_day=4.0), yesterday).for_jobs_of(1) == 0
    assert left(ClusterLimits(node_hours_per_day=4.1), yesterday).for_jobs_of(1) is None


def test_taking_makes_less() -> None:
    found = left(ClusterLimits(jobs=3, nodes=8))
    found.take(1, nodes=4)
    assert (found.for_jobs_of(1), found.for_jobs_of(4)) == (2, 1)


def test_only_places_that_come_free_are_a_crowd() -> None:
    assert left(ClusterLimits(jobs=1), job()).crowded(1)
    assert left(ClusterLimits(nodes=4), job()).crowded(4)
    assert not left(ClusterLimits(jobs=2), job()).crowded(1)
    assert not left(ClusterLimits(jobs=1, submits_per_hour=1), job()).crowded(1)


def test_the_limit_that_is_reached_is_named() -> None:
    assert left(ClusterLimits(jobs=1, nodes=9), job()).notes(1) == ("limits.jobs of the cluster is reached",)
