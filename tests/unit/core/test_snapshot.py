# SPDX-License-Identifier: Apache-2.0
"""Routes and model statuses from records alone."""

from collections.abc import Iterable, Mapping

import pytest

from firstkit.core.catalog import Deployment, Scaling
from firstkit.core.instance.record import Contact, Instance, InstanceState
from firstkit.core.job.record import Job, JobState
from firstkit.core.reasons import Reason
from firstkit.core.scaling.diff import Changes
from firstkit.core.scaling.failures import Standing
from firstkit.core.scaling.forecast import Typical
from firstkit.core.scaling.walltime import End
from firstkit.core.snapshot import View, routes, statuses
from firstkit.core.topology import Address, AddressKind, Heat, ModelStatus, Route
from firstkit.testing.records import T0, make_catalog, make_deployment, make_instance, make_job

NOW = T0 + 100
S = InstanceState
DEMO = make_deployment(scaling=Scaling(max=3, in_flight=7))


def ready(**fields: object) -> Instance:
    usual = {
        "state": S.READY, "ready_at": T0 + 40, "state_at": T0 + 40,
        "address": Address(kind=AddressKind.UNIX, path="/e.sock"),
    }  # fmt: skip
    return make_instance(**(usual | fields))


def routed(
    *instances: Instance,
    ends: Mapping[str, End] | None = None,
    cordoned: Iterable[str] = (),
    deployment: Deployment | None = DEMO,
) -> tuple[Route, ...]:
    return routes(
        instances,
        ends=ends or {},
        made_from=lambda _: deployment,
        cordoned=frozenset(cordoned),
        paths=lambda _: frozenset({"/v1/chat/completions"}),
        served_name=lambda item: f"served-{item.model}",
        now=NOW,
    )


def status(
    *instances: Instance, jobs: Iterable[Job] = (), views: Iterable[View] | None = None, **view: object
) -> ModelStatus:
    usual = {"deployment": DEMO, "changes": Changes(), "standing": Standing(), "usual": Typical(load_s=60.0)}
    given = list(views) if views is not None else [View(**(usual | view))]  # pyright: ignore[reportArgumentType]
    (found,) = statuses(
        given,
        instances=instances,
        jobs={job.id: job for job in jobs},
        catalog=make_catalog([DEMO]),
        paths=lambda _: frozenset({"/v1/completions"}),
        now=NOW,
    )
    return found


def test_a_ready_instance_is_routed_with_all_that_a_gateway_needs() -> None:
    (route,) = routed(ready(engine_key="k", max_model_len=2048))
    assert (route.cap, route.draining, route.ends_in_s, route.engine) == (7, False, None, "command")
    assert (route.authorization, route.served_name, route.max_model_len) == ("Bearer k", "served-demo-model", 2048)
    assert route.paths == {"/v1/chat/completions"}


@pytest.mark.parametrize("state", [S.PLANNED, S.LOADING, S.ENDED])
def test_nothing_else_is_routed(state: InstanceState) -> None:
    assert not routed(ready(state=state))


def test_a_draining_instance_is_routed_only_for_what_is_in_flight_and_until_its_deadline() -> None:
    (route,) = routed(ready(state=S.DRAINING, drain_by=NOW + 30))
    assert (route.draining, route.ends_in_s) == (True, 30.0)
    assert not routed(ready(state=S.DRAINING, ready_at=None))


def test_no_route_goes_past_the_end_of_the_instance() -> None:
    def end(at: float) -> dict[str, End]:
        return {ready().id: End(at=at, reason=Reason.WALLTIME)}

    assert routed(ready(drain_by=NOW + 30), ends=end(NOW + 20))[0].ends_in_s == 20.0
    assert routed(ready(), ends=end(NOW - 5))[0].ends_in_s == 0.0


def test_a_lost_instance_is_not_routed_and_a_suspect_one_is() -> None:
    assert not routed(ready(contact=Contact.LOST))
    assert routed(ready(contact=Contact.SUSPECT))


