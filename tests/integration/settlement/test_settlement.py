# SPDX-License-Identifier: Apache-2.0
"""From the spool into the store: nothing lost, nothing twice, whatever breaks."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from firstkit.adapters.store import SqlStore, migrate_store, open_store
from firstkit.core.errors import InternalError, SiteError
from firstkit.core.request import AttemptRecord, Outcome, RequestClass, Usage, UsageSource
from firstkit.core.settings import StoreSettings
from firstkit.ports.store import AttemptRow, StoreUnavailable
from firstkit.services import settlement, spool
from firstkit.services.settlement import Settlement
from firstkit.services.spool import Spool, encode
from firstkit.services.store_thread import StoreThread

SETTINGS = StoreSettings(url="sqlite:///first.db")

RECORD = AttemptRecord(
    request="r-0",
    attempt=1,
    ended=True,
    at=100.0,
    subject="key:a",
    project="",
    client_request_id="mine",
    path="/v1/chat/completions",
    model="m",
    asked="m",
    deployment="d",
    cluster="c",
    instance="i-1",
    stream=True,
    request_class=RequestClass.INTERACTIVE,
    outcome=Outcome.COMPLETE,
    status=200,
    error_code="",
    decision="least loaded of 3",
    usage=Usage(source=UsageSource.ENGINE, input_tokens=10, output_tokens=5),
    waited_s=0.0,
    first_byte_s=0.1,
    first_token_s=0.2,
    total_s=1.0,
    gap_max_s=0.1,
    gap_mean_s=0.1,
    chunks=5,
    request_bytes=100,
    response_bytes=1000,
)


def record(number: int) -> AttemptRecord:
    return replace(RECORD, request=f"r-{number}")


class BreakableStore:
    """A real store that can be told to be away, or to refuse a request's record."""

    def __init__(self, store: SqlStore) -> None:
        self.store = store
        self.away = False
        self.refuses = ""
        self.calls = 0

    def settle(self, rows: Sequence[AttemptRow]) -> int:
        self.calls += 1
        if self.away:
            raise StoreUnavailable("away")
        if any(row.request == self.refuses for row in rows):
            raise InternalError("no such number")
        return self.store.settle(rows)

    def __getattr__(self, name: str) -> object:
        return getattr(self.store, name)


class Journal:
    def __init__(self) -> None:
        self.events: list[str] = []

    def __call__(self, event: str, **_facts: object) -> None:
        self.events.append(event)


