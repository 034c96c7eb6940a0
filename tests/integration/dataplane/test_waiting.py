# SPDX-License-Identifier: Apache-2.0
"""Requests for a model that is not hot: held, told how things stand, served, or refused with the time to come back."""

import asyncio
import json
from pathlib import Path

import pytest

from firstkit.core.errors import Unavailable
from firstkit.core.request import Outcome
from firstkit.core.settings import GatewaySettings
from firstkit.core.topology import Heat
from firstkit.testing.planes import MODEL, PlainEngine, make_route, plane_world
from firstkit.testing.raw_client import request
from firstkit.testing.raw_engine import STREAM_HEAD, Visit, answer, chunked, raw_engine, says

pytestmark = pytest.mark.anyio

CHAT = {"model": MODEL, "messages": []}
STREAM = {**CHAT, "stream": True}
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"


def impatient(folder: Path, **more: object) -> GatewaySettings:
    plain = {"hold_head_s": 0.05, "comment_every_s": 0.05, "uploads": str(folder)}
    return GatewaySettings(**{**plain, **more})  # type: ignore[arg-type]


async def test_a_stream_is_held_with_comments_and_then_served(tmp_path: Path) -> None:
    async with (
        raw_engine(tmp_path) as engine,
        plane_world(tmp_path, settings=impatient(tmp_path), engine=PlainEngine(usage_on_request=True)) as world,
    ):
        world.heat = Heat.WARM
        world.status = {"to_hot_s": 40.0, "fraction": 0.25, "text": 'Loading "weights"\n', "clusters": ("here",)}
        world.publish()
        engine.script = says(STREAM_HEAD + chunked(TOKEN, USAGE, DONE))
        async with world.client() as client:
            await client.send(request(STREAM))
            begun = await client.read_until(b"\n\n\r\n") + await client.read_until(b"\n\n\r\n")
            world.publish(make_route("i-0", engine.address))
            client.unread(begun)
            got = await client.answer()
            await client.send(request(CHAT))
            assert (await client.answer()).status == 200
    assert (got.status, got.whole) == (200, True)
    assert got.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert got.headers["x-request-id"] == world.records[0].request
    comments, events = got.body[: got.body.index(b"data:")], got.body[got.body.index(b"data:") :]
    assert events == TOKEN + DONE
    lines = [line for line in comments.decode().split("\n") if line]
    assert len(lines) >= 2
    assert lines[0].startswith(
        ': first state=warm reason=LOADING position=1 expected="40 s" progress=25% text="Loading'
    )
    assert all(line.startswith(": first ") and line.count('"') == 4 for line in lines if "warm" in line)
    record = world.records[0]
    assert record.waited_s > 0
    assert record.usage.input_tokens == 5


async def test_a_stream_is_told_where_it_has_been_sent_while_the_engine_thinks(tmp_path: Path) -> None:
    think = asyncio.Event()

    async def script(visit: Visit) -> None:
        await think.wait()
        await visit.send(STREAM_HEAD + chunked(TOKEN, DONE))

    async with raw_engine(tmp_path) as engine, plane_world(tmp_path, settings=impatient(tmp_path)) as world:
        world.serve(engine)
        engine.script = script
        async with world.client() as client:
            await client.send(request(STREAM))
            begun = await client.read_until(b"\n\n\r\n")
            think.set()
            client.unread(begun)
            got = await client.answer()
    assert got.body.startswith(b": first state=sent cluster=here instance=i-0\n\n")
    assert got.body.endswith(TOKEN + DONE)


async def test_a_stream_that_is_answered_in_time_has_no_comments(tmp_path: Path) -> None:
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.publish()
        engine.script = says(STREAM_HEAD + chunked(TOKEN, DONE))
        async with world.client() as client:
            await client.send(request(STREAM))
            await world.until(lambda: world.dispatcher.waiting)
            world.serve(engine)
            got = await client.answer()
    assert got.body == TOKEN + DONE
    assert got.headers["x-first-instance"] == "i-0"


