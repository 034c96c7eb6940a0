# SPDX-License-Identifier: Apache-2.0
"""Finished attempts: settled once, kept whole, summed up."""

from dataclasses import replace

import pytest

from firstkit.adapters.store import SqlStore
from firstkit.core.request import AttemptRecord, Outcome, RequestClass, Usage, UsageSource
from firstkit.ports.store import Term
from firstkit.testing.records import settle

RECORD = AttemptRecord(
    request="r-1",
    attempt=1,
    ended=True,
    at=100.0,
    subject="key:a",
    project="",
    client_request_id="mine",
    path="/v1/chat/completions",
    model="m",
    asked="alias",
    deployment="d",
    cluster="c",
    instance="i-1",
    stream=True,
    request_class=RequestClass.INTERACTIVE,
    outcome=Outcome.COMPLETE,
    status=200,
    error_code="",
    decision="least loaded",
    usage=Usage(source=UsageSource.ENGINE, input_tokens=10, output_tokens=5, cached_tokens=None),
    waited_s=0.0,
    first_byte_s=0.1,
    first_token_s=0.2,
    total_s=1.0,
    gap_max_s=None,
    gap_mean_s=None,
    chunks=5,
    request_bytes=100,
    response_bytes=1000,
)


@pytest.fixture
def term(store: SqlStore) -> Term:
    term = store.take_term(holder="a", ttl_s=60)
    assert term is not None
    return term


def test_attempts_come_back_in_order_as_they_were(store: SqlStore, another: SqlStore) -> None:
    first = replace(RECORD, ended=False, outcome=Outcome.RETRIED)
    second = replace(RECORD, attempt=2)
    assert settle(store, [second, first, replace(RECORD, request="r-2")]) == 3
    assert another.attempts("r-1") == [first, second]
    assert another.attempts("r-9") == []


def test_settling_again_changes_nothing(store: SqlStore) -> None:
    assert settle(store, [RECORD]) == 1
    assert settle(store, [replace(RECORD, status=500), replace(RECORD, request="r-2")]) == 1
    assert store.attempts("r-1") == [RECORD]
    assert settle(store, []) == 0


def test_the_same_attempt_twice_in_one_batch_counts_once(store: SqlStore) -> None:
    assert settle(store, [RECORD, RECORD]) == 1


def test_usage_sums_up_ended_requests_by_model(store: SqlStore) -> None:
    settle(
        store,
        [
            replace(RECORD, ended=False, outcome=Outcome.RETRIED),
            replace(RECORD, attempt=2),
            replace(RECORD, request="r-2", usage=Usage()),
            replace(RECORD, request="r-3", model="n", subject="key:b"),
            replace(RECORD, request="r-4", at=50.0),
        ],
    )
    assert store.usage_since(subject=None, since=60.0) == [("m", 2, 10, 5), ("n", 1, 10, 5)]
    assert store.usage_since(subject="key:b", since=60.0) == [("n", 1, 10, 5)]
    assert store.usage_since(subject=None, since=0.0)[0] == ("m", 3, 20, 10)
    assert store.usage_since(subject="key:x", since=0.0) == []


def test_no_word_of_a_client_and_no_number_of_an_engine_stops_a_batch(store: SqlStore) -> None:
    odd = replace(
        RECORD,
        request="r-odd",
        model="a\x00b",
        asked="a\x00b\udcff",
        client_request_id="\udce9",
        usage=Usage(source=UsageSource.ENGINE, input_tokens=2**70, output_tokens=-5),
    )
    assert settle(store, [RECORD, odd]) == 2
    (back,) = store.attempts("r-odd")
    assert back.model == "a\x00b"
    assert back.asked == "a\x00b?"
    assert store.usage_since(subject=None, since=0.0)[0] == ("a\ufffdb", 1, 2**63 - 1, 0)


def test_old_usage_is_pruned_when_asked_for(store: SqlStore, term: Term) -> None:
    many = [replace(RECORD, request=f"old-{number}", at=10.0) for number in range(2500)]
    settle(store, [*many, RECORD])
    assert store.prune(term, ended_before=0.0, usage_before=None) == 0
    assert store.prune(term, ended_before=0.0, usage_before=50.0) == 2500
    assert store.attempts("old-0") == []
    assert store.attempts("r-1") == [RECORD]
