# SPDX-License-Identifier: Apache-2.0
"""The snapshot that gateways act on, and the demand they write."""

import json
from dataclasses import replace

import pytest
from sqlalchemy import Connection, select, update

from firstkit.adapters.store import SqlStore
from firstkit.adapters.store.schema import gateways, snapshot
from firstkit.core.errors import InternalError
from firstkit.core.reasons import Reason
from firstkit.core.topology import Address, AddressKind, Heat, ModelStatus, Route, Snapshot
from firstkit.ports.store import Demand, Term

ROUTE = Route(
    instance="i-1",
    deployment="d",
    model="m",
    cluster="c",
    engine="vllm",
    address=Address(kind=AddressKind.UNIX, path="/run/e.sock"),
    cap=8,
    ends_in_s=100.0,
    authorization="Bearer engine",
    paths=frozenset({"/v1/models", "/v1/embeddings"}),
)
STATUS = ModelStatus(model="m", heat=Heat.WARM, reason=Reason.LOADING, for_s=3.0, to_hot_s=20.0, fraction=0.5)
DEMAND = Demand(
    gateway="gw-1",
    model="m",
    waiting=3,
    oldest_wait_s=1.5,
    in_flight={"i-1": 4},
    wanted_ago_s=0.0,
    lost=("i-9",),
)


@pytest.fixture
def term(store: SqlStore) -> Term:
    term = store.take_term(holder="a", ttl_s=60)
    assert term is not None
    return term


def write_back(store: SqlStore, seconds: float) -> None:
    """Make the snapshot look as if it had been written and touched so long ago."""
    table = snapshot
    values = {"written_at": table.c.written_at - seconds, "touched_at": table.c.touched_at - seconds}
    store.database.write(lambda c: c.execute(update(table).values(**values)))


def test_before_the_first_snapshot_there_is_none_and_it_is_infinitely_old(store: SqlStore) -> None:
    assert store.snapshot(newer_than=(0, 0)) == (None, float("inf"))


def test_a_gateway_gets_a_snapshot_once(store: SqlStore, another: SqlStore, term: Term) -> None:
    store.write_snapshot(term, Snapshot(version=1, epoch=1, revision=7, routes=(ROUTE,), models=(STATUS,)))
    got, age_s = another.snapshot(newer_than=(0, 0))
    assert got is not None
    assert (got.version, got.epoch, got.revision, got.age_s) == (1, 1, 7, age_s)
    assert got.routes[0].address == ROUTE.address
    assert got.routes[0].paths == ROUTE.paths
    nothing, age_s = another.snapshot(newer_than=(1, 1))
    assert nothing is None
    assert 0 <= age_s < 60
    store.write_snapshot(term, Snapshot(version=2, epoch=1))
    newer, _ = another.snapshot(newer_than=(1, 1))
    assert newer is not None
    assert newer.version == 2


def test_durations_count_from_the_moment_of_reading(store: SqlStore, term: Term) -> None:
    open_end = replace(ROUTE, instance="i-2", ends_in_s=None)
    store.write_snapshot(term, Snapshot(version=1, epoch=1, routes=(ROUTE, open_end), models=(STATUS,)))
    write_back(store, 30)
    store.touch_snapshot(term)
    got, age_s = store.snapshot(newer_than=(0, 0))
    assert got is not None
    assert age_s < 20
    assert got.routes[0].ends_in_s == pytest.approx(70, abs=15)
    assert got.routes[1].ends_in_s is None
    assert got.models[0].for_s == pytest.approx(33, abs=15)
    assert got.models[0].to_hot_s == 0.0


def test_a_snapshot_grows_old_unless_the_controller_says_that_it_still_holds(store: SqlStore, term: Term) -> None:
    held = Snapshot(version=1, epoch=1)
    store.write_snapshot(term, held)
    write_back(store, 1000)
    assert store.snapshot(newer_than=(1, 1))[1] > 900
    store.touch_snapshot(term)
    assert store.snapshot(newer_than=(1, 1))[1] < 900
    write_back(store, 1000)
    store.write_snapshot(term, held)
    assert store.snapshot(newer_than=(1, 1))[1] < 900


