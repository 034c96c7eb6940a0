# SPDX-License-Identifier: Apache-2.0
"""What becomes of a request at the dispatcher: a place at once, a place in the queue, or an error that says why."""

import itertools

import pytest

from firstkit.core.catalog import Catalog
from firstkit.core.errors import Limited, NotFound, Unavailable, UpstreamError
from firstkit.core.reasons import Reason
from firstkit.core.settings import GatewaySettings
from firstkit.core.topology import Heat, Snapshot
from firstkit.services.dispatcher import Failure
from firstkit.testing.dispatching import MODEL, DispatcherWorld, catalog, route, status


@pytest.fixture
def world() -> DispatcherWorld:
    world = DispatcherWorld()
    world.dispatcher.set_catalog(catalog())
    return world


# ------------------------------------------------------------------------------------------------------ hot models


def test_a_hot_model_gives_a_place_at_once(world: DispatcherWorld) -> None:
    world.tell(route("i-a"))
    caller = world.open()
    assert caller.grant is not None
    assert caller.grant.attempt == 1
    assert caller.grant.route.instance == "i-a"
    assert caller.grant.lease.route is caller.grant.route
    assert "0 of 2 in flight" in caller.grant.decision
    assert world.dispatcher.in_flight == 1
    assert world.wanted == []


def test_the_instance_with_the_least_in_flight_is_chosen(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=9), route("i-b", cap=9))
    first = world.open()
    second = world.open()
    assert {first.instance, second.instance} == {"i-a", "i-b"}
    first.done()
    assert world.open().instance == first.instance


def test_ties_go_to_every_instance_in_turn_of_chance(world: DispatcherWorld) -> None:
    world.tell(*[route(f"i-{number}") for number in range(4)])
    seen = set()
    for _ in range(200):
        caller = world.open()
        seen.add(caller.instance)
        caller.done()
    assert len(seen) == 4


def test_above_the_cap_a_request_waits_and_gets_the_place_that_is_given_back(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=1))
    first = world.open()
    second = world.open()
    assert second.waits
    assert world.dispatcher.waiting == 1
    world.time.advance(1.5)
    first.done()
    assert second.instance == "i-a"
    assert second.grant is not None
    assert "waited 1.5 s" in second.grant.decision
    assert (world.dispatcher.waiting, world.dispatcher.in_flight) == (0, 1)


def test_a_lease_released_twice_counts_once(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=1))
    first = world.open()
    first.done()
    first.done()
    assert world.dispatcher.in_flight == 0
    world.open()
    assert world.open().waits


def test_a_request_that_does_not_want_to_wait_hears_at_once_that_all_is_full(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=1))
    world.open()
    with pytest.raises(Limited) as told:
        world.open(max_wait_s=0)
    assert told.value.code == "queue_full"
    assert told.value.retry_after_s is not None
    assert world.dispatcher.waiting == 0


def test_a_request_bounds_its_wait_in_the_queue(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=1))
    world.open()
    caller = world.open(max_wait_s=5)
    world.time.advance(4.9)
    assert caller.waits
    world.time.advance(0.2)
    assert isinstance(caller.error, Limited)
    assert world.dispatcher.waiting == 0
    assert world.time.pending == 0


def test_a_plain_answer_is_held_as_long_as_the_setting_says_and_a_stream_for_ever(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=1))
    world.open()
    plain = world.open(stream=False)
    stream = world.open(stream=True)
    world.time.advance(541)
    assert isinstance(plain.error, Limited)
    assert stream.waits


def test_a_cap_that_is_raised_lets_the_waiting_in(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=1))
    world.open()
    waiting = [world.open(), world.open()]
    world.tell(route("i-a", cap=2))
    assert [caller.waits for caller in waiting] == [False, True]


def test_a_cap_below_what_is_in_flight_takes_nobody_new_until_enough_have_ended(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=3))
    running = [world.open() for _ in range(3)]
    waiting = world.open()
    world.tell(route("i-a", cap=1))
    running[0].done()
    running[1].done()
    assert waiting.waits
    running[2].done()
    assert waiting.instance == "i-a"


# ------------------------------------------------------------------------------------------- queue bounds, fairness


