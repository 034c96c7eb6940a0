# SPDX-License-Identifier: Apache-2.0
"""Gateways, api and controller on one store at once, as processes and threads: nobody is refused, nothing is lost."""

import json
import subprocess
import sys
import threading
from typing import Any

from firstkit.adapters.store import SqlStore
from firstkit.core.topology import Snapshot
from firstkit.ports.store import Demand, EventRow

ROUNDS = 40

WORKER = """
import sys, json
from dataclasses import replace
from pathlib import Path
from firstkit.adapters.store import open_store
from firstkit.core.settings import StoreSettings
from firstkit.core.request import AttemptRecord, Outcome, RequestClass, Usage
from firstkit.ports.store import Demand, EventRow
from firstkit.core.topology import Snapshot
from firstkit.testing.records import settle

part, url, folder, rounds = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
store = open_store(StoreSettings(url=url), folder=folder)
print("ready", flush=True)
sys.stdin.readline()
record = AttemptRecord(
    request="", attempt=1, ended=True, at=1.0, subject="s", project="", client_request_id="", path="/", model="m",
    asked="m", deployment="d", cluster="c", instance="i", stream=False, request_class=RequestClass.INTERACTIVE,
    outcome=Outcome.COMPLETE, status=200, error_code="", decision="", usage=Usage(), waited_s=0, first_byte_s=None,
    first_token_s=None, total_s=1, gap_max_s=None, gap_mean_s=None, chunks=1, request_bytes=1, response_bytes=1,
)
seen = []
for number in range(rounds):
    if part.startswith("gateway"):
        demand = Demand(gateway=part, model="m", waiting=number, oldest_wait_s=None, in_flight={}, wanted_ago_s=None)
        store.write_demand(gateway=part, acked=number, demand=[demand])
        settle(store, [replace(record, request=f"{part}-{number}-{index}") for index in range(20)])
        snapshot, _ = store.snapshot(newer_than=(0, 0))
        if snapshot is not None:
            seen.append(snapshot.version)
    elif part == "controller":
        term = store.take_term(holder="controller", ttl_s=60)
        store.save(term, events=[EventRow(at=1.0, kind="job", subject="j", state="", reason="", detail=str(number))])
        store.write_snapshot(term, Snapshot(version=number + 1, epoch=term.epoch))
        store.gateways(within_s=60)
    else:
        store.put_report(job="j", seq=number, document=b"x" * 2000)
        store.add_revision(document=f"{part} {number}", by=part)
store.close()
print(json.dumps(seen), flush=True)
"""


def test_processes_write_at_once_and_nothing_is_lost(place: Any, store: SqlStore) -> None:
    parts = ["gateway-1", "gateway-2", "controller", "api"]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, part, place.settings.url, str(place.folder), str(ROUNDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for part in parts
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
        results = [worker.communicate(timeout=50) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert [(worker.returncode, err) for worker, (_, err) in zip(workers, results, strict=True)] == [(0, "")] * 4
    for out, _ in results[:2]:
        versions = json.loads(out)
        assert versions == sorted(versions)
    assert store.usage_since(subject=None, since=0.0) == [("m", 2 * ROUNDS * 20, 0, 0)]
    assert [event.detail for event in store.events(subject="j", limit=1000)] == [str(n) for n in range(ROUNDS)]
    assert len(store.revisions(limit=1000)) == ROUNDS
    assert {row.gateway: row.acked for row in store.gateways(within_s=600)} == {
        "gateway-1": ROUNDS - 1,
        "gateway-2": ROUNDS - 1,
    }
    snapshot, _ = store.snapshot(newer_than=(0, 0))
    assert snapshot is not None
    assert snapshot.version == ROUNDS


def test_threads_of_one_process_may_share_a_store(store: SqlStore) -> None:
    failures: list[BaseException] = []
    term = store.take_term(holder="c", ttl_s=60)
    assert term is not None

    def gateway(name: str) -> None:
        try:
            for number in range(ROUNDS):
                demand = Demand(
                    gateway=name, model="m", waiting=number, oldest_wait_s=None, in_flight={}, wanted_ago_s=None
                )
                store.write_demand(gateway=name, acked=number, demand=[demand])
                store.snapshot(newer_than=(0, 0))
        except BaseException as error:  # noqa: BLE001 shown below
            failures.append(error)

    def controller() -> None:
        try:
            for number in range(ROUNDS):
                store.write_snapshot(term, Snapshot(version=number, epoch=term.epoch))
                event = EventRow(at=1.0, kind="job", subject="j", state="", reason="", detail=str(number))
                store.save(term, events=[event])
        except BaseException as error:  # noqa: BLE001 shown below
            failures.append(error)

    threads = [threading.Thread(target=gateway, args=[f"gw-{number}"]) for number in range(3)]
    threads.append(threading.Thread(target=controller))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(store.events(subject="j", limit=1000)) == ROUNDS
    assert len(store.gateways(within_s=600)) == 3