def test_a_cordoned_instance_or_deployment_takes_nothing_new() -> None:
    assert routed(ready(), cordoned=["i-000000000001"])[0].draining
    assert routed(ready(), cordoned=["demo"])[0].draining


def test_an_instance_without_address_or_origin_is_not_routed() -> None:
    assert not routed(ready(address=None))
    assert not routed(ready(), deployment=None)


def test_routes_are_in_a_steady_order() -> None:
    names = ["i-000000000003", "i-000000000001", "i-000000000002"]
    assert [route.instance for route in routed(*(ready(id=name) for name in names))] == sorted(names)


def test_a_model_with_a_ready_instance_is_hot_since_the_first_one() -> None:
    found = status(ready(), ready(id="i-2", ready_at=T0 + 90, max_model_len=4096))
    assert (found.heat, found.reason, found.for_s, found.to_hot_s) == (Heat.HOT, Reason.SERVING, 60.0, 0.0)
    assert (found.max_model_len, found.clusters, found.paths) == (4096, ("local",), {"/v1/completions"})


def test_a_loading_instance_tells_how_far_it_is() -> None:
    item = make_instance(state=S.LOADING, state_at=NOW - 20, fraction=0.4, progress="loading weights")
    found = status(item, jobs=[make_job(state=JobState.RUNNING)])
    assert (found.heat, found.to_hot_s, found.fraction, found.text) == (Heat.WARM, 40.0, 0.4, "loading weights")


def test_a_waiting_job_is_queued_and_a_running_one_is_warm() -> None:
    item = make_instance()
    queued = status(item, jobs=[make_job(state=JobState.QUEUED, reason=Reason.JOB_WAITS, state_at=NOW - 9)])
    assert (queued.heat, queued.reason, queued.for_s, queued.to_hot_s) == (Heat.QUEUED, Reason.JOB_WAITS, 9.0, None)
    assert status(item, jobs=[make_job(state=JobState.RUNNING)]).reason is Reason.BOOTING


def test_a_cold_model_says_why() -> None:
    assert status(changes=Changes(verdict=Reason.NO_DEMAND)).heat is Heat.COLD
    waits = status(
        changes=Changes(verdict=Reason.BACKING_OFF),
        standing=Standing(failures=1, wait_s=8.0, reason=Reason.ENGINE_EXIT),
        usual=Typical(job_wait_s=1.0, load_s=60.0),
    )
    assert (waits.reason, waits.held, waits.to_hot_s) == (Reason.BACKING_OFF, False, 69.0)


def test_a_held_model_has_the_reason_of_its_failure_and_no_time_to_hot() -> None:
    held = Standing(failures=4, held=True, reason=Reason.OUT_OF_MEMORY, detail="CUDA out of memory")
    found = status(changes=Changes(verdict=Reason.HELD), standing=held)
    assert (found.held, found.reason, found.detail, found.to_hot_s) == (
        True, Reason.OUT_OF_MEMORY, "CUDA out of memory", None,
    )  # fmt: skip


@pytest.mark.parametrize("verdict", [Reason.CLUSTER_STOPPED, Reason.CORDONED])
def test_a_model_that_an_operator_keeps_down_is_held(verdict: Reason) -> None:
    assert status(changes=Changes(verdict=verdict)).held


def test_the_best_deployment_speaks_for_its_model_and_only_all_of_them_hold_it() -> None:
    held = View(
        deployment=make_deployment("other"), changes=Changes(verdict=Reason.HELD),
        standing=Standing(held=True, reason=Reason.WEIGHTS_MISSING), usual=Typical(),
    )  # fmt: skip
    fine = View(
        deployment=DEMO, changes=Changes(verdict=Reason.NO_DEMAND), standing=Standing(), usual=Typical(),
    )  # fmt: skip
    found = status(views=[held, fine])
    assert (found.reason, found.held) == (Reason.NO_DEMAND, False)
    assert status(views=[held]).held


def test_a_model_that_no_deployment_serves_is_said_to_be_so() -> None:
    assert (status(views=[]).reason, status(views=[]).held) == (Reason.REMOVED, True)