class Scene:
    """A spool, a store that can break, and the settlement between them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "spool"
        migrate_store(SETTINGS, folder=folder)
        self.sql = open_store(SETTINGS, folder=folder)
        self.store = BreakableStore(self.sql)
        self.journal = Journal()
        self.spool = Spool(self.folder, owner="gw-1")
        self.settlement = self.settle_for(self.spool)

    def settle_for(self, spool: Spool) -> Settlement:
        store: object = self.store
        return Settlement(spool, store, folder=self.folder, journal=self.journal)  # type: ignore[arg-type]

    def settled(self) -> int:
        return sum(requests for _, requests, _, _ in self.sql.usage_since(subject=None, since=0.0))

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def close(self) -> None:
        self.spool.close()
        self.sql.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.close()


def test_what_was_appended_is_settled_as_it_was(scene: Scene) -> None:
    scene.spool.append(RECORD)
    scene.spool.append(replace(RECORD, attempt=2))
    assert scene.settlement.sweep() == 2
    assert scene.sql.attempts("r-0") == [RECORD, replace(RECORD, attempt=2)]
    assert scene.settlement.sweep() == 0


def test_an_append_is_one_write_of_one_short_line(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[bytes] = []
    write = os.write

    def counted(file: int, data: bytes) -> int:
        writes.append(data)
        return write(file, data)

    monkeypatch.setattr(os, "write", counted)
    scene.spool.append(RECORD)
    assert len(writes) == 1
    assert writes[0].count(b"\n") == 1
    assert len(writes[0]) < 2000


def test_records_appended_together_are_one_write_and_settled_like_any_others(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[bytes] = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: writes.append(data) or write(file, data))
    odd = replace(record(3), asked="half a pair: \ud800")
    scene.spool.append_all([record(1), record(2)])
    scene.spool.append_all([odd])
    assert [data.count(b"\n") for data in writes] == [2, 1]
    assert writes[0] == encode(record(1)) + encode(record(2))
    assert scene.settlement.sweep() == 3
    assert scene.sql.attempts("r-2") == [record(2)]


def test_a_sweep_with_little_time_leaves_the_rest_for_the_next(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlement, "BATCH", 10)
    monkeypatch.setattr(settlement, "ROTATE_BYTES", 20_000)
    new = []
    for first in range(0, 200, 50):
        scene.spool.append_all([record(number) for number in range(first, first + 50)])
        new.append(scene.settlement.sweep(budget_s=0.0))
    assert 0 < sum(new) < 200
    assert scene.settlement.behind_bytes > 0
    while sum(new) < 200:
        new.append(scene.settlement.sweep(budget_s=0.001))
    assert scene.settled() == 200
    scene.settlement.sweep()
    assert scene.settlement.sweep() == 0
    assert scene.files() == [scene.spool.path.name]


def test_the_more_is_left_the_sooner_comes_the_next_sweep(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlement, "BEHIND_BYTES", 10_000)
    rests = [scene.settlement.rest_s]
    for first in range(0, 400, 100):
        scene.spool.append_all([record(number) for number in range(first, first + 100)])
        rests.append(scene.settlement.rest_s)
    assert rests[0] == settlement.SWEEP_EVERY_S
    assert rests == sorted(rests, reverse=True)
    assert rests[-1] == settlement.SWEEP_OFTEN_S
    scene.settlement.sweep()
    assert scene.settlement.rest_s == settlement.SWEEP_EVERY_S


def test_each_record_is_settled_once_however_often_swept(scene: Scene) -> None:
    for number in range(1200):
        scene.spool.append(record(number))
        if number % 100 == 0:
            scene.settlement.sweep()
    scene.settlement.sweep()
    assert scene.settled() == 1200
    assert scene.settlement.settled == 1200


def test_a_full_file_is_followed_by_a_new_one_and_removed_when_settled(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settlement, "ROTATE_BYTES", 5000)
    for number in range(100):
        scene.spool.append(record(number))
        if number % 10 == 5:
            scene.settlement.sweep()
    scene.settlement.sweep()
    scene.settlement.sweep()
    assert scene.settled() == 100
    assert scene.files() == [scene.spool.path.name]


def test_what_is_written_between_the_last_look_and_the_rotation_is_not_lost(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settlement, "ROTATE_BYTES", 1)
    rotate = scene.spool.rotate

    def late() -> Path:
        scene.spool.append(record(2))
        return rotate()

    monkeypatch.setattr(scene.spool, "rotate", late)
    scene.spool.append(record(1))
    scene.settlement.sweep()
    scene.settlement.sweep()
    assert scene.settled() == 2


def test_while_the_store_is_away_records_wait_in_the_file(scene: Scene) -> None:
    scene.store.away = True
    for number in range(3):
        scene.spool.append(record(number))
        with pytest.raises(StoreUnavailable):
            scene.settlement.sweep()
    assert scene.spool.waiting == 0
    scene.store.away = False
    assert scene.settlement.sweep() == 3


def test_the_file_of_a_dead_gateway_is_adopted_and_that_of_a_living_one_is_not(scene: Scene) -> None:
    living = Spool(scene.folder, owner="gw-2")
    living.append(record(1))
    dead = Spool(scene.folder, owner="gw-3")
    dead.append(record(2))
    dead.append(record(3))
    os.close(dead._file)  # as the kernel does at kill -9: the lock goes with the descriptor
    dead._file = -1
    assert scene.settlement.adopt() == 2
    assert {name.split(".")[0] for name in scene.files()} == {"gw-1", "gw-2"}
    assert scene.settlement.adopt() == 0
    living.close()
    assert scene.settlement.adopt() == 1
    assert scene.files() == [scene.spool.path.name]


def test_what_was_settled_before_the_death_is_not_settled_again(scene: Scene) -> None:
    dead = Spool(scene.folder, owner="gw-2")
    first = scene.settle_for(dead)
    dead.append(record(1))
    assert first.sweep() == 1
    dead.append(record(2))
    dead.close()
    assert scene.settlement.adopt() == 1
    assert scene.settled() == 2


def test_a_dead_gateways_file_stays_until_the_store_has_all_of_it(scene: Scene) -> None:
    dead = Spool(scene.folder, owner="gw-2")
    dead.append(record(1))
    dead.close()
    scene.store.away = True
    with pytest.raises(StoreUnavailable):
        scene.settlement.adopt()
    scene.store.away = False
    assert scene.settlement.adopt() == 1


def test_a_torn_last_line_is_skipped_and_said(scene: Scene) -> None:
    torn = scene.folder / "gw-9.aa.spool"
    torn.write_bytes(encode(record(1)) + encode(record(2)) + encode(record(3))[:100])
    assert scene.settlement.adopt() == 2
    assert scene.settlement.torn == 1
    assert "spool_line_torn" in scene.journal.events
    assert not torn.exists()


def test_a_line_that_is_still_being_written_is_left_for_the_next_look(scene: Scene) -> None:
    line = encode(record(1))
    os.write(scene.spool._file, line[:50])
    scene.spool._size += 50
    assert scene.settlement.sweep() == 0
    os.write(scene.spool._file, line[50:])
    scene.spool._size += len(line) - 50
    assert scene.settlement.sweep() == 1
    assert scene.settlement.torn == 0


@pytest.mark.parametrize("cut", [0, 1, 100])
def test_a_write_that_the_disk_took_in_part_loses_neither_this_record_nor_the_next(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:cut]))
    scene.spool.append(record(1))
    monkeypatch.setattr(os, "write", write)
    assert scene.spool.waiting == 1
    scene.spool.append(record(2))
    scene.settlement.sweep()
    assert scene.settled() == 2
    assert scene.spool.waiting == 0
    assert scene.settlement.torn == (1 if cut else 0)


def fill_disk(spool: Spool) -> int:
    """Have the spool write to a device that is always full; return the real file's descriptor."""
    real, spool._file = spool._file, os.open("/dev/full", os.O_WRONLY)
    return real