def test_a_full_queue_says_when_it_will_have_drained() -> None:
    world = DispatcherWorld(settings=GatewaySettings(queue=4, queue_per_principal=4))
    world.dispatcher.set_catalog(catalog())
    world.tell(route("i-a", cap=1))
    running = world.open()
    waiting = [world.open() for _ in range(4)]
    for _ in range(3):  # one place every two seconds
        world.time.advance(2)
        running.done()
        running = waiting.pop(0)
        waiting.append(world.open())
    with pytest.raises(Limited) as told:
        world.open("bob")
    assert told.value.code == "queue_full"
    assert told.value.retry_after_s == 4.0  # behind one of ann's: two turns of two seconds
    assert "4 requests already wait" in told.value.message


def test_a_full_queue_that_has_not_moved_yet_still_gives_a_time() -> None:
    world = DispatcherWorld(settings=GatewaySettings(queue=1))
    world.dispatcher.set_catalog(catalog())
    world.tell(route("i-a", cap=1))
    world.open()
    world.open()
    with pytest.raises(Limited) as told:
        world.open()
    assert told.value.retry_after_s == 10.0


def test_one_principal_may_not_have_more_than_its_share_of_the_queue() -> None:
    world = DispatcherWorld(settings=GatewaySettings(queue=100, queue_per_principal=3))
    world.dispatcher.set_catalog(catalog())
    world.tell(route("i-a", cap=1))
    world.open()
    for _ in range(3):
        world.open()
    with pytest.raises(Limited) as told:
        world.open()
    assert "3 of your requests already wait" in told.value.message
    assert world.open("bob").waits


def test_a_few_busy_principals_cannot_fill_the_queue() -> None:
    world = DispatcherWorld(settings=GatewaySettings(queue=20, queue_per_principal=20))
    world.dispatcher.set_catalog(catalog())
    world.tell(route("i-a", cap=1))
    world.open()
    for _ in range(20):
        for who in ("ann", "bob", "cem"):
            try:
                world.open(who)
            except Limited:
                continue
    for newcomer in ("dee", "eve"):
        assert world.open(newcomer).waits


def test_principals_take_turns_however_much_one_of_them_has_queued(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=1))
    running = world.open("first")
    flood = [world.open("flooder") for _ in range(50)]
    polite = [world.open("bob"), world.open("cem")]
    served = []
    for _ in range(4):
        running.done()
        running = world.order[-1]
        served.append(running.facts.principal.name)
    assert served == ["flooder", "bob", "cem", "flooder"]
    assert not polite[0].waits
    assert sum(caller.waits for caller in flood) == 48


def test_requests_of_one_principal_keep_their_order(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=1))
    running = world.open()
    waiting = [world.open() for _ in range(5)]
    for _ in range(5):
        running.done()
        running = world.order[-1]
    assert world.order == waiting


def test_a_client_that_leaves_gives_up_its_place(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=1))
    running = world.open()
    leaver, stayer = world.open(max_wait_s=30), world.open()
    leaver.leave()
    leaver.leave()
    running.done()
    assert not leaver.heard
    assert stayer.instance == "i-a"
    assert world.time.pending == 0


def test_whoever_leaves_while_its_grant_is_on_the_way_gives_the_place_back(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=2))
    running = [world.open(), world.open()]
    first, second = world.open(), world.open()

    def leave_second(_grant: object) -> None:
        second.leave()

    first.granted = leave_second  # type: ignore[method-assign]
    world.tell(route("i-a", cap=4))
    assert not second.heard
    assert world.dispatcher.in_flight == 3
    for caller in running:
        caller.done()


def test_a_waiter_that_breaks_keeps_nobody_else_from_its_turn(
    world: DispatcherWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world.tell(route("i-a", cap=1))
    running = world.open()
    broken, other = world.open(), world.open()

    def explode(_grant: object) -> None:
        raise RuntimeError("what the client sent")

    broken.granted = explode  # type: ignore[method-assign]
    running.done()
    assert other.instance == "i-a"
    assert world.dispatcher.in_flight == 1
    assert "waiter_failed error=RuntimeError" in caplog.text
    assert "what the client sent" not in caplog.text


def test_a_thousand_waiters_that_give_up_their_place_as_they_get_it_do_not_grow_the_stack(
    world: DispatcherWorld,
) -> None:
    world.tell(route("i-a", cap=1))
    running = world.open("first")
    waiting = [world.open(f"caller-{number}") for number in range(1500)]
    for caller in waiting:
        caller.granted = lambda grant: grant.lease.release()  # type: ignore[method-assign]
    running.done()
    assert (world.dispatcher.waiting, world.dispatcher.in_flight) == (0, 0)


def test_positions_follow_the_turns(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=1))
    world.open("first")
    callers = [world.open("ann"), world.open("ann"), world.open("bob")]
    tickets = [caller.ticket for caller in callers if caller.ticket is not None]
    assert [ticket.status().position for ticket in tickets] == [1, 3, 2]
    assert [ticket.status().ahead for ticket in tickets] == [0, 2, 1]
    assert tickets[0].status().heat is Heat.HOT
    assert tickets[0].status().to_hot_s == 0.0
    assert tickets[0].status().expected_s is None
    callers[0].leave()
    assert [ticket.status().position for ticket in tickets[1:]] == [1, 2]


