# SPDX-License-Identifier: Apache-2.0
"""A request on its way to an engine and an answer on its way back: bytes unchanged, framing right, nothing extra."""

import asyncio
import json
from pathlib import Path

import pytest

from firstkit.core.request import Outcome, UsageSource
from firstkit.testing.planes import MODEL, PlainEngine, plane_world
from firstkit.testing.raw_client import request
from firstkit.testing.raw_engine import STREAM_HEAD, Visit, answer, chunked, raw_engine, says

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("every_link")]

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
BODY = b'{"id":"x","choices":[],"usage":{"prompt_tokens":7,"total_tokens":10,"completion_tokens":3}}'


def event(content: str, finish: str | None = None) -> bytes:
    delta = {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}]}
    return b"data: " + json.dumps(delta).encode() + b"\n\n"


USAGE_EVENT = b'data: {"choices":[],"usage":{"prompt_tokens":5,"total_tokens":7,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
EVENTS = (event("a"), event("b", "stop"), DONE)


async def test_an_answer_arrives_unchanged_with_the_gateways_own_headers(tmp_path: Path) -> None:
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        extra = b"x-engine: kept\r\nserver: uvicorn\r\nx-request-id: engine's\r\nconnection: x-hop\r\nx-hop: 1\r\n"
        engine.script = says(answer(BODY, extra=extra))
        async with world.client() as client:
            await client.send(request(CHAT, headers={"x-request-id": "mine"}))
            got = await client.answer()
    assert (got.status, got.body, got.whole) == (200, BODY, True)
    assert got.headers["x-first-cluster"] == "here"
    assert got.headers["x-first-instance"] == "i-0"
    assert got.headers["x-engine"] == "kept"
    assert {"server", "x-hop", "connection"}.isdisjoint(got.headers)
    [record] = world.records
    assert record.request == got.headers["x-request-id"]
    assert record.client_request_id == "mine"
    assert (record.outcome, record.status, record.ended, record.attempt) == (Outcome.COMPLETE, 200, True, 1)
    assert (record.usage.source, record.usage.input_tokens, record.usage.output_tokens) == (UsageSource.ENGINE, 7, 3)
    assert (record.subject, record.project, record.instance) == ("key:ann", "p1", "i-0")
    assert (record.request_bytes, record.response_bytes) == (len(json.dumps(CHAT)), len(BODY))


async def test_an_external_engine_is_on_no_cluster_and_its_answers_name_none(tmp_path: Path) -> None:
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine, cluster="")
        async with world.client() as client:
            await client.send(request(CHAT))
            got = await client.answer()
    assert "x-first-cluster" not in got.headers
    assert got.headers["x-first-instance"] == "i-0"


async def test_the_engine_gets_the_body_as_it_was_and_no_credential(tmp_path: Path) -> None:
    body = b' {"model" : "org/demo" , "messages":[ ],"x":1.0e3, "\\u00e9":"\xc3\xa9"} '
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        sent = {
            "x-api-key": "secret-key",
            "cookie": "session=secret-key",
            "anthropic-version": "2023-06-01",
            "content-type": "application/json",
            "proxy-authorization": "Basic c2VjcmV0",
            "te": "trailers",
            "connection": "x-private",
            "x-private": "secret-key",
            "x-first-principal": "forged",
            "traceparent": "00-1-2-03",
        }
        async with world.client() as client:
            await client.send(request(body, headers=sent))
            got = await client.answer()
        visit = await engine.visit()
    assert visit.body == body
    assert b"secret" not in visit.head
    assert b"forged" not in visit.head
    assert set(visit.headers) == {
        "host", "content-type", "anthropic-version", "traceparent", "x-request-id", "content-length"
    }  # fmt: skip
    assert visit.headers["x-request-id"] == got.headers["x-request-id"]