def free_disk(spool: Spool, real: int) -> None:
    os.close(spool._file)
    spool._file = real


def test_on_a_full_disk_records_wait_in_memory_and_reach_the_store_from_there(scene: Scene) -> None:
    real = fill_disk(scene.spool)
    for number in range(5):
        scene.spool.append(record(number))
    assert (scene.spool.waiting, scene.spool.failed_writes) == (5, 5)
    assert scene.settlement.sweep() == 5
    assert (scene.spool.waiting, scene.spool.dropped) == (0, 0)
    free_disk(scene.spool, real)
    assert scene.settlement.sweep() == 0


def test_when_the_store_is_away_too_they_are_written_once_there_is_room(scene: Scene) -> None:
    real = fill_disk(scene.spool)
    scene.store.away = True
    scene.spool.append(record(1))
    with pytest.raises(StoreUnavailable):
        scene.settlement.sweep()
    assert scene.spool.waiting == 1
    free_disk(scene.spool, real)
    with pytest.raises(StoreUnavailable):
        scene.settlement.sweep()
    assert scene.spool.waiting == 0
    assert scene.spool.path.read_bytes() == encode(record(1))
    scene.store.away = False
    assert scene.settlement.sweep() == 1


def test_memory_is_bounded_and_what_is_lost_is_counted(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "KEPT_BYTES", 10 * len(encode(record(10))))
    real = fill_disk(scene.spool)
    for number in range(10, 35):
        scene.spool.append(record(number))
    assert (scene.spool.waiting, scene.spool.dropped) == (10, 15)
    assert scene.settlement.sweep() == 10
    assert scene.sql.attempts("r-34") == [record(34)]
    free_disk(scene.spool, real)