def test_the_wait_in_a_moving_queue_is_predicted_from_its_speed(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=1))
    running = world.open("first")
    waiting = [world.open(f"caller-{number}") for number in range(12)]
    for _ in range(10):
        world.time.advance(3)
        running.done()
        running = world.order[-1]
    ticket = waiting[-1].ticket
    assert ticket is not None
    expected_s = ticket.status().expected_s
    assert expected_s is not None
    assert 4.0 < expected_s < 7.0  # two turns of three seconds


# ------------------------------------------------------------------------------------------------------------ batch


def test_batch_waits_while_an_interactive_request_does(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=1))
    running = world.open()
    batch = world.open("worker", batch=True)
    interactive = world.open("bob")
    running.done()
    assert interactive.instance == "i-a"
    assert batch.waits
    interactive.done()
    assert batch.instance == "i-a"


def test_a_batch_request_that_comes_back_does_not_pass_an_interactive_one(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=1), route("i-b", cap=1))
    batch, other = world.open("worker", batch=True), world.open()
    interactive = world.open("bob")
    world.dispatcher.failed(batch.instance, Failure.REFUSED)
    batch.done()
    retry = world.again(batch, batch.instance)
    other.done()
    assert retry.waits
    assert interactive.instance == other.instance
    interactive.done()
    assert retry.instance == other.instance


def test_batch_leaves_its_share_of_every_cap_free() -> None:
    world = DispatcherWorld(settings=GatewaySettings(batch_reserve=0.25))
    world.dispatcher.set_catalog(catalog())
    world.tell(route("i-a", cap=8))
    batch = [world.open("worker", batch=True) for _ in range(8)]
    assert sum(caller.grant is not None for caller in batch) == 6
    assert not world.open().waits
    batch[0].done()
    assert batch[6].waits, "an interactive request has taken the place that came free"
    batch[1].done()
    assert not batch[6].waits


def test_batch_has_bounds_of_its_own_so_that_it_cannot_fill_the_queue() -> None:
    world = DispatcherWorld(settings=GatewaySettings(queue=3, queue_per_principal=3))
    world.dispatcher.set_catalog(catalog())
    world.tell(route("i-a", cap=1))
    world.open()
    for _ in range(3):
        world.open("worker", batch=True)
    with pytest.raises(Limited):
        world.open("worker", batch=True)
    assert world.open("ann").waits


# ------------------------------------------------------------------------------------------------------ cold models


def test_a_request_for_a_cold_model_is_held_and_served_as_soon_as_an_instance_is_up(world: DispatcherWorld) -> None:
    world.tell(status(Heat.COLD, reason=Reason.NO_DEMAND))
    caller = world.open()
    assert caller.waits
    assert world.wanted == [MODEL]
    world.tell(status(Heat.HOT, reason=Reason.SERVING), route("i-a"))
    assert caller.instance == "i-a"


def test_a_model_wanted_by_many_at_once_is_told_about_once(world: DispatcherWorld) -> None:
    for _ in range(10):
        world.open()
    assert world.wanted == [MODEL]
    world.time.advance(1.0)
    world.open()
    assert world.wanted == [MODEL, MODEL]