@pytest.mark.parametrize("every_link", ["local"], indirect=True)  # an external engine has no door
async def test_the_engines_own_credential_and_path_prefix_are_sent(tmp_path: Path) -> None:
    async with raw_engine() as engine, plane_world(tmp_path) as world:
        from dataclasses import replace

        engine.address = replace(engine.address, base_path="/proxy/")
        world.serve(engine, authorization="Bearer engine-key")
        async with world.client() as client:
            await client.send(request(CHAT, path="/v1/chat/completions?beta=true"))
            assert (await client.answer()).status == 200
        visit = await engine.visit()
    assert visit.target == "/proxy/v1/chat/completions?beta=true"
    assert visit.headers["authorization"] == "Bearer engine-key"


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (answer(BODY), BODY),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunked(BODY), BODY),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunked(BODY[:9], BODY[9:], end=False)
            + b"0;last=1\r\nx-trailer: 1\r\ncontent-length: 5\r\n\r\n",
            BODY,
        ),
        (b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + answer(BODY), BODY),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b""), b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (answer(BODY, extra=b"connection: close\r\n"), BODY),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 4\r\n\r\nabcd", b"abcd"),
    ],
    ids=["length", "chunked", "trailers", "interim", "empty", "204", "close", "http10"],
)  # fmt: skip
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
async def test_every_framing_of_an_answer_is_read_in_any_pieces(
    tmp_path: Path, raw: bytes, body: bytes, step: int
) -> None:
    async def script(visit: Visit) -> None:
        for at in range(0, len(raw), step):
            await visit.send(raw[at : at + step])
            await asyncio.sleep(0)

    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        engine.script = script
        async with world.client() as client:
            for _ in range(2):
                await client.send(request(CHAT))
                got = await client.answer()
                assert (got.body, got.whole, got.interim) == (body, True, [])