@pytest.mark.parametrize(
    ("path", "start"),
    [
        ("/v1/chat/completions", b"data: {"),
        ("/v1/responses", b"event: error\ndata: {"),
        ("/v1/messages", b"event: error\ndata: {"),
    ],
)
async def test_a_held_stream_whose_model_does_not_start_ends_in_its_routes_error_event(
    tmp_path: Path, path: str, start: bytes
) -> None:
    async with plane_world(tmp_path, settings=impatient(tmp_path)) as world:
        world.publish()
        async with world.client() as client:
            await client.send(request(STREAM, path=path))
            begun = await client.read_until(b"\n\n\r\n")
            world.status = {"held": True, "detail": "out of memory"}
            world.publish()
            client.unread(begun)
            got = await client.answer()
    event = got.body.strip().split(b"\n\n")[-1]
    assert event.startswith(start)
    error = json.loads(event.split(b"data: ", 1)[1])["error"]
    assert error["code"] == "model_unavailable"
    assert "out of memory" in error["message"]
    assert got.whole
    assert [(record.outcome, record.error_code) for record in world.records] == [
        (Outcome.REJECTED, "model_unavailable")
    ]


async def test_a_held_stream_to_which_the_engine_answers_an_error_ends_in_that_error(tmp_path: Path) -> None:
    body = b'{"error":{"message":"too long","type":"BadRequestError","param":"input_text","code":400}}'
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path, settings=impatient(tmp_path)) as world:
        world.publish()
        for raw in (answer(body, status="400 Bad Request"), answer(b"{}")):
            engine.script = says(raw)
            async with world.client() as client:
                await client.send(request(STREAM))
                begun = await client.read_until(b"\n\n\r\n")
                world.serve(engine)
                client.unread(begun)
                got = await client.answer()
                error = json.loads(got.body.strip().split(b"data: ")[-1])["error"]
                assert error["message"] in {"too long", "The engine answered with status 200."}
                assert got.whole
            world.publish()
    assert [record.outcome for record in world.records] == [Outcome.ENGINE_ERROR] * 2


async def test_a_plain_request_is_held_in_silence(tmp_path: Path) -> None:
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path, settings=impatient(tmp_path)) as world:
        world.publish()
        async with world.client() as client:
            await client.send(request(CHAT))
            await world.until(lambda: world.dispatcher.waiting)
            reading = asyncio.create_task(client.answer())
            await asyncio.sleep(0.2)
            assert not reading.done()
            world.serve(engine)
            got = await reading
    assert (got.status, got.interim) == (200, [])


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["plain", "stream"])
async def test_a_client_that_will_not_wait_is_told_when_to_come_back(tmp_path: Path, body: dict) -> None:
    async with plane_world(tmp_path) as world:
        world.heat = Heat.QUEUED
        world.status = {"to_hot_s": 90.0}
        world.publish()
        async with world.client() as client:
            await client.send(request(body, headers={"x-first-max-wait": "0"}))
            got = await client.answer()
            assert (got.status, got.code) == (503, "model_starting")
            assert 85 <= int(got.headers["retry-after"]) <= 90
            assert "first wait" in got.json()["error"]["message"]
            await client.send(request(body, headers={"x-first-max-wait": "0.05"}))
            assert (await client.answer()).code == "model_starting"
            await client.send(request(body, path="/v1/messages", headers={"x-first-max-wait": "0"}))
            got = await client.answer()
            assert got.json()["error"]["type"] == "overloaded_error"


async def test_a_plain_request_is_not_held_for_longer_than_its_client_would_wait(tmp_path: Path) -> None:
    async with plane_world(tmp_path) as world:
        world.heat = Heat.QUEUED
        world.status = {"to_hot_s": 3600.0}
        world.publish()
        async with world.client() as client:
            await client.send(request(CHAT))
            assert (await client.answer()).code == "model_starting"


async def test_a_full_queue_is_a_429_with_the_time_to_come_back(tmp_path: Path) -> None:
    settings = GatewaySettings(uploads=str(tmp_path), queue=1, queue_per_principal=1)
    async with plane_world(tmp_path, settings=settings) as world:
        world.publish()
        async with world.client() as first, world.client() as second:
            await first.send(request(CHAT))
            await world.until(lambda: world.dispatcher.waiting)
            await second.send(request(CHAT))
            got = await second.answer()
    assert (got.status, got.code) == (429, "queue_full")
    assert int(got.headers["retry-after"]) >= 1


async def test_waiting_ends_when_the_gateway_stops(tmp_path: Path) -> None:
    async with plane_world(tmp_path) as world:
        world.publish()
        async with world.client() as client:
            await client.send(request(CHAT))
            await world.until(lambda: world.dispatcher.waiting)
            world.dispatcher.close(Unavailable("stopping", retry_after_s=1))
            assert (await client.answer()).status == 503