def test_whoever_waits_is_told_state_reason_position_and_a_time_that_counts_down(world: DispatcherWorld) -> None:
    loading = status(
        Heat.WARM, reason=Reason.LOADING, to_hot_s=60.0, fraction=0.4, text="loading weights", clusters=("here",)
    )
    world.tell(loading, age_s=5.0)  # its durations count from now: the reader has taken the age off
    world.open()
    caller = world.open("bob")
    world.time.advance(20.0)
    assert caller.ticket is not None
    told = caller.ticket.status()
    assert (told.heat, told.reason, told.position) == (Heat.WARM, Reason.LOADING, 2)
    assert told.to_hot_s == pytest.approx(40.0)
    assert told.expected_s == told.to_hot_s
    assert (told.fraction, told.text, told.clusters) == (0.4, "loading weights", ("here",))
    world.time.advance(1000.0)
    assert caller.ticket.status().to_hot_s == 0.0


def test_an_unknown_time_stays_unknown_and_the_request_is_held(world: DispatcherWorld) -> None:
    world.tell(status(Heat.QUEUED, to_hot_s=None))
    caller = world.open(stream=False)
    assert caller.ticket is not None
    assert caller.ticket.status().to_hot_s is None


def test_a_request_that_will_not_wait_hears_when_the_model_is_expected(world: DispatcherWorld) -> None:
    world.tell(status(Heat.WARM, reason=Reason.LOADING, to_hot_s=90.0))
    with pytest.raises(Unavailable) as told:
        world.open(max_wait_s=0)
    assert told.value.code == "model_starting"
    assert told.value.retry_after_s == pytest.approx(90.0)
    assert f"first wait {MODEL}" in told.value.message
    assert world.wanted == [MODEL], "the demand is kept"
    assert world.dispatcher.demand()[0].wanted_ago_s == 0.0


def test_no_time_is_invented_for_a_request_that_will_not_wait(world: DispatcherWorld) -> None:
    world.tell(status(Heat.COLD))
    with pytest.raises(Unavailable) as told:
        world.open(max_wait_s=0)
    assert told.value.retry_after_s is None
    assert "not known" in told.value.message


def test_a_plain_request_is_not_held_for_a_model_that_comes_too_late_for_it(world: DispatcherWorld) -> None:
    world.tell(status(Heat.QUEUED, to_hot_s=3600.0))
    with pytest.raises(Unavailable) as told:
        world.open(stream=False)
    assert told.value.code == "model_starting"
    assert told.value.retry_after_s == pytest.approx(3600.0)
    assert "60 min" in told.value.message or "1 h" in told.value.message
    assert world.dispatcher.waiting == 0
    assert world.open(stream=True).waits, "a stream can wait"


def test_a_wait_for_a_cold_model_that_is_over_says_how_long_it_was(world: DispatcherWorld) -> None:
    world.tell(status(Heat.WARM, reason=Reason.LOADING))
    caller = world.open(max_wait_s=30)
    world.time.advance(31)
    assert isinstance(caller.error, Unavailable)
    assert caller.error.code == "model_starting"
    assert "30 s of waiting" in caller.error.message


def test_the_same_callers_retry_keeps_its_place_for_a_while(world: DispatcherWorld) -> None:
    world.tell(status(Heat.WARM, reason=Reason.LOADING, to_hot_s=600.0))
    with pytest.raises(Unavailable):
        world.open("ann", stream=False)
    world.open("bob")
    world.time.advance(100.0)
    retry = world.open("ann")
    assert retry.ticket is not None
    assert retry.ticket.status().position == 1


def test_a_place_is_not_kept_for_ever(world: DispatcherWorld) -> None:
    world.tell(status(Heat.WARM, reason=Reason.LOADING, to_hot_s=600.0))
    with pytest.raises(Unavailable):
        world.open("ann", stream=False)
    world.open("bob")
    world.time.advance(121.0)
    retry = world.open("ann")
    assert retry.ticket is not None
    assert retry.ticket.status().position == 2


def test_a_place_is_kept_when_the_wait_was_up(world: DispatcherWorld) -> None:
    world.tell(status(Heat.WARM, reason=Reason.LOADING))
    ann = world.open("ann", max_wait_s=10)
    world.open("bob")
    world.time.advance(11)
    assert ann.error is not None
    retry = world.open("ann")
    assert retry.ticket is not None
    assert retry.ticket.status().position == 1


def test_a_held_model_is_refused_at_once_with_the_reason(world: DispatcherWorld) -> None:
    world.tell(status(Heat.COLD, reason=Reason.HELD, held=True, detail="out of memory, 4 times in a row"))
    with pytest.raises(Unavailable) as told:
        world.open()
    assert told.value.code == "model_unavailable"
    assert "out of memory, 4 times in a row" in told.value.message