async def test_an_answer_that_ends_with_its_connection_is_whole(tmp_path: Path) -> None:
    async def script(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nsome ")
        await visit.send(b"text")
        await visit.close()

    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        engine.script = script
        async with world.client() as client:
            for _ in range(2):
                await client.send(request(CHAT))
                got = await client.answer()
                assert (got.body, got.whole) == (b"some text", True)
    assert [record.outcome for record in world.records] == [Outcome.COMPLETE] * 2


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
async def test_a_stream_arrives_event_by_event_and_is_metered(tmp_path: Path, newline: bytes) -> None:
    pieces = [piece.replace(b"\n", newline) for piece in (event("a"), event("b", "stop"), USAGE_EVENT, DONE)]
    go_on = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.send(STREAM_HEAD + chunked(pieces[0], end=False))
        await go_on.wait()
        for piece in pieces[1:]:
            await visit.send(chunked(piece, end=False))
        await visit.send(b"0\r\n\r\n")

    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        engine.script = script
        async with world.client() as client:
            await client.send(request({**CHAT, "stream": True, "stream_options": {"include_usage": True}}))
            first = await client.read_until(pieces[0])
            go_on.set()
            client.unread(first)
            got = await client.answer()
            await client.send(request(CHAT))  # the connection goes on
            assert (await client.answer()).whole
    assert (got.status, got.body, got.whole) == (200, b"".join(pieces), True)
    record = world.records[0]
    assert (record.usage.input_tokens, record.usage.output_tokens, record.chunks) == (5, 2, 4)
    assert record.first_token_s is not None
    assert record.gap_max_s is not None


async def test_usage_is_asked_for_and_its_chunk_is_kept_back(tmp_path: Path) -> None:
    body = b'  {"stream":true,"model":"demo-alias","messages":[]}'
    pieces = (event("a"), event('"usage":{}', "stop"), USAGE_EVENT, DONE)
    async with (
        raw_engine(tmp_path) as engine,
        plane_world(tmp_path, engine=PlainEngine(usage_on_request=True)) as world,
    ):
        world.serve(engine)
        engine.script = says(STREAM_HEAD + chunked(*pieces))
        async with world.client() as client:
            await client.send(request(body))
            got = await client.answer()
            await client.send(request({**CHAT, "stream": True, "stream_options": {}}))
            given = await client.answer()
        visit, second = await engine.visit(), await engine.visit(1)
    spliced = b'  {"stream_options":{"include_usage":true},"stream":true,"model":"org/demo","messages":[]}'
    assert visit.body == spliced
    assert got.body == b"".join((*pieces[:2], DONE))
    assert given.body == b"".join(pieces)
    assert b'"stream_options": {}' in second.body
    assert [record.usage.input_tokens for record in world.records] == [5, 5]
    assert world.records[0].asked == "demo-alias"
    assert world.records[0].model == MODEL


@pytest.mark.parametrize("size", [10, 300_000])
async def test_an_alias_is_replaced_in_place(tmp_path: Path, size: int) -> None:
    body = b'{"a":"\\"model\\":\\"demo-alias\\"","tool":{"model":"demo-alias"},"model" :\n"demo-alias","b":"%b"}' % (
        b"x" * size
    )
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        async with world.client() as client:
            await client.send(request(body))
            assert (await client.answer()).status == 200
        visit = await engine.visit()
    assert visit.body == body.replace(b'\n"demo-alias"', b'\n"org/demo"')
    assert json.loads(visit.body)["tool"] == {"model": "demo-alias"}


async def test_the_model_of_an_audio_form_is_read_and_replaced(tmp_path: Path) -> None:
    form = (
        b'--xx\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
        b'\x00\xff--x\r\nname="model"\r\n'
        b'\r\n--xx\r\ncontent-disposition: form-data; name="model"\r\n\r\ndemo-alias\r\n--xx--\r\n'
    )
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        async with world.client() as client:
            headers = {"content-type": 'multipart/form-data; boundary="xx"'}
            await client.send(request(form, path="/v1/audio/transcriptions", headers=headers))
            assert (await client.answer()).status == 200
        visit = await engine.visit()
    assert visit.body == form.replace(b"demo-alias", b"org/demo")
    assert visit.headers["content-type"] == headers["content-type"]


async def test_a_request_pinned_to_a_cluster_goes_there_or_nowhere(tmp_path: Path) -> None:
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        async with world.client() as client:
            await client.send(request(CHAT, path="/clusters/here/v1/chat/completions"))
            assert (await client.answer()).headers["x-first-cluster"] == "here"
            await client.send(request(CHAT, path="/clusters/there/v1/chat/completions"))
            there = await client.answer()
            await client.send(request(CHAT, path="/clusters/nowhere/v1/chat/completions"))
            nowhere = await client.answer()
        assert (await engine.visit()).target == "/v1/chat/completions"
    assert (there.status, there.code) == (404, "model_not_found")
    assert (nowhere.status, nowhere.code) == (404, "cluster_not_found")


async def test_an_engines_error_passes_as_it_is(tmp_path: Path) -> None:
    body = b'{"error":{"message":"too long","type":"BadRequestError","param":"input_text","code":400}}'
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        engine.script = says(answer(body, status="400 Bad Request"))
        async with world.client() as client:
            await client.send(request(CHAT))
            got = await client.answer()
            long = b"x" * 9000
            engine.script = says(answer(long, status="422 Unprocessable Entity"))
            await client.send(request(CHAT))
            second = await client.answer()
    assert (got.status, got.body) == (400, body)
    assert (second.status, second.body) == (422, long)
    assert [record.outcome for record in world.records] == [Outcome.ENGINE_ERROR] * 2


async def test_a_stream_in_which_the_engine_reports_an_error_passes_and_is_recorded_as_failed(tmp_path: Path) -> None:
    failed = b'data: {"error":{"message":"dead","type":"InternalServerError","code":500}}\n\n'
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        engine.script = says(STREAM_HEAD + chunked(event("a"), failed, DONE))
        async with world.client() as client:
            await client.send(request({**CHAT, "stream": True}))
            got = await client.answer()
    assert got.body == event("a") + failed + DONE
    assert world.records[0].outcome is Outcome.ENGINE_ERROR


async def test_connections_to_an_engine_are_used_again(tmp_path: Path, every_link: str) -> None:
    watching = 0 if every_link == "reverse" else 1
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        await world.until(lambda: engine.connections == watching)
        async with world.client() as client:
            for _ in range(5):
                await client.send(request(CHAT))
                assert (await client.answer()).status == 200
        assert engine.connections == watching + 1
        engine.script = says(answer(BODY) + b"HTTP/1.1 200 OK\r\n")  # more than was asked for: out of step
        async with world.client() as client:
            for _ in range(2):
                await client.send(request(CHAT))
                assert (await client.answer()).body == BODY
        assert engine.connections == watching + 2


async def test_an_engine_that_answers_before_it_has_read_everything_is_heard(tmp_path: Path) -> None:
    import contextlib

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer(b'{"error":{}}', status="413 Content Too Large", extra=b"connection: close\r\n"))
            await writer.drain()
            await asyncio.sleep(0.05)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    from firstkit.core.topology import Address, AddressKind
    from firstkit.testing.planes import make_route

    path = str(tmp_path / "early.sock")
    server = await asyncio.start_unix_server(early, path)
    async with plane_world(tmp_path) as world:
        world.publish(make_route("i-0", Address(kind=AddressKind.UNIX, path=path)))
        async with world.client() as client:
            await client.send(request({**CHAT, "x": "y" * 3_000_000}))
            got = await client.answer()
    server.close()
    await server.wait_closed()
    assert got.status == 413


async def test_what_an_engine_says_that_is_no_http_is_a_502(tmp_path: Path) -> None:
    bad = [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: +3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\n" * 50,
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000,
    ]
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        for raw in bad:
            engine.script = says(raw)
            async with world.client() as client:
                await client.send(request(CHAT))
                got = await client.answer()
                assert (got.status, got.whole) in {(502, True), (503, True)}, raw[:80]
            world.dispatcher.alive("i-0")