def test_a_record_that_the_store_refuses_does_not_hold_up_the_others(scene: Scene) -> None:
    scene.store.refuses = "r-2"
    for number in range(5):
        scene.spool.append(record(number))
    assert scene.settlement.sweep() == 4
    assert scene.settlement.refused == 1
    assert scene.journal.events == ["usage_refused"]
    assert (scene.folder / "refused.jsonl").read_bytes() == encode(record(2))


def test_a_line_of_another_version_is_put_aside_whole(scene: Scene) -> None:
    line = json.dumps({"request": "r-1", "attempt": 1}).encode() + b"\n"
    (scene.folder / "gw-9.aa.spool").write_bytes(line + encode(record(1)))
    assert scene.settlement.adopt() == 1
    assert (scene.folder / "refused.jsonl").read_bytes() == line


def test_while_the_store_is_away_nothing_is_put_aside_at_every_look(scene: Scene) -> None:
    strange = encode(record(1)).replace(b'"attempt":1', b'"attempt":"one"')
    (scene.folder / "gw-9.aa.spool").write_bytes(strange + b"{torn\n" + encode(record(2)))
    scene.store.away = True
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            scene.settlement.adopt()
    assert not (scene.folder / "refused.jsonl").exists()
    scene.store.away = False
    scene.settlement.adopt()
    assert (scene.folder / "refused.jsonl").read_bytes() == strange
    assert scene.journal.events == ["spool_line_torn", "usage_refused", "spool_adopted"]
    assert scene.settled() == 1


def test_words_that_are_no_text_are_recorded(scene: Scene) -> None:
    scene.spool.append(replace(RECORD, client_request_id="\udcff", asked="a\x00b\nc"))
    assert scene.settlement.sweep() == 1
    (back,) = scene.sql.attempts("r-0")
    assert (back.client_request_id, back.asked) == ("?", "a\x00b\nc")


def test_a_file_that_somebody_removed_is_still_settled(scene: Scene) -> None:
    scene.spool.append(record(1))
    scene.spool.path.unlink()
    scene.spool.append(record(2))
    assert scene.settlement.sweep() == 2


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SiteError, match="usage cannot be recorded"):
        Spool(tmp_path / "file" / "spool", owner="gw-1")


def test_closing_leaves_no_empty_file_and_appending_afterwards_does_not_fail(scene: Scene) -> None:
    scene.spool.close()
    scene.spool.close()
    assert scene.files() == []
    scene.spool.append(RECORD)
    assert scene.settlement.sweep() == 1


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110 what happens in the store thread sets no event here
            await anyio.sleep(0.01)


@pytest.mark.anyio
async def test_records_flow_by_themselves_and_through_an_outage(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlement, "SWEEP_EVERY_S", 0.01)
    monkeypatch.setattr(settlement, "AWAY_MAX_S", 0.02)

    async with StoreThread() as thread, anyio.create_task_group() as group:
        group.start_soon(scene.settlement.run, thread)
        scene.spool.append(record(1))
        await until(lambda: scene.settlement.settled == 1)
        scene.store.away = True
        scene.spool.append(record(2))
        await until(lambda: "settlement_waits" in scene.journal.events)
        scene.store.away = False
        await until(lambda: "settlement_goes_on" in scene.journal.events)
        assert scene.settlement.settled == 2
        group.cancel_scope.cancel()
    assert scene.journal.events == ["settlement_waits", "settlement_goes_on"]


@pytest.mark.anyio
async def test_at_the_end_what_is_left_is_settled_and_no_file_stays(scene: Scene) -> None:
    scene.spool.append(record(1))
    async with StoreThread() as thread:
        await scene.settlement.finish(thread)
    assert scene.settled() == 1


KILLED = Path(__file__).parent / "killed_at_any_moment.py"


@pytest.mark.slow
def test_200_gateways_killed_at_any_moment_lose_no_record_and_settle_none_twice(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(KILLED), str(tmp_path), "200"], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["killed"] == 200
    assert result["appended"] > 1000
    assert result["lost"] == []
    assert result["requests"] == result["settled"]
    assert result["files_left"] == []