def test_whoever_waits_hears_at_once_that_the_starts_have_been_given_up(world: DispatcherWorld) -> None:
    world.tell(status(Heat.WARM, reason=Reason.LOADING))
    caller = world.open()
    world.tell(status(Heat.COLD, reason=Reason.HELD, held=True, detail="the weights are missing"))
    assert isinstance(caller.error, Unavailable)
    assert "the weights are missing" in caller.error.message


def test_a_model_that_is_held_but_has_an_instance_goes_on_serving(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=1), status(Heat.HOT, held=True, reason=Reason.HELD))
    running = world.open()
    waiting = world.open()
    assert waiting.waits
    running.done()
    assert waiting.instance == "i-a"


def test_a_model_that_leaves_the_catalog_sends_its_waiters_away(world: DispatcherWorld) -> None:
    caller = world.open()
    world.dispatcher.set_catalog(catalog("org/other"))
    assert isinstance(caller.error, NotFound)
    with pytest.raises(NotFound):
        world.open()


def test_a_deployment_that_leaves_the_pinned_cluster_sends_its_waiters_away(world: DispatcherWorld) -> None:
    pinned, free = world.open(cluster="there"), world.open()
    world.dispatcher.set_catalog(catalog(clusters=("here",)))
    assert isinstance(pinned.error, NotFound)
    assert "here" in pinned.error.message
    assert free.waits


def test_a_model_without_deployment_sends_its_waiters_away(world: DispatcherWorld) -> None:
    caller = world.open()
    full = catalog()
    world.dispatcher.set_catalog(Catalog(revision=2, clusters=full.clusters, models=full.models))
    assert isinstance(caller.error, Unavailable)


# --------------------------------------------------------------------------------------------- clusters, endpoints


def test_a_pinned_request_goes_to_its_cluster_alone(world: DispatcherWorld) -> None:
    world.tell(route("i-here", cap=9), route("i-there", cluster="there", cap=1))
    assert world.open(cluster="there").instance == "i-there"
    waiting = world.open(cluster="there")
    assert waiting.waits
    assert world.open().instance == "i-here", "nobody else waits for it"


def test_a_request_passes_those_that_wait_for_another_cluster(world: DispatcherWorld) -> None:
    world.tell(route("i-here", cap=1), route("i-there", cluster="there", cap=1))
    here, there = world.open(cluster="here"), world.open(cluster="there")
    waits_here = world.open(cluster="here")
    waits_anywhere = world.open("bob")
    there.done()
    assert waits_here.waits
    assert waits_anywhere.instance == "i-there"
    here.done()
    assert waits_here.instance == "i-here"


def test_a_model_hot_elsewhere_is_cold_at_the_pinned_cluster(world: DispatcherWorld) -> None:
    world.tell(route("i-here"), status(Heat.HOT, reason=Reason.SERVING, to_hot_s=0.0, clusters=("here",)))
    caller = world.open(cluster="there")
    assert caller.ticket is not None
    told = caller.ticket.status()
    assert (told.heat, told.to_hot_s, told.clusters) == (Heat.COLD, None, ("there",))


def test_a_request_goes_only_to_instances_that_serve_its_endpoint(world: DispatcherWorld) -> None:
    world.tell(
        route("i-chat", paths=frozenset({"/v1/chat/completions"})),
        route("i-embed", paths=frozenset({"/v1/embeddings"})),
    )
    assert {world.open(path="/v1/embeddings").instance for _ in range(2)} == {"i-embed"}


# -------------------------------------------------------------------------------------------- snapshots and routes


def test_a_draining_route_gets_no_new_requests_and_keeps_its_old_ones(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=9))
    running = world.open()
    world.tell(route("i-a", cap=9, draining=True), route("i-b", cap=9))
    assert {world.open().instance for _ in range(3)} == {"i-b"}
    assert world.cut == []
    assert world.dispatcher.demand()[0].in_flight == {"i-a": 1, "i-b": 3}
    running.done()
    assert world.dispatcher.demand()[0].in_flight == {"i-b": 3}


def test_nothing_is_routed_past_a_routes_end(world: DispatcherWorld) -> None:
    world.tell(route("i-a", ends_in_s=60.0))
    assert world.open().grant is not None
    world.time.advance(60.0)
    late = world.open()
    assert late.waits
    assert world.wanted == [MODEL]


