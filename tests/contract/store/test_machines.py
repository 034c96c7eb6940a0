# SPDX-License-Identifier: Apache-2.0
"""Jobs, instances, events, starts and the documents between controller and launcher."""

import json
from dataclasses import replace

import pytest
from sqlalchemy import select, update

from firstkit.adapters.store import SqlStore
from firstkit.adapters.store.controller import STARTS_KEPT
from firstkit.adapters.store.schema import jobs as jobs_table
from firstkit.core.errors import InternalError
from firstkit.core.instance.record import Contact, Instance, InstanceState
from firstkit.core.job.record import Job, JobState
from firstkit.core.reasons import Reason
from firstkit.core.topology import Address, AddressKind
from firstkit.ports.store import EventRow, StartRow, Term

JOB = Job(
    id="j-1",
    cluster="c",
    deployment="d",
    revision=1,
    spec="s",
    run_dir="/run/j-1",
    state=JobState.QUEUED,
    reason=Reason.JOB_WAITS,
    state_at=5.0,
    created_at=4.0,
    detail="(Priority) é",
    scheduler_id="123",
    ending_for=Reason.SCALED_IN,
    token_digest="ab" * 32,
)
INSTANCE = Instance(
    id="i-1",
    deployment="d",
    model="m",
    cluster="c",
    job="j-1",
    slot=0,
    revision=1,
    spec="s",
    state=InstanceState.READY,
    reason=Reason.SERVING,
    state_at=6.0,
    created_at=4.0,
    contact=Contact.SUSPECT,
    address=Address(kind=AddressKind.TLS, host="n1", port=42000, server_name="j-1", mutual=True),
    exit_tail=("one", "two \x00 \udcff"),
    max_model_len=8192,
)


@pytest.fixture
def term(store: SqlStore) -> Term:
    term = store.take_term(holder="a", ttl_s=60)
    assert term is not None
    return term


def test_a_job_and_an_instance_come_back_as_they_were_saved(store: SqlStore, another: SqlStore, term: Term) -> None:
    plain = replace(INSTANCE, exit_tail=("one", "two \x00"))
    store.save(term, jobs=[JOB], instances=[plain])
    assert another.jobs() == [JOB]
    assert another.instances() == [plain]


def test_half_a_character_in_an_engines_log_does_not_stop_the_controller(store: SqlStore, term: Term) -> None:
    store.save(term, instances=[INSTANCE])
    assert store.instances()[0].exit_tail == ("one", "two \x00 ?")


def test_saving_again_replaces(store: SqlStore, term: Term) -> None:
    store.save(term, jobs=[JOB, replace(JOB, id="j-2")])
    running = replace(JOB, state=JobState.RUNNING, reason=Reason.BOOTING)
    store.save(term, jobs=[running])
    assert store.jobs() == [running, replace(JOB, id="j-2")]


def test_ended_ones_are_listed_only_when_asked_for(store: SqlStore, term: Term) -> None:
    ended = [replace(JOB, id=f"j-{at}", state=JobState.ENDED, ended_at=float(at)) for at in (10, 20)]
    gone = [
        replace(INSTANCE, id=f"i-{at}", state=InstanceState.ENDED, ended_at=float(at), exit_tail=()) for at in (10, 20)
    ]
    live = replace(INSTANCE, exit_tail=())
    store.save(term, jobs=[JOB, *ended], instances=[live, *gone])
    assert [job.id for job in store.jobs()] == ["j-1"]
    assert {job.id for job in store.jobs(ended_since=10.0)} == {"j-1", "j-20"}
    assert {instance.id for instance in store.instances(ended_since=9.0)} == {"i-1", "i-10", "i-20"}


def test_a_save_that_fails_saves_nothing(store: SqlStore, term: Term) -> None:
    event = EventRow(at=1.0, kind="job", subject="j-1", state="QUEUED", reason="JOB_WAITS", detail="")
    with pytest.raises(InternalError):
        store.save(term, jobs=[JOB], events=[event, replace(event, state=None)])  # type: ignore[arg-type]
    assert store.jobs() == []
    assert store.events(subject="j-1") == []


def test_a_row_of_a_newer_version_is_read_without_what_is_new_in_it(store: SqlStore, term: Term) -> None:
    store.save(term, jobs=[JOB])

    def grow(connection) -> None:
        text = connection.execute(select(jobs_table.c.record)).scalar_one()
        connection.execute(update(jobs_table).values(record=json.dumps(json.loads(text) | {"energy_j": {"a": [1]}})))

    store.database.write(grow)
    assert store.jobs() == [JOB]


def test_a_row_of_an_older_version_gets_the_defaults(store: SqlStore, term: Term) -> None:
    store.save(term, jobs=[JOB])

    def shrink(connection) -> None:
        record = json.loads(connection.execute(select(jobs_table.c.record)).scalar_one())
        del record["detail"], record["starts_at"]
        connection.execute(update(jobs_table).values(record=json.dumps(record)))

    store.database.write(shrink)
    assert store.jobs() == [replace(JOB, detail="")]


def test_a_row_that_cannot_be_read_says_so(store: SqlStore, term: Term) -> None:
    store.save(term, jobs=[JOB])
    store.database.write(lambda c: c.execute(update(jobs_table).values(record='{"id": 3}')))
    with pytest.raises(InternalError, match="cannot read") as caught:
        store.jobs()
    assert caught.value.code == "store_unreadable"


