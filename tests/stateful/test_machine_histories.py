# SPDX-License-Identifier: Apache-2.0
"""Long seeded histories of both machines, with events duplicated, reordered and lost; invariants after each step."""

import random
from collections import deque

import pytest

from firstkit.core.instance.machine import InstanceEvent, InstanceEventKind
from firstkit.core.instance.machine import step as step_instance
from firstkit.core.instance.record import Instance, InstanceState
from firstkit.core.job.machine import JobEvent, JobEventKind
from firstkit.core.job.machine import step as step_job
from firstkit.core.job.record import Job, JobState
from firstkit.core.reasons import ENDS, Reason
from firstkit.core.scaling.walltime import End
from firstkit.core.snapshot import routes
from firstkit.core.topology import Address, AddressKind
from firstkit.ports.scheduler import JobPhase, Observation, SeenJob
from firstkit.services.observation import take_observation
from firstkit.services.world import World
from firstkit.testing.records import T0, make_deployment, make_instance, make_job

STEPS = 100_000
ADDRESS = Address(kind=AddressKind.UNIX, path="/e.sock")
ENDINGS = sorted(ENDS)


class Disorder:
    """A channel that loses, repeats and reorders what is put in."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._held: deque[object] = deque()

    def pass_on(self, event: object) -> list[object]:
        """Take an event; give what comes out now: nothing, this one, it twice, an older one."""
        self._held.append(event)
        out: list[object] = []
        while self._held and self._chance.random() < 0.6:
            self._held.rotate(self._chance.randrange(len(self._held)))
            one = self._held.popleft()
            if self._chance.random() < 0.1:
                continue
            out.append(one)
            if self._chance.random() < 0.2:
                self._held.append(one)
        return out


def job_event(chance: random.Random, at: float) -> JobEvent:
    kind = chance.choice(list(JobEventKind))
    return JobEvent(
        kind=kind,
        at=at,
        reason=chance.choice([None, *ENDINGS]),
        detail=chance.choice(["", "words"]),
        scheduler_id=chance.choice(["", "1", "2"]),
        ends_at=chance.choice([None, at + 100.0]),
        starts_at=chance.choice([None, at + 10.0]),
    )


def check_job(before: Job, event: JobEvent, after: Job) -> None:
    order = list(JobState)
    assert order.index(after.state) >= order.index(before.state), "a job never goes back"
    if before.state is JobState.ENDED:
        assert after is before, "ENDED is final"
    if before.scheduler_id:
        assert after.scheduler_id == before.scheduler_id, "a job keeps its first id"
    if before.ending_for is not None:
        assert after.ending_for is before.ending_for, "the first wish is kept"
    if before.state is JobState.ENDING and before.reason in ENDS:
        ends = {JobEventKind.SEEN_ENDING, JobEventKind.SEEN_ENDED}
        precise = before.reason is Reason.CANCELLED and event.kind in ends
        assert after.reason in {before.reason, after.ending_for} or precise, "the first reason of an end is kept"
    if after.state is JobState.ENDED:
        assert after.ended_at is not None
        assert after.reason in ENDS, "an end says why"
        if after.ending_for is not None:
            assert after.reason is after.ending_for, "our own wish is the reason"
    if after.state is before.state:
        assert after.state_at == before.state_at
    assert step_job(after, event) == after or step_job(after, event).state is not after.state, "a replay is no news"


@pytest.mark.parametrize("seed", [1, 2])
def test_a_job_keeps_its_laws_through_any_history(seed: int) -> None:
    chance = random.Random(seed)
    disorder, job, ended = Disorder(chance), make_job(), 0
    for number in range(STEPS):
        for event in disorder.pass_on(job_event(chance, T0 + number)):
            assert isinstance(event, JobEvent)
            after = step_job(job, event)
            check_job(job, event, after)
            job = after
        if job.state is JobState.ENDED and chance.random() < 0.3:
            ended += 1
            job = make_job(id=f"j-{number:012}")
    assert ended > STEPS / 50


def instance_event(chance: random.Random, at: float) -> InstanceEvent:
    return InstanceEvent(
        kind=chance.choice(list(InstanceEventKind)),
        at=at,
        reason=chance.choice([None, *ENDINGS]),
        address=chance.choice([None, ADDRESS]),
        load_s=chance.choice([None, 3.0]),
        fraction=chance.choice([None, 0.5]),
        drain_by=chance.choice([None, at + 30.0, at + 300.0]),
    )


def check_instance(before: Instance, event: InstanceEvent, after: Instance) -> None:
    if before.state is InstanceState.ENDED:
        assert after is before, "ENDED is final"
    if before.state is InstanceState.DRAINING:
        assert after.state in {InstanceState.DRAINING, InstanceState.ENDED}, "nothing comes back from draining"
        if before.drain_by is not None:
            assert after.drain_by is not None
            assert after.drain_by <= before.drain_by, "a deadline only comes nearer"
    if before.drain_for is not None:
        assert after.drain_for is before.drain_for, "the first reason of a drain is kept"
    if before.state is InstanceState.READY and after.state is InstanceState.LOADING:
        assert event.kind is InstanceEventKind.NOT_ANSWERING
    if after.state is InstanceState.ENDED:
        assert after.ended_at is not None
        assert after.engine_key is None
    assert step_instance(after, event) == after or step_instance(after, event).state is not after.state


def check_routes(item: Instance, job: Job, now: float) -> None:
    for route in routes(
        [item],
        ends={} if job.ends_at is None else {item.id: End(at=job.ends_at, reason=Reason.WALLTIME)},
        made_from=lambda _: make_deployment(),
        cordoned=frozenset(),
        paths=lambda _: frozenset(),
        served_name=lambda _: "",
        now=now,
    ):
        assert item.state in {InstanceState.READY, InstanceState.DRAINING}
        assert route.draining or item.state is InstanceState.READY, "no new requests for what drains"
        assert route.ends_in_s is None or job.ends_at is None or now + route.ends_in_s <= max(now, job.ends_at) + 1e-6


@pytest.mark.parametrize("seed", [3, 4])
def test_an_instance_keeps_its_laws_through_any_history(seed: int) -> None:
    chance = random.Random(seed)
    disorder, item, ended = Disorder(chance), make_instance(engine_key="k"), 0
    job = make_job(ends_at=T0 + STEPS / 2)
    for number in range(STEPS):
        for event in disorder.pass_on(instance_event(chance, T0 + number)):
            assert isinstance(event, InstanceEvent)
            after = step_instance(item, event)
            check_instance(item, event, after)
            item = after
        if number % 7 == 0:
            check_routes(item, job, T0 + number)
        if item.state is InstanceState.ENDED and chance.random() < 0.3:
            ended += 1
            item = make_instance(id=f"i-{number:012}", engine_key="k")
    assert ended > STEPS / 50


@pytest.mark.parametrize("seed", [5])
def test_a_world_agrees_with_itself_through_any_history(seed: int) -> None:
    """Jobs and instances together: an ended job has no live instance, and what is dirty is what changed."""
    chance = random.Random(seed)
    world = World(jobs=[], instances=[], starts=[])
    stored_jobs: dict[str, Job] = {}
    stored_instances: dict[str, Instance] = {}
    names: list[str] = []
    for number in range(STEPS // 4):
        now = T0 + number
        if len(names) < 20 or chance.random() < 0.02:
            name = f"{number:012}"
            names.append(name)
            world.add(
                make_job(id=f"j-{name}", created_at=now, state_at=now),
                make_instance(id=f"i-{name}", job=f"j-{name}", deployment=chance.choice("ab"), created_at=now),
            )
        name = chance.choice(names[-20:])
        if chance.random() < 0.5:
            world.job_event(f"j-{name}", job_event(chance, now))
        else:
            world.instance_event(f"i-{name}", instance_event(chance, now))
        job = world.jobs[f"j-{name}"]
        if job.state is JobState.ENDED:
            assert all(item.state is InstanceState.ENDED for item in world.instances_of_job(job.id))
        if chance.random() < 0.1:
            dirty = world.take_dirty()
            if chance.random() < 0.3:
                world.put_back(dirty)
            else:
                stored_jobs |= dirty.jobs
                stored_instances |= dirty.instances
                world.saved(dirty)
        if number % 5000 == 0:
            assert {item.id for one in "ab" for item in world.instances_of(one)} == set(world.instances)
            assert {one.id for one in world.jobs_on("local")} == set(world.jobs)
    last = world.take_dirty()
    stored_jobs |= last.jobs
    stored_instances |= last.instances
    for job in world.jobs.values():
        stored = stored_jobs[job.id]
        assert (stored.state, stored.reason, stored.scheduler_id) == (job.state, job.reason, job.scheduler_id)
    for item in world.instances.values():
        stored_item = stored_instances[item.id]
        assert (stored_item.state, stored_item.drain_by, stored_item.address) == (
            item.state,
            item.drain_by,
            item.address,
        )


def test_listings_of_every_kind_never_end_a_job_that_the_scheduler_has() -> None:
    """Truncated, late, repeated and garbled listings: a job that is there neither ends nor is a stray."""
    chance = random.Random(6)
    for history in range(300):
        world = World(jobs=[], instances=[], starts=[])
        job = make_job(id="j-000000000001", state=JobState.SUBMITTING, submitted_at=T0)
        world.add(job, make_instance())
        phase, answering, last = JobPhase.WAITING, T0, T0
        for number in range(1, 60):
            now = T0 + 5 * number
            if chance.random() < 0.1:
                phase = JobPhase.RUNNING
            complete = chance.random() < 0.5
            line = SeenJob(scheduler_id="9", tag="first-abcdefgh-j-000000000001", phase=phase)
            shown = [line] * chance.choice([1, 1, 2]) if complete or chance.random() < 0.5 else []
            if chance.random() < 0.2:
                shown = [SeenJob(scheduler_id="9", tag=line.tag, phase=JobPhase.UNKNOWN)]
            if complete:
                answering, last = (answering if now - last <= 60 else now), now
            orphans = take_observation(
                world,
                Observation(complete=complete, jobs=tuple(shown)),
                cluster="local",
                begun_at=now - 1,
                answering_since=answering,
                now=now,
                settle_s=60.0,
            )
            assert not orphans
            assert world.jobs[job.id].state is not JobState.ENDED, history
