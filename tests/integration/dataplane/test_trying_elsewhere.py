# SPDX-License-Identifier: Apache-2.0
"""Before an engine's first byte another instance is tried; after it nothing is replayed and no break goes unnoticed."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from firstkit.core.request import Dialect, Outcome, RequestFacts
from firstkit.core.settings import GatewaySettings
from firstkit.services.waiting_room import Grant, Ticket, Waiter
from firstkit.testing.planes import MODEL, make_route, plane_world
from firstkit.testing.raw_client import Answer, request
from firstkit.testing.raw_engine import STREAM_HEAD, Visit, answer, chunked, raw_engine, says

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("every_link")]

CHAT = {"model": MODEL, "messages": []}
STREAM = {**CHAT, "stream": True}
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
PATHS = {
    Dialect.OPENAI: "/v1/chat/completions",
    Dialect.RESPONSES: "/v1/responses",
    Dialect.ANTHROPIC: "/v1/messages",
}


async def drop(visit: Visit) -> None:
    await visit.close()


async def reset(visit: Visit) -> None:
    visit.reset()


async def test_a_refused_connection_moves_the_request_to_another_instance(tmp_path: Path) -> None:
    async with raw_engine() as dead, raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        await dead.stop()
        world.serve(dead, engine)
        async with world.client() as client:
            for _ in range(4):
                await client.send(request(CHAT))
                assert (await client.answer()).headers["x-first-instance"] == "i-1"
        assert len(engine.visits) == 4


@pytest.mark.parametrize("script", [drop, reset, says(b"")], ids=["close", "reset", "nothing, then close"])
@pytest.mark.parametrize("tcp", [False, True])
async def test_a_connection_that_breaks_before_the_first_byte_moves_it_too(
    tmp_path: Path, script: object, tcp: bool
) -> None:
    async def broken(visit: Visit) -> None:
        await script(visit)  # type: ignore[operator]
        await visit.close()

    async with (
        raw_engine(None if tcp else tmp_path) as bad,
        raw_engine(tmp_path) as good,
        plane_world(tmp_path) as world,
    ):
        bad.script = broken
        world.publish(make_route("i-bad", bad.address), make_route("i-good", good.address, cap=1))
        good.scripts = [_busy]
        async with world.client() as busy, world.client() as client:
            world.publish(make_route("i-good", good.address, cap=1))
            await busy.send(request(CHAT))
            await good.visit()
            world.publish(make_route("i-bad", bad.address), make_route("i-good", good.address, cap=2))
            await client.send(request(CHAT))
            got = await client.answer()
            assert (got.status, got.headers["x-first-instance"]) == (200, "i-good")
            first, last = [record for record in world.records if record.request == got.headers["x-request-id"]]
    assert (first.instance, first.outcome, first.attempt, first.ended) == ("i-bad", Outcome.RETRIED, 1, False)
    assert (last.instance, last.outcome, last.attempt, last.ended) == ("i-good", Outcome.COMPLETE, 2, True)


async def _busy(visit: Visit) -> None:
    await visit.wait_gone()


async def test_the_time_at_an_instance_that_failed_counts_as_waited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def late(visit: Visit) -> None:
        await asyncio.sleep(0.3)
        await visit.close()

    async with raw_engine(tmp_path) as bad, raw_engine(tmp_path) as good, plane_world(tmp_path) as world:
        world.serve(bad)
        bad.script = late
        told: list[float] = []
        again = world.dispatcher.again

        def noted(facts: RequestFacts, waiter: Waiter, **more: Any) -> Grant | Ticket:
            told.append(more["waited_s"])
            return again(facts, waiter, **more)

        monkeypatch.setattr(world.dispatcher, "again", noted)
        async with world.client() as client:
            await client.send(request(CHAT))
            await bad.visit()
            world.publish(make_route("i-0", bad.address), make_route("i-1", good.address))
            assert (await client.answer()).headers["x-first-instance"] == "i-1"
    assert len(told) == 1
    assert told[0] > 0.2


async def test_an_engine_that_drains_is_left_for_another(tmp_path: Path) -> None:
    drains = answer(
        b'{"error":{"message":"cannot schedule new futures after shutdown"}}', status="500 Internal Server Error"
    )
    for raw in (drains, drains.replace(b"500 Internal Server Error", b"503 Service Unavailable")):
        async with raw_engine(tmp_path) as one, raw_engine(tmp_path) as two, plane_world(tmp_path) as world:
            one.script = two.script = says(raw)
            world.serve(one, two)
            async with world.client() as client:
                await client.send(request(CHAT))
                got = await client.answer()
                assert got.status == 502
                assert len(one.visits) == len(two.visits) == 1
                two.script = says(answer(b"{}"))
                await client.send(request(CHAT))
                assert (await client.answer()).status == 200
        assert [record.outcome for record in world.records[:2]] == [Outcome.RETRIED, Outcome.ENGINE_ERROR]


async def test_it_is_tried_three_times_at_most(tmp_path: Path) -> None:
    unwell = says(answer(b'{"error":{}}', status="503 Service Unavailable"))
    async with plane_world(tmp_path) as world:
        engines = []
        from contextlib import AsyncExitStack

        async with AsyncExitStack() as stack:
            for _ in range(5):
                engines.append(await stack.enter_async_context(raw_engine(tmp_path)))
                engines[-1].script = unwell
            world.serve(*engines)
            async with world.client() as client:
                await client.send(request(CHAT))
                got = await client.answer()
        assert got.status == 503  # the third answer goes to the client as it is
        assert sum(len(engine.visits) for engine in engines) == 3
        assert [record.attempt for record in world.records] == [1, 2, 3]


async def test_other_errors_are_not_retried(tmp_path: Path) -> None:
    async with raw_engine(tmp_path) as one, raw_engine(tmp_path) as two, plane_world(tmp_path) as world:
        one.script = two.script = says(answer(b'{"error":{}}', status="500 Internal Server Error"))
        world.serve(one, two)
        async with world.client() as client:
            await client.send(request(CHAT))
            assert (await client.answer()).status == 500
        assert len(one.visits) + len(two.visits) == 1


async def test_a_stale_pooled_connection_is_replaced_unseen(tmp_path: Path) -> None:
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        engine.scripts = [says(answer(b"{}")), drop]  # the second request finds the connection closing
        world.serve(engine)
        async with world.client() as client:
            for _ in range(2):
                await client.send(request(CHAT))
                assert (await client.answer()).status == 200
        assert len(engine.visits) == 3
    assert [(record.attempt, record.outcome) for record in world.records] == [(1, Outcome.COMPLETE)] * 2


async def test_a_connection_that_cannot_be_made_in_time_counts_against_the_instance(tmp_path: Path) -> None:
    import socket

    from firstkit.core.topology import Address, AddressKind

    full = socket.socket(socket.AF_UNIX)
    path = str(tmp_path / "full.sock")
    full.bind(path)
    full.listen(0)
    stuck = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    for sock in stuck:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect(path)
    settings = GatewaySettings(uploads=str(tmp_path), connect_timeout_s=0.1)
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path, settings=settings) as world:
        address = Address(kind=AddressKind.UNIX, path=path)
        world.publish(make_route("i-full", address), make_route("i-good", engine.address))
        async with world.client() as client:
            for _ in range(4):
                await client.send(request(CHAT))
                assert (await client.answer()).headers["x-first-instance"] == "i-good"
    for sock in (*stuck, full):
        sock.close()


def error_of(got: Answer, dialect: Dialect) -> dict[str, object]:
    last = got.body.strip().split(b"\n\n")[-1]
    fields = json.loads(last.split(b"data: ", 1)[1])
    if dialect is Dialect.OPENAI:
        assert last.startswith(b"data: ")
    else:
        assert last.startswith(b"event: error\n")
        assert fields["type"] == "error"
    return fields["error"]


@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize("how", [drop, reset], ids=["close", "reset"])
@pytest.mark.parametrize("part", [b"", b'data: {"half":'], ids=["between", "within"])
async def test_a_stream_that_breaks_ends_in_an_error_event_of_its_route(
    tmp_path: Path, dialect: Dialect, how: object, part: bytes
) -> None:
    async def script(visit: Visit) -> None:
        await visit.send(STREAM_HEAD + chunked(TOKEN + part, end=False))
        await seen.wait()
        await how(visit)  # type: ignore[operator]

    seen = asyncio.Event()
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        engine.script = script
        async with world.client() as client:
            await client.send(request(STREAM, path=PATHS[dialect]))
            begun = await client.read_until(TOKEN)
            seen.set()
            client.unread(begun)
            got = await client.answer()
    assert got.whole
    assert got.body.startswith(TOKEN)
    assert part == b"" or part not in got.body
    assert b"[DONE]" not in got.body
    assert error_of(got, dialect)["code"] == "engine_cut"
    assert [record.outcome for record in world.records] == [Outcome.CUT]
    assert len(engine.visits) == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nab",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\nzz\r\n",
    ],
    ids=["length", "chunked", "in a chunk", "wrong chunk"],
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_plain_answer_that_breaks_is_never_well_formed(tmp_path: Path, raw: bytes, version: str) -> None:
    async def script(visit: Visit) -> None:
        await visit.send(raw)
        await visit.close()

    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        engine.script = script
        async with world.client() as client:
            await client.send(request(CHAT).replace(b"HTTP/1.1", f"HTTP/{version}".encode()))
            if version == "1.1" or b"content-length" in raw or b"zz" in raw:
                got = await client.answer()
                assert not got.whole or got.status == 502
            else:
                # only the connection's end would tell the answer's: it is reset instead
                with pytest.raises(ConnectionError):
                    await client.read_raw_all()
    assert [record.outcome for record in world.records] in ([Outcome.CUT], [Outcome.ENGINE_ERROR])


async def test_an_engine_that_falls_silent_is_given_up(tmp_path: Path) -> None:
    settings = GatewaySettings(uploads=str(tmp_path), upstream_idle_s=0.15)
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path, settings=settings) as world:
        world.serve(engine)
        engine.scripts = [_busy, _half]
        async with world.client() as client:
            await client.send(request(CHAT))
            await engine.visit()
            world.hurry_upstreams()
            got = await client.answer()
            assert (got.status, got.code) == (504, "engine_timeout")
            await client.send(request(STREAM))
            begun = await client.read_until(TOKEN)
            world.hurry_upstreams()
            client.unread(begun)
            got = await client.answer()
            assert error_of(got, Dialect.OPENAI)["code"] == "engine_timeout"
    assert [record.outcome for record in world.records] == [Outcome.TIMED_OUT] * 2


async def _half(visit: Visit) -> None:
    await visit.send(STREAM_HEAD + chunked(TOKEN, end=False))
    await visit.wait_gone()


async def test_a_withdrawn_instance_is_cut_off(tmp_path: Path) -> None:
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        engine.script = _half
        async with world.client() as client:
            await client.send(request(STREAM))
            begun = await client.read_until(TOKEN)
            world.publish()
            client.unread(begun)
            got = await client.answer()
        await (await engine.visit()).wait_gone()
    assert error_of(got, Dialect.OPENAI)["code"] == "engine_cut"


async def test_a_watched_instance_that_dies_is_unrouted_without_a_request(tmp_path: Path) -> None:
    async with raw_engine(tmp_path) as one, raw_engine(tmp_path) as two, plane_world(tmp_path) as world:
        world.serve(one, two)
        await world.until(lambda: world.hears_of("i-0", one) and world.hears_of("i-1", two))
        await one.stop()
        world.engine_ended("i-0")
        await world.until(lambda: any("i-0" in demand.lost for demand in world.dispatcher.demand()))
        async with world.client() as client:
            for _ in range(4):
                await client.send(request(CHAT))
                assert (await client.answer()).headers["x-first-instance"] == "i-1"
        await one.start()
        world.serve(one, two)
        await world.until(lambda: not any(demand.lost for demand in world.dispatcher.demand()))


@pytest.mark.parametrize("every_link", ["local", "direct"], indirect=True)  # over `reverse` none is watched
async def test_an_engine_that_closes_idle_connections_is_not_taken_for_dead(tmp_path: Path) -> None:
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        for number in range(2, 5):
            await world.until(lambda: all(watch._stands for watch in world.plane._watches._watches.values()))
            engine.close_idle()
            await world.until(lambda number=number: engine.connections == number)
        assert not any(demand.lost for demand in world.dispatcher.demand())