def test_events_are_told_oldest_first_and_the_newest_are_kept_by_the_limit(store: SqlStore, term: Term) -> None:
    events = [
        EventRow(at=float(at), kind="job", subject="j-1", state="QUEUED", reason="JOB_WAITS", detail=f"{at}\x00é")
        for at in range(5)
    ]
    store.save(term, events=events[:3])
    store.save(term, events=[*events[3:], replace(events[0], subject="j-2")])
    assert [event.at for event in store.events(subject="j-1")] == [0, 1, 2, 3, 4]
    assert [event.at for event in store.events(subject="j-1", limit=2)] == [3, 4]
    assert store.events(subject="j-1")[0].detail.startswith("0")
    assert store.events(subject="nobody") == []


def test_the_newest_starts_of_each_deployment_are_listed(store: SqlStore, term: Term) -> None:
    starts = [
        StartRow(deployment=name, spec="s", job_wait_s=None, boot_s=1.0, load_s=float(number), at=float(number))
        for number in range(4)
        for name in ("a", "b")
    ]
    store.save(term, starts=starts)
    listed = store.starts(limit_each=2)
    assert [(start.deployment, start.load_s) for start in listed] == [("a", 2), ("b", 2), ("a", 3), ("b", 3)]


def test_a_report_is_kept_when_it_is_newer(store: SqlStore, another: SqlStore, term: Term) -> None:
    store.save(term, jobs=[JOB])
    another.put_report(job="j-1", seq=2, document=b"\x00two")
    another.put_report(job="j-1", seq=1, document=b"one")
    another.put_report(job="j-1", seq=2, document=b"again")
    (report,) = store.reports()
    assert (report.job, report.seq, report.document) == ("j-1", 2, b"\x00two")
    assert 0 <= report.age_s < 60
    assert report.at == pytest.approx(store.now(), abs=60)
    another.put_report(job="j-1", seq=3, document=b"three")
    assert store.reports()[0].document == b"three"


def test_reports_of_ended_and_unknown_jobs_are_not_listed(store: SqlStore, term: Term) -> None:
    store.save(term, jobs=[replace(JOB, state=JobState.ENDED, ended_at=1.0)])
    for job in ("j-1", "j-unknown"):
        store.put_report(job=job, seq=1, document=b"x")
    assert store.reports() == []


def test_desired_is_what_the_controller_last_set(store: SqlStore, another: SqlStore, term: Term) -> None:
    assert another.desired("j-1") is None
    store.set_desired(term, job="j-1", version=1, document=b"{}")
    store.set_desired(term, job="j-1", version=2, document=b'{"stop_job":true}')
    assert another.desired("j-1") == (2, b'{"stop_job":true}')


def test_newer_desired_documents_are_those_of_the_jobs_asked_for_alone(store: SqlStore, term: Term) -> None:
    jobs = [f"j-{number}" for number in range(1200)]
    for job in jobs[::100]:
        store.set_desired(term, job=job, version=3, document=job.encode())
    assert store.desired_newer({}) == []
    assert store.desired_newer(dict.fromkeys(jobs, 3)) == []
    newer = store.desired_newer(dict.fromkeys(jobs, 2) | {"j-100": 3, "j-none": 0})
    assert sorted(newer) == sorted((job, 3, job.encode()) for job in jobs[::100] if job != "j-100")


def test_a_jobs_token_is_known_until_the_job_is_forgotten(store: SqlStore, term: Term) -> None:
    assert store.job_token_digest("j-1") is None
    store.save(term, jobs=[JOB])
    assert store.job_token_digest("j-1") == ("ab" * 32, False)
    store.save(term, jobs=[replace(JOB, state=JobState.ENDED, ended_at=1.0)])
    assert store.job_token_digest("j-1") == ("ab" * 32, True)


def test_pruning_forgets_what_ended_long_ago_and_nothing_else(store: SqlStore, term: Term) -> None:
    old = [replace(JOB, id="j-old", state=JobState.ENDED, ended_at=10.0), JOB]
    gone = [replace(INSTANCE, id="i-old", state=InstanceState.ENDED, ended_at=10.0), replace(INSTANCE, exit_tail=())]
    event = EventRow(at=5.0, kind="job", subject="j-old", state="ENDED", reason="IDLE", detail="")
    many = [
        StartRow(deployment="d", spec="s", job_wait_s=None, boot_s=None, load_s=float(number), at=1.0)
        for number in range(STARTS_KEPT + 3)
    ]
    store.save(term, jobs=old, instances=gone, events=[event, replace(event, at=50.0)], starts=many)
    for job in ("j-old", "j-1"):
        store.put_report(job=job, seq=1, document=b"x")
        store.set_desired(term, job=job, version=1, document=b"x")
    # Job, instance, event, report, desired, and three starts.
    assert store.prune(term, ended_before=20.0, usage_before=None) == 8
    assert store.prune(term, ended_before=20.0, usage_before=None) == 0
    assert [job.id for job in store.jobs(ended_since=0)] == ["j-1"]
    assert [instance.id for instance in store.instances(ended_since=0)] == ["i-1"]
    assert [event.at for event in store.events(subject="j-old")] == [50.0]
    assert store.desired("j-old") is None
    assert store.desired("j-1") is not None
    assert [start.load_s for start in store.starts(limit_each=100)] == [float(n) for n in range(3, STARTS_KEPT + 3)]
