# SPDX-License-Identifier: Apache-2.0
"""The instance machine, pair by pair."""

from itertools import product

import pytest

from firstkit.core.instance.machine import TRANSITIONS, InstanceEvent, InstanceEventKind, step
from firstkit.core.instance.record import Contact, InstanceState
from firstkit.core.reasons import Reason
from firstkit.core.topology import Address, AddressKind
from firstkit.testing.records import T0, make_instance

S, K = InstanceState, InstanceEventKind
PAIRS = list(product(InstanceState, InstanceEventKind))
ADDRESS = Address(kind=AddressKind.UNIX, path="/run/e.sock")


def event(kind: InstanceEventKind, **fields: object) -> InstanceEvent:
    return InstanceEvent(**{"kind": kind, "at": T0 + 5, **fields})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("state", "kind"), PAIRS)
def test_a_pair_of_the_table_leads_where_it_says_and_any_other_changes_nothing(
    state: InstanceState, kind: InstanceEventKind
) -> None:
    before = make_instance(state=state)
    after = step(before, event(kind, reason=Reason.CANCELLED))
    target = TRANSITIONS.get((state, kind))
    if target is None:
        assert after is before
    else:
        assert after.state is target


@pytest.mark.parametrize("kind", InstanceEventKind)
def test_ended_is_final(kind: InstanceEventKind) -> None:
    before = make_instance(state=S.ENDED)
    assert step(before, event(kind)) is before


@pytest.mark.parametrize(("state", "kind"), PAIRS)
def test_replaying_an_event_changes_nothing(state: InstanceState, kind: InstanceEventKind) -> None:
    told = event(kind, reason=Reason.WALLTIME, detail="words", address=ADDRESS, load_s=2.0, drain_by=T0 + 60)
    once = step(make_instance(state=state), told)
    again = step(once, told)
    if TRANSITIONS.get((once.state, kind), once.state) is once.state:
        assert again == once


def test_only_an_engine_that_does_not_answer_goes_back_from_ready() -> None:
    back = [pair for pair, target in TRANSITIONS.items() if pair[0] is S.READY and target is S.LOADING]
    assert back == [(S.READY, K.NOT_ANSWERING)]


def test_a_late_report_of_loading_does_not_unroute_a_ready_instance() -> None:
    ready = make_instance(state=S.READY, address=ADDRESS)
    assert step(ready, event(K.REPORTED_LOADING, fraction=0.1)) is ready


def test_ready_brings_the_address_and_the_time_it_took() -> None:
    item = step(
        make_instance(state=S.LOADING, fraction=0.9, progress="warming up"),
        event(K.REPORTED_READY, address=ADDRESS, load_s=12.5, max_model_len=4096),
    )
    assert (item.state, item.address, item.load_s, item.max_model_len) == (S.READY, ADDRESS, 12.5, 4096)
    assert (item.ready_at, item.fraction, item.progress, item.reason) == (T0 + 5, None, "", Reason.SERVING)


def test_a_draining_instance_is_never_ready_again() -> None:
    draining = make_instance(state=S.DRAINING, drain_for=Reason.SCALED_IN)
    assert step(draining, event(K.REPORTED_READY)) is draining
    assert step(draining, event(K.REPORTED_LOADING)) is draining


def test_the_first_reason_of_a_drain_is_kept_and_the_earliest_deadline_counts() -> None:
    item = step(make_instance(state=S.READY), event(K.DRAIN_ASKED, reason=Reason.UPDATED, drain_by=T0 + 600))
    item = step(item, event(K.DRAIN_ASKED, reason=Reason.REMOVED, drain_by=T0 + 60))
    item = step(item, event(K.DRAIN_ASKED, reason=Reason.REMOVED, drain_by=T0 + 900))
    assert (item.drain_for, item.drain_by, item.reason) == (Reason.UPDATED, T0 + 60, Reason.UPDATED)
    item = step(item, event(K.REPORTED_ENDED, reason=Reason.CANCELLED))
    assert (item.state, item.reason) == (S.ENDED, Reason.UPDATED)


def test_a_drain_by_the_launchers_own_doing_has_its_reason() -> None:
    item = step(make_instance(state=S.READY), event(K.REPORTED_DRAINING, reason=Reason.WALLTIME))
    assert (item.state, item.reason, item.drain_by) == (S.DRAINING, Reason.WALLTIME, None)
    assert step(item, event(K.JOB_ENDED, reason=Reason.JOB_LOST)).reason is Reason.WALLTIME


def test_a_drain_without_a_reason_makes_none_up() -> None:
    item = step(make_instance(state=S.READY), event(K.REPORTED_DRAINING))
    assert (item.reason, item.drain_for) == (Reason.DRAINING, None)
    assert step(item, event(K.REPORTED_ENDED, reason=Reason.OUT_OF_MEMORY)).reason is Reason.OUT_OF_MEMORY


def test_our_own_drain_coming_back_in_a_report_is_only_a_sign_of_life() -> None:
    item = step(make_instance(state=S.READY), event(K.DRAIN_ASKED, reason=Reason.SCALED_IN, drain_by=T0 + 60))
    heard = step(item, event(K.REPORTED_DRAINING, at=T0 + 7, reason=Reason.CANCELLED))
    assert (heard.drain_for, heard.drain_by, heard.heard_at) == (Reason.SCALED_IN, T0 + 60, T0 + 7)


def test_the_end_keeps_what_the_engine_said_and_forgets_its_key() -> None:
    item = make_instance(state=S.LOADING, engine_key="secret", fraction=0.5)
    item = step(item, event(K.REPORTED_ENDED, reason=Reason.ENGINE_EXIT, exit_code=3, exit_tail=("a", "b"), detail="d"))
    assert (item.exit_code, item.exit_tail, item.detail, item.engine_key) == (3, ("a", "b"), "d", None)
    assert (item.ended_at, item.fraction) == (T0 + 5, None)


def test_being_heard_takes_back_a_lost_contact() -> None:
    lost = make_instance(state=S.READY, contact=Contact.LOST)
    assert step(lost, event(K.REPORTED_READY)).contact is Contact.ALIVE


def test_an_older_report_does_not_set_the_last_word_back() -> None:
    item = step(make_instance(state=S.READY, heard_at=T0 + 50), event(K.REPORTED_READY, at=T0 + 10))
    assert item.heard_at == T0 + 50
