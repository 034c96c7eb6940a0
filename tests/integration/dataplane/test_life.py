# SPDX-License-Identifier: Apache-2.0
"""A gateway's life under traffic: other settings, a graceful stop, a successor on the inherited socket."""

import asyncio
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from firstkit.core.request import Outcome
from firstkit.core.settings import GatewaySettings
from firstkit.testing.planes import MODEL, bound_socket, plane_world
from firstkit.testing.raw_client import raw_client, request
from firstkit.testing.raw_engine import STREAM_HEAD, Visit, answer, chunked, raw_engine

pytestmark = pytest.mark.anyio

CHAT = {"model": MODEL, "messages": []}
STREAM = {**CHAT, "stream": True}
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


async def test_open_streams_live_through_a_reload(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.send(STREAM_HEAD + chunked(TOKEN, end=False))
        await go_on.wait()
        await visit.send(chunked(TOKEN, DONE))

    settings = GatewaySettings(uploads=str(tmp_path))
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path, settings=settings) as world:
        world.serve(engine)
        engine.script = script
        async with world.client() as client, world.client() as other:
            await client.send(request(STREAM))
            begun = await client.read_until(TOKEN)
            for limit in (10, 1000):
                world.plane.reload(replace(settings, body_limit=limit, choices_limit=1))
                await other.send(request(STREAM if limit == 10 else {**CHAT, "n": 2}))
                got = await other.answer()
                assert got.status == (413 if limit == 10 else 400)
            go_on.set()
            client.unread(begun)
            assert (await client.answer()).body == TOKEN + TOKEN + DONE


async def test_a_thousand_streams_live_through_a_stop_while_a_successor_takes_over_the_socket(tmp_path: Path) -> None:
    count = 1000
    go_on = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.send(STREAM_HEAD + chunked(TOKEN, end=False))
        await go_on.wait()
        await visit.send(chunked(TOKEN, DONE))

    listener = bound_socket()
    where = listener.getsockname()
    with listener, listener.dup() as inherited:
        async with raw_engine(tmp_path) as engine:
            engine.script = script
            async with plane_world(tmp_path, listener=listener) as old:
                old.serve(engine, cap=count)

                async def one(number: int) -> bytes:
                    async with raw_client(where) as client:
                        await client.send(request(STREAM))
                        got = await client.answer()
                        assert got.whole
                        return got.body

                streams = [asyncio.create_task(one(number)) for number in range(count)]
                await old.until(lambda: len(old.plane.leases) == count and len(engine.visits) == count)
                stopping = asyncio.create_task(old.plane.drain(30.0))
                await old.until(lambda: old.plane.draining)
                async with plane_world(tmp_path, listener=inherited) as new:
                    engine.script = _at_once
                    new.serve(engine)
                    for _ in range(20):
                        async with raw_client(where) as client:
                            await client.send(request(CHAT))
                            assert (await client.answer()).status == 200
                    assert len(new.records) == 20
                    assert not stopping.done()
                    go_on.set()
                    assert set(await asyncio.gather(*streams)) == {TOKEN + TOKEN + DONE}
                    assert await stopping
    assert {record.outcome for record in old.records} == {Outcome.COMPLETE}
    assert len(old.records) == count


async def _at_once(visit: Visit) -> None:
    await visit.send(answer(b"{}"))


async def test_a_stop_ends_idle_connections_and_lets_a_request_under_way_finish(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def script(visit: Visit) -> None:
        await go_on.wait()
        await visit.send(answer(b"{}"))

    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        engine.script = script
        async with world.client() as idle, world.client() as busy:
            await idle.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            await idle.answer()
            await busy.send(request(CHAT))
            await engine.visit()
            stopping = asyncio.create_task(world.plane.drain(10.0))
            assert await idle.closed()
            go_on.set()
            got = await busy.answer()
            assert (got.status, got.headers["connection"]) == (200, "close")
            assert await busy.closed()
            assert await stopping


async def test_what_is_not_finished_in_time_is_ended_in_its_own_way(tmp_path: Path) -> None:
    async def script(visit: Visit) -> None:
        if b"stream" in visit.body:
            await visit.send(STREAM_HEAD + chunked(TOKEN, end=False))
        await visit.wait_gone()

    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        engine.script = script
        async with world.client() as plain, world.client() as stream, world.client() as waits:
            await plain.send(request(CHAT))
            await stream.send(request(STREAM))
            begun = await stream.read_until(TOKEN)
            await engine.visit(1)
            world.publish(*(replace(route, cap=2) for route in world.routes.values()))
            await waits.send(request(CHAT))
            await world.until(lambda: world.dispatcher.waiting)
            assert not await world.plane.drain(0.05)
            assert (await plain.answer()).status in {502, 503}
            stream.unread(begun)
            assert b'"error"' in (await stream.answer()).body
            assert (await waits.answer()).code == "stopping"
    assert len(world.records) == 3


async def test_the_listening_socket_outlives_the_plane(tmp_path: Path) -> None:
    with bound_socket() as listener, listener.dup() as mine:
        async with plane_world(tmp_path, listener=listener):
            pass
        with socket.create_connection(mine.getsockname()):
            mine.accept()[0].close()
