# SPDX-License-Identifier: Apache-2.0
"""A client that leaves: the engine hears of it; where it cannot stop, the lease is held until it has ended."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from firstkit.core.request import Outcome
from firstkit.core.settings import GatewaySettings
from firstkit.testing.planes import MODEL, Keys, PlainEngine, make_route, plane_world
from firstkit.testing.raw_client import RawClient, request
from firstkit.testing.raw_engine import STREAM_HEAD, Visit, answer, chunked, raw_engine, says

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("every_link")]

CHAT = {"model": MODEL, "messages": []}
STREAM = {**CHAT, "stream": True}
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
USAGE = b'{"usage":{"prompt_tokens":4,"completion_tokens":9}}'


async def half_close(client: RawClient) -> None:
    client.half_close()


async def close(client: RawClient) -> None:
    await client.close()


async def reset(client: RawClient) -> None:
    client.reset()


WAYS = pytest.mark.parametrize("leave", [half_close, close, reset])


async def silent(visit: Visit) -> None:
    await visit.wait_gone()


async def streaming(visit: Visit) -> None:
    await visit.send(STREAM_HEAD + chunked(TOKEN, end=False))
    await visit.wait_gone()


@WAYS
@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["plain", "stream"])
async def test_the_engine_is_let_go_before_the_first_byte(tmp_path: Path, leave: Callable, body: dict) -> None:
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        engine.script = silent
        async with world.client() as client:
            await client.send(request(body))
            visit = await engine.visit()
            await leave(client)
            await visit.wait_gone()
            await world.until(lambda: world.records)
    assert [(record.outcome, record.ended) for record in world.records] == [(Outcome.CLIENT_GONE, True)]


@WAYS
async def test_the_engine_is_let_go_in_the_middle_of_a_stream(tmp_path: Path, leave: Callable) -> None:
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        engine.script = streaming
        async with world.client() as client:
            await client.send(request(STREAM))
            await client.read_until(TOKEN)
            await leave(client)
            await (await engine.visit()).wait_gone()
            await world.until(lambda: world.records)
    [record] = world.records
    assert (record.outcome, record.status, record.chunks) == (Outcome.CLIENT_GONE, 200, 1)


async def test_a_client_that_leaves_is_noticed_though_it_has_sent_more_than_is_read_ahead(tmp_path: Path) -> None:
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        engine.script = silent
        async with world.client() as client:
            await client.send(request(CHAT))
            visit = await engine.visit()
            sending = asyncio.create_task(client.send(request(CHAT) * 20_000))
            await world.until(lambda: any(conn._pull_paused for conn in world.plane.connections))
            client.reset()
            await visit.wait_gone()
            await asyncio.gather(sending, return_exceptions=True)
        assert len(engine.visits) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_where_an_engine_cannot_abort_the_lease_is_held_until_it_has_ended(tmp_path: Path, stream: bool) -> None:
    end = asyncio.Event()

    async def script(visit: Visit) -> None:
        if stream:
            await visit.send(STREAM_HEAD + chunked(TOKEN, end=False))
        await end.wait()
        await visit.send(chunked(TOKEN, b'data: {"choices":[],%b}\n\n' % USAGE[1:-1]) if stream else answer(USAGE))

    manners = PlainEngine(aborts_unary=False, aborts_streams=False)
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path, engine=manners) as world:
        world.serve(engine, cap=1)
        engine.scripts = [script]
        async with world.client() as client:
            await client.send(request({**CHAT, "stream": stream}))
            visit = await engine.visit()
            await client.close()
        await world.until(lambda: not world.plane.connections)
        async with world.client() as second:
            await second.send(request(CHAT))
            await world.until(lambda: world.dispatcher.waiting == 1)
            assert world.dispatcher.in_flight == 1
            assert not visit.gone.is_set()
            end.set()
            assert (await second.answer()).status == 200
    first, last = world.records
    assert (first.outcome, first.usage.input_tokens, first.usage.output_tokens) == (Outcome.CLIENT_GONE, 4, 9)
    assert last.outcome is Outcome.COMPLETE


async def test_an_engine_that_cannot_abort_and_dies_gives_the_lease_back(tmp_path: Path) -> None:
    manners = PlainEngine(aborts_unary=False)
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path, engine=manners) as world:
        world.serve(engine)
        engine.script = silent
        async with world.client() as client:
            await client.send(request(CHAT))
            await engine.visit()
            await client.close()
        await world.until(lambda: not world.plane.connections)
        assert world.dispatcher.in_flight == 1
        await engine.stop()
        await world.until(lambda: not world.dispatcher.in_flight)
    assert [record.outcome for record in world.records] == [Outcome.CLIENT_GONE]


async def test_a_client_that_leaves_the_queue_gives_up_its_place(tmp_path: Path) -> None:
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine, cap=1)
        engine.scripts = [silent]
        async with world.client() as first, world.client() as second:
            await first.send(request(CHAT))
            await engine.visit()
            async with world.client() as leaving:
                await leaving.send(request(CHAT))
                await world.until(lambda: world.dispatcher.waiting == 1)
                await second.send(request(STREAM))
                await world.until(lambda: world.dispatcher.waiting == 2)
            await world.until(lambda: world.dispatcher.waiting == 1)
            await first.close()
            assert (await second.answer()).status == 200
        assert len(engine.visits) == 2
    gone = [record for record in world.records if record.attempt == 0]
    assert [(record.outcome, record.instance) for record in gone] == [(Outcome.CLIENT_GONE, "")]


async def test_a_client_that_leaves_while_it_is_being_looked_up_or_still_sending_leaves_nothing(tmp_path: Path) -> None:
    keys = Keys({}, slow={})
    keys.let_go.clear()
    async with plane_world(tmp_path, keys=keys) as world:
        async with world.client() as client:
            await client.send(request(CHAT))
            await world.until(lambda: keys.asked)
        await world.until(lambda: not world.plane.connections)
        keys.let_go.set()
    async with plane_world(tmp_path) as world:
        async with world.client() as client:
            await client.send(request(b"x" * 1000)[:-500])
            await world.until(lambda: world.plane.bodies.memory)
        await world.until(lambda: not world.plane.connections)
        assert world.plane.bodies.memory == 0


async def test_a_client_that_leaves_while_the_engine_is_being_dialled_leaves_nothing(tmp_path: Path) -> None:
    import socket

    from firstkit.core.topology import Address, AddressKind

    path = str(tmp_path / "full.sock")
    with socket.socket(socket.AF_UNIX) as full:
        full.bind(path)
        full.listen(0)
        stuck = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        for sock in stuck:
            sock.setblocking(False)
            sock.connect_ex(path)
        async with plane_world(tmp_path) as world:
            world.publish(make_route("i-0", Address(kind=AddressKind.UNIX, path=path)))
            async with world.client() as client:
                await client.send(request(CHAT))
                await world.until(lambda: world.dispatcher.in_flight)
            await world.until(lambda: not world.dispatcher.in_flight)
        for sock in stuck:
            sock.close()


async def test_a_reader_that_stops_holds_up_the_engine_and_takes_little_memory(tmp_path: Path) -> None:
    line = b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": "x" * 1000}}]}).encode() + b"\n\n"
    block = chunked(line, end=False) * 50
    sent = 0

    async def flood(visit: Visit) -> None:
        nonlocal sent
        await visit.send(STREAM_HEAD)
        for _ in range(1000):
            await visit.send(block)
            sent += 1
        await visit.send(b"0\r\n\r\n")

    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        engine.scripts = [flood]
        async with world.client() as client, world.client() as other:
            await client.send(request(STREAM))
            await client.read_until(line)
            client.stop_reading()
            before = -1
            while before != sent:  # until the engine cannot send any more
                before = sent
                await asyncio.sleep(0.2)
            [conn] = [conn for conn in world.plane.connections if conn.exchange is not None]
            assert conn.transport.get_write_buffer_size() < 1_000_000
            assert sent < 500
            await other.send(request(CHAT))  # nobody else is held up
            assert (await other.answer()).status == 200
            client.start_reading()
            total, last = 0, b""
            while not last.endswith(b"0\r\n\r\n"):
                last = last[-5:] + await client.read()
                total += len(last)
            assert total > 49_000 * len(line)
            await world.until(lambda: len(world.records) == 2)
    assert {record.outcome for record in world.records} == {Outcome.COMPLETE}


async def test_a_stopped_reader_that_leaves_is_noticed(tmp_path: Path) -> None:
    async def flood(visit: Visit) -> None:
        await visit.send(STREAM_HEAD)
        while not visit.gone.is_set():
            visit.send_now(chunked(TOKEN, end=False) * 1000)
            await asyncio.sleep(0.001)

    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        engine.script = flood
        async with world.client() as client:
            await client.send(request(STREAM))
            await client.read_until(TOKEN)
            client.stop_reading()
            await world.until(lambda: any(conn.slow for conn in world.plane.connections))
            client.reset()
            await (await engine.visit()).wait_gone()
    assert [record.outcome for record in world.records] == [Outcome.CLIENT_GONE]


async def test_many_that_leave_at_once_leave_nothing(tmp_path: Path) -> None:
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine, cap=8)
        engine.script = streaming

        async def one(number: int) -> None:
            async with world.client() as client:
                await client.send(request(STREAM))
                if number % 3 == 0 and world.dispatcher.in_flight < 8:
                    await client.read_until(b"\r\n\r\n")
                if number % 2:
                    client.reset()

        await asyncio.gather(*(one(number) for number in range(60)))
        await world.until(lambda: not any(world.leftovers().values()))
        engine.script = says(answer(b"{}"))
        async with world.client() as client:
            await client.send(request(CHAT))
            assert (await client.answer()).status == 200


async def test_a_reader_that_pauses_for_longer_than_the_kernel_waits_for_acknowledgements_gets_all(
    tmp_path: Path,
) -> None:
    events = b"".join(
        b'data: {"choices":[{"delta":{"content":"%08d%b"}}]}\n\n' % (n, b"x" * 4000) for n in range(10_000)
    )
    impatient = GatewaySettings(uploads=str(tmp_path), user_timeout_s=0.4)
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path, settings=impatient) as world:
        world.serve(engine)
        engine.script = says(STREAM_HEAD + chunked(events))
        async with world.client() as client:
            await client.send(request(STREAM))
            await world.until(lambda: any(conn.slow for conn in world.plane.connections))
            await asyncio.sleep(2.5)  # what is tried is that time passes, several times the kernel's limit
            got = await client.answer()
    assert got.whole
    assert got.body == events