def test_a_renewed_snapshot_does_not_move_a_routes_end(world: DispatcherWorld) -> None:
    snapshot = Snapshot(version=1, routes=(route("i-a", ends_in_s=60.0),))
    world.dispatcher.set_snapshot(snapshot)
    world.time.advance(40.0)
    world.dispatcher.set_snapshot(snapshot)
    world.dispatcher.still_holds(0.1)
    world.time.advance(20.0)
    assert world.open().waits


def test_what_a_fresh_snapshot_omits_is_cut_at_once(world: DispatcherWorld) -> None:
    world.tell(route("i-a"), route("i-b"))
    running = [world.open(), world.open()]
    world.tell(route("i-b"))
    assert [lease.route.instance for lease in world.cut] == ["i-a"]
    for caller in running:
        caller.done()
    assert world.open().instance == "i-b"
    assert world.dispatcher.in_flight == 1


def test_a_stale_snapshot_cuts_nothing(world: DispatcherWorld) -> None:
    world.tell(route("i-a"))
    world.open()
    world.tell(status(Heat.COLD), age_s=60.0)
    assert world.cut == []
    assert world.open().instance == "i-a"


def test_what_a_stale_snapshot_omitted_is_cut_when_it_is_confirmed(world: DispatcherWorld) -> None:
    world.tell(route("i-a"))
    world.open()
    world.tell(status(Heat.COLD), age_s=60.0)
    assert not world.dispatcher.fresh
    world.dispatcher.still_holds(0.5)
    assert world.dispatcher.fresh
    assert [lease.route.instance for lease in world.cut] == ["i-a"]
    assert world.open().waits


def test_a_snapshot_grows_stale_and_the_gateway_goes_on(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=99))
    assert world.dispatcher.fresh
    world.time.advance(3600.0)
    assert not world.dispatcher.fresh
    assert world.open().instance == "i-a"


def test_a_lower_snapshot_counts_since_the_store_has_been_restored(world: DispatcherWorld) -> None:
    world.dispatcher.set_snapshot(Snapshot(epoch=2, version=7, routes=(route("i-before"),)))
    world.dispatcher.set_snapshot(Snapshot(epoch=1, version=5, routes=(route("i-restored"),)))
    assert world.open().instance == "i-restored"
    assert world.dispatcher.acked == (1, 5)


def test_an_instance_whose_lease_outlives_its_route_is_reported_until_the_lease_is_back(world: DispatcherWorld) -> None:
    world.tell(route("i-a"))
    running = world.open()
    world.tell(status(Heat.COLD))
    assert world.dispatcher.demand()[0].in_flight == {"i-a": 1}
    running.done()
    assert world.dispatcher.demand()[0].in_flight == {}


# ---------------------------------------------------------------------------------------- the gateway's own judgement


def test_a_refused_instance_is_lost_at_once(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=9), route("i-b", cap=9))
    world.dispatcher.failed("i-a", Failure.REFUSED)
    assert {world.open().instance for _ in range(5)} == {"i-b"}
    assert world.dispatcher.demand()[0].lost == ("i-a",)


def test_a_closed_watch_loses_an_instance_and_a_new_one_brings_it_back(world: DispatcherWorld) -> None:
    world.tell(route("i-a"))
    world.dispatcher.dead("i-a")
    waiting = world.open()
    assert waiting.ticket is not None
    told = waiting.ticket.status()
    assert (told.heat, told.reason) == (Heat.COLD, Reason.DEMAND)
    world.dispatcher.alive("i-a")
    assert waiting.instance == "i-a"
    assert world.dispatcher.demand()[0].lost == ()


def test_waiters_for_a_hot_model_that_stopped_answering_are_told_so(world: DispatcherWorld) -> None:
    world.tell(route("i-a"), status(Heat.HOT, reason=Reason.SERVING, to_hot_s=0.0))
    world.dispatcher.dead("i-a")
    caller = world.open(stream=False)
    assert caller.ticket is not None
    told = caller.ticket.status()
    assert (told.heat, told.reason, told.to_hot_s) == (Heat.WARM, Reason.UNREACHABLE, None)


