# SPDX-License-Identifier: Apache-2.0
"""What an announced maintenance means for jobs that run, that wait, and that are to be submitted."""

from random import Random

from firstkit.core.job.record import JobState
from firstkit.core.maintenance import Notice, announcements, fit, stop_of, too_long
from firstkit.testing.records import T0, make_job

HOUR = 3600.0


def notice(in_s: float = 10 * HOUR, *, lasts_s: float = 4 * HOUR, **fields: object) -> Notice:
    usual = {"cluster": "local", "name": "maint1", "starts_at": T0 + in_s, "ends_at": T0 + in_s + lasts_s}
    return Notice(**(usual | fields))  # pyright: ignore[reportArgumentType]


def stop(*notices: Notice, nodes: tuple[str, ...] = (), reservation: str = "") -> float | None:
    job = make_job(state=JobState.RUNNING)
    found = stop_of(job, notices, reservation=reservation, nodes=frozenset(nodes), now=T0)
    return None if found is None else found[0] - T0


def test_a_job_has_to_be_gone_at_the_next_maintenance_of_its_cluster() -> None:
    assert stop(notice(9 * HOUR), notice(5 * HOUR), notice(1 * HOUR, cluster="other")) == 5 * HOUR
    assert stop(notice(-9 * HOUR)) is None


def test_a_maintenance_of_some_nodes_concerns_jobs_on_these() -> None:
    some = notice(nodes=frozenset({"n1", "n2"}))
    assert stop(some, nodes=("n2", "n3")) == 10 * HOUR
    assert stop(some, nodes=("n3",)) is None
    assert stop(some) is None


def test_a_job_in_its_own_reservation_ends_with_it() -> None:
    assert stop(notice(-HOUR, jobs=True), reservation="maint1") == 3 * HOUR
    assert stop(notice(HOUR, jobs=True), reservation="another") == HOUR


def asked(walltime_s: float | None, *notices: Notice, wait_s: float = 0.0, reservation: str = "") -> object:
    found = fit(walltime_s, notices, cluster="local", reservation=reservation, wait_s=wait_s, least_s=600.0, now=T0)
    return found.barred.name if found.barred is not None else found.walltime_s


def test_a_walltime_that_fits_stays_and_a_longer_one_is_cut_to_whole_minutes() -> None:
    assert asked(8 * HOUR, notice()) == 8 * HOUR
    assert asked(12 * HOUR, notice()) == 9 * HOUR
    assert asked(None, notice()) == 9 * HOUR
    assert asked(None) is None
    assert asked(12 * HOUR, notice(), wait_s=HOUR + 59) == 8 * HOUR - 60


def test_no_job_is_submitted_that_could_hardly_serve_before_the_maintenance_or_during_it() -> None:
    assert asked(12 * HOUR, notice(600)) == "maint1"
    assert asked(12 * HOUR, notice(-60)) == "maint1"
    assert asked(12 * HOUR, notice(-5 * HOUR)) == 12 * HOUR


def test_a_maintenance_of_some_nodes_or_for_ones_own_jobs_cuts_nothing() -> None:
    assert asked(12 * HOUR, notice(nodes=frozenset({"n1"}))) == 12 * HOUR
    assert asked(12 * HOUR, notice(jobs=True), reservation="maint1") == 12 * HOUR


def test_a_job_that_waits_too_long_does_not_fit_any_more_and_one_that_runs_is_not_looked_at() -> None:
    waits = make_job(state=JobState.QUEUED, walltime_s=10 * HOUR + 1)
    assert too_long(waits, [notice()], reservation="", now=T0)
    assert not too_long(make_job(state=JobState.QUEUED, walltime_s=9 * HOUR), [notice()], reservation="", now=T0)
    assert too_long(make_job(state=JobState.QUEUED), [notice()], reservation="", now=T0)
    assert not too_long(waits, [notice(-1)], reservation="", now=T0), "it may begin after it"
    assert not too_long(make_job(state=JobState.RUNNING, walltime_s=1e9), [notice()], reservation="", now=T0)


def test_what_is_submitted_always_ends_before_the_maintenance_if_it_waits_no_longer_than_usual() -> None:
    random = Random(4)
    for _ in range(20_000):
        in_s, wait_s = random.uniform(-100, 50_000), random.uniform(0, 20_000)
        walltime_s = random.choice([None, random.uniform(1, 60_000)])
        least_s = random.uniform(0, 900)
        found = fit(walltime_s, [notice(in_s)], cluster="local", wait_s=wait_s, least_s=least_s, now=T0)
        if found.barred is None:
            assert found.walltime_s is not None
            assert wait_s + found.walltime_s <= in_s
            assert walltime_s is None or found.walltime_s <= walltime_s


def test_people_are_told_who_announces_what_and_when() -> None:
    first = notice(5 * HOUR, by="ann", note="new racks")
    told = announcements([notice(), first, notice(cluster="other")], cluster="local", now=T0)
    assert told == [
        "maintenance of local from 1970-01-12 18:46 to 1970-01-12 22:46 UTC: new racks",
        "maintenance of local from 1970-01-12 23:46 to 1970-01-13 03:46 UTC: reservation maint1",
    ]