def test_a_snapshot_is_never_replaced_by_an_older_one(store: SqlStore, term: Term) -> None:
    store.write_snapshot(term, Snapshot(version=5, epoch=1))
    with pytest.raises(InternalError):
        store.write_snapshot(term, Snapshot(version=4, epoch=1))
    with pytest.raises(InternalError):
        store.write_snapshot(term, Snapshot(version=6, epoch=2))


def test_the_next_controller_replaces_the_snapshot_under_its_own_epoch(store: SqlStore) -> None:
    first = store.take_term(holder="a", ttl_s=0)
    assert first is not None
    store.write_snapshot(first, Snapshot(version=3, epoch=1))
    second = store.take_term(holder="b", ttl_s=60)
    assert second is not None
    store.touch_snapshot(second)  # touches nothing: the snapshot is not its own
    store.write_snapshot(second, Snapshot(version=3, epoch=2, revision=9))
    got, _ = store.snapshot(newer_than=(1, 3))
    assert got is not None
    assert (got.epoch, got.version, got.revision) == (2, 3, 9)


def test_after_a_restored_backup_a_gateway_follows_the_store(store: SqlStore, term: Term) -> None:
    store.write_snapshot(term, Snapshot(version=1, epoch=1))
    got, _ = store.snapshot(newer_than=(7, 100))
    assert got is not None


def test_a_gateway_leaves_out_what_a_newer_controller_says_in_words_it_does_not_know(
    store: SqlStore, term: Term
) -> None:
    routes = (ROUTE, replace(ROUTE, instance="i-2"))
    models = (STATUS, replace(STATUS, model="n"))
    store.write_snapshot(term, Snapshot(version=1, epoch=1, revision=4, routes=routes, models=models))

    def reword(connection: Connection) -> None:
        document = json.loads(bytes(connection.execute(select(snapshot.c.document)).scalar_one()))
        document["models"][0]["reason"] = "SOLAR_FLARE"
        document["routes"][0]["address"]["kind"] = "carrier-pigeon"
        document["weather"] = {"sunny": True}
        connection.execute(update(snapshot).values(document=json.dumps(document).encode()))

    store.database.write(reword)
    got, _ = store.snapshot(newer_than=(0, 0))
    assert got is not None
    assert (got.version, got.revision) == (1, 4)
    assert [route.instance for route in got.routes] == ["i-2"]
    assert [model.model for model in got.models] == ["n"]


def test_demand_is_replaced_each_time(store: SqlStore, another: SqlStore) -> None:
    another.write_demand(gateway="gw-1", acked=1, demand=[DEMAND, replace(DEMAND, model="n")])
    another.write_demand(gateway="gw-1", acked=2, demand=[DEMAND])
    another.write_demand(gateway="gw-2", acked=1, demand=[])
    rows = store.gateways(within_s=60)
    assert [(row.gateway, row.acked, row.demand) for row in rows] == [("gw-1", 2, (DEMAND,)), ("gw-2", 1, ())]
    assert all(0 <= row.age_s < 60 for row in rows)


def test_a_silent_gateway_is_not_listed_and_forgotten_after_a_day(store: SqlStore, term: Term) -> None:
    for name in ("gw-1", "gw-2"):
        store.write_demand(gateway=name, acked=1, demand=[])
    old = update(gateways).where(gateways.c.gateway == "gw-1").values(written_at=gateways.c.written_at - 90_000)
    store.database.write(lambda c: c.execute(old))
    assert [row.gateway for row in store.gateways(within_s=60)] == ["gw-2"]
    assert len(store.gateways(within_s=1e6)) == 2
    assert store.prune(term, ended_before=0, usage_before=None) == 1
    assert len(store.gateways(within_s=1e6)) == 1


def test_a_gateway_that_leaves_is_forgotten_at_once(store: SqlStore) -> None:
    store.write_demand(gateway="gw-1", acked=1, demand=[DEMAND])
    store.forget_gateway("gw-1")
    store.forget_gateway("gw-1")
    assert store.gateways(within_s=60) == []