def test_a_suspect_instance_gets_no_new_requests_while_another_is_alive(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=9), route("i-b", cap=1))
    running = world.open(), world.open()
    world.dispatcher.failed("i-a", Failure.TIMEOUT)
    for caller in running:
        if caller.instance == "i-b":
            waiting = world.open()
            assert waiting.waits, "i-b is full, and alive"


def test_if_all_are_suspect_the_least_suspect_is_tried(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=9), route("i-b", cap=9))
    world.dispatcher.failed("i-a", Failure.TIMEOUT)
    world.time.advance(6.0)
    world.dispatcher.failed("i-a", Failure.TIMEOUT)
    world.dispatcher.failed("i-b", Failure.TIMEOUT)
    caller = world.open()
    assert caller.instance == "i-b"
    assert caller.grant is not None
    assert "least suspect of 2" in caller.grant.decision


def test_a_lost_instance_is_tried_by_one_request_at_a_time_until_it_answers(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=9))
    world.dispatcher.failed("i-a", Failure.REFUSED)
    waiting = [world.open() for _ in range(3)]
    world.time.advance(1.0)
    assert [caller.waits for caller in waiting] == [False, True, True]
    assert waiting[0].grant is not None
    assert waiting[0].grant.lease.unproven
    world.dispatcher.failed("i-a", Failure.OK)
    assert [caller.waits for caller in waiting] == [False, False, False]
    assert not waiting[0].grant.lease.unproven


def test_a_lost_instance_is_tried_though_old_answers_still_come_from_it(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=9))
    old = world.open()
    world.dispatcher.failed("i-a", Failure.REFUSED)
    waiting = [world.open(), world.open()]
    world.time.advance(1.0)
    assert [caller.waits for caller in waiting] == [False, True]
    old.done()
    assert waiting[1].waits, "the trial is still on"
    waiting[0].done()
    assert not waiting[1].waits, "it told nothing: the next one tries"


def test_an_instance_that_stays_lost_is_tried_ever_more_rarely(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=9))
    world.dispatcher.failed("i-a", Failure.REFUSED)
    tried_at: list[float] = []
    start = world.time.now()
    pending = [world.open() for _ in range(8)]
    while pending:
        before = len(world.order)
        world.time.advance(0.5)
        for caller in world.order[before:]:
            tried_at.append(world.time.now() - start)
            pending.remove(caller)
            world.dispatcher.failed("i-a", Failure.REFUSED)
            caller.done()
    gaps = [later - earlier for earlier, later in itertools.pairwise(tried_at)]
    assert tried_at[0] == 1.0
    assert gaps == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_many_failures_of_one_moment_are_one_strike(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=9))
    for _ in range(50):
        world.dispatcher.failed("i-a", Failure.REFUSED)
    waiting = world.open()
    world.time.advance(1.0)
    assert waiting.instance == "i-a"


def test_news_of_an_instance_that_is_not_known_is_no_error(world: DispatcherWorld) -> None:
    for how in Failure:
        world.dispatcher.failed("i-nobody", how)
    world.dispatcher.alive("i-nobody")
    world.dispatcher.dead("i-nobody")


# ------------------------------------------------------------------------------------------------- a second attempt


def test_a_failed_request_goes_to_another_instance(world: DispatcherWorld) -> None:
    world.tell(route("i-a"), route("i-b"))
    first = world.open()
    world.dispatcher.failed(first.instance, Failure.REFUSED)
    first.done()
    second = world.again(first, first.instance)
    assert second.grant is not None
    assert second.instance != first.instance
    assert second.grant.attempt == 2


def test_a_failed_request_waits_ahead_of_all_others(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=1), route("i-b", cap=1))
    first, other = world.open(), world.open()
    waiting = world.open("bob")
    world.dispatcher.failed(first.instance, Failure.REFUSED)
    first.done()
    assert waiting.waits, "the place at a lost instance goes to nobody"
    retry = world.again(first, first.instance)
    assert retry.waits
    assert retry.ticket is not None
    assert retry.ticket.status().position == 1
    other.done()
    assert retry.instance == other.instance
    assert waiting.waits


def test_an_engine_that_answered_badly_is_not_tried_again_when_it_is_the_only_one(world: DispatcherWorld) -> None:
    world.tell(route("i-a"))
    first = world.open()
    first.done()
    with pytest.raises(UpstreamError) as told:
        world.again(first, "i-a")
    assert "once tried" in told.value.message
    assert world.dispatcher.waiting == 0


def test_attempts_are_bounded(world: DispatcherWorld) -> None:
    world.tell(*[route(f"i-{number}") for number in range(9)])
    first = world.open()
    first.done()
    assert world.again(first, first.instance, attempt=3).grant is not None
    with pytest.raises(UpstreamError):
        world.again(first, first.instance, attempt=4)


def test_a_request_whose_only_instance_died_waits_for_the_next_one(world: DispatcherWorld) -> None:
    world.tell(route("i-a"), status(Heat.HOT))
    first = world.open()
    world.dispatcher.failed("i-a", Failure.REFUSED)
    first.done()
    retry = world.again(first, "i-a")
    assert retry.waits
    assert world.wanted == [MODEL]
    world.tell(route("i-b"), status(Heat.HOT))
    assert retry.instance == "i-b"


def test_a_failed_request_may_go_back_to_an_instance_that_has_recovered(world: DispatcherWorld) -> None:
    world.tell(route("i-a"))
    first = world.open()
    world.dispatcher.failed("i-a", Failure.REFUSED)
    first.done()
    retry = world.again(first, "i-a")
    world.time.advance(5.0)
    assert retry.waits, "time alone is no recovery"
    world.dispatcher.alive("i-a")
    assert retry.instance == "i-a"


def test_a_returned_request_hears_when_the_instance_it_waits_for_goes(world: DispatcherWorld) -> None:
    world.tell(route("i-a"), route("i-b", cap=1))
    callers = [world.open(), world.open()]
    first = next(caller for caller in callers if caller.instance == "i-a")
    first.done()
    retry = world.again(first, "i-a")
    assert retry.waits
    world.tell(route("i-a"))
    assert isinstance(retry.error, UpstreamError)


def test_the_wait_of_earlier_attempts_counts_towards_the_bound(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=1), route("i-b", cap=1))
    first, _ = world.open(max_wait_s=10), world.open()
    world.dispatcher.failed(first.instance, Failure.REFUSED)
    first.done()
    retry = world.again(first, first.instance, waited_s=8.0)
    assert world.dispatcher.demand()[0].oldest_wait_s == pytest.approx(8.0)
    world.time.advance(1.9)
    assert retry.waits
    world.time.advance(0.2)
    assert isinstance(retry.error, Limited)
    assert "10" in retry.error.message


# ----------------------------------------------------------------------------------------------- demand, the end


def test_demand_says_what_waits_how_long_and_when_it_was_last_wanted(world: DispatcherWorld) -> None:
    assert world.dispatcher.demand() == []
    world.open()
    world.time.advance(3.0)
    world.open("worker", batch=True)
    world.time.advance(4.0)
    (row,) = world.dispatcher.demand()
    assert (row.gateway, row.model, row.waiting) == ("gw-test", MODEL, 2)
    assert row.oldest_wait_s == pytest.approx(7.0)
    assert row.wanted_ago_s == pytest.approx(4.0)


def test_a_graceful_stop_refuses_the_waiting_and_lets_the_running_end(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=1))
    running = world.open()
    waiting = world.open(), world.open(batch=True)
    world.dispatcher.close(Unavailable("The gateway is stopping; send the request again.", code="stopping"))
    for caller in waiting:
        assert caller.error is not None
        assert caller.error.code == "stopping"
    with pytest.raises(Unavailable):
        world.open()
    running.done()
    assert (world.dispatcher.waiting, world.dispatcher.in_flight) == (0, 0)


def test_settings_change_under_those_who_wait(world: DispatcherWorld) -> None:
    world.tell(route("i-a", cap=1))
    running = world.open()
    waiting = [world.open() for _ in range(3)]
    world.dispatcher.reload(GatewaySettings(queue=1))
    with pytest.raises(Limited):
        world.open("bob")
    running.done()
    assert waiting[0].instance == "i-a"


def test_models_that_nobody_has_any_more_are_forgotten(world: DispatcherWorld) -> None:
    for number in range(50):
        world.dispatcher.set_catalog(catalog(f"org/m{number}"))
        world.tell(route(f"i-{number}", model=f"org/m{number}"))
    world.dispatcher.set_catalog(catalog())
    world.tell()
    assert list(world.dispatcher._book.offers) == [MODEL]
    assert list(world.dispatcher._leases) == []
