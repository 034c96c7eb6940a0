# SPDX-License-Identifier: Apache-2.0
"""The client's side of HTTP/1.1: keep-alive, pipelining, bodies, expectations, limits, time-outs, browsers."""

import asyncio
import json
from pathlib import Path

import pytest

from firstkit.core.settings import GatewaySettings
from firstkit.testing.planes import MODEL, plane_world
from firstkit.testing.raw_client import raw_client, request
from firstkit.testing.raw_engine import Visit, answer, raw_engine, says

pytestmark = pytest.mark.anyio

CHAT = {"model": MODEL, "messages": []}
CHAT_BYTES = json.dumps(CHAT).encode()
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"


def settings(folder: Path, **more: object) -> GatewaySettings:
    return GatewaySettings(uploads=str(folder), **more)  # type: ignore[arg-type]


def head(*lines: str) -> bytes:
    return "\r\n".join(
        ["POST /v1/chat/completions HTTP/1.1", "authorization: Bearer secret-key", *lines, "", ""]
    ).encode()


async def test_pipelined_requests_are_answered_one_by_one_in_order(tmp_path: Path) -> None:
    async def echo(visit: Visit) -> None:
        await visit.send(answer(visit.body))

    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        engine.script = echo
        async with world.client() as client:
            bodies = [json.dumps({**CHAT, "n": 1, "x": "y" * number}).encode() for number in range(30)]
            burst = b"".join(request(body) + HEALTH for body in bodies)
            sending = asyncio.create_task(client.send(burst))
            for body in bodies:
                assert (await client.answer()).body == body
                assert (await client.answer()).json() == {"status": "ok"}
            await sending
    assert len(world.records) == 30


@pytest.mark.parametrize("step", [1, 3, 1000])
async def test_a_request_may_arrive_in_any_pieces(tmp_path: Path, step: int) -> None:
    chunks = (
        b"3;x=1\r\n"
        + CHAT_BYTES[:3]
        + b"\r\n"
        + b"%X\r\n" % (len(CHAT_BYTES) - 3)
        + CHAT_BYTES[3:]
        + b"\r\n0\r\nt: 1\r\n\r\n"
    )
    raw = b"\r\n" + head("Host: gateway", "Transfer-Encoding: Chunked") + chunks
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        async with world.client() as client:
            for _ in range(2):
                for at in range(0, len(raw), step):
                    await client.send(raw[at : at + step])
                    await asyncio.sleep(0)
                assert (await client.answer()).status == 200
        visit = await engine.visit()
    assert visit.body == CHAT_BYTES
    assert visit.headers["content-length"] == str(len(CHAT_BYTES))


async def test_a_client_that_expects_100_continue_is_told_to_go_on_and_no_other(tmp_path: Path) -> None:
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        length = f"content-length: {len(CHAT_BYTES)}"
        async with world.client() as client:
            await client.send(head("host: x", length, "expect: 100-continue"))
            assert await client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(CHAT_BYTES)
            assert (await client.answer()).status == 200
            # a body that is there already needs no word
            await client.send(head("host: x", length, "expect: 100-continue") + CHAT_BYTES)
            got = await client.answer()
            assert (got.status, got.interim) == (200, [])
        async with world.client() as client:
            refused = head("host: x", length, "expect: 100-continue").replace(b"secret-key", b"wrong-key")
            await client.send(refused)
            got = await client.answer()
            assert (got.status, got.interim, got.headers["connection"]) == (401, [], "close")
        async with world.client() as client:
            await client.send(head("host: x", length, "expect: something"))
            assert (await client.answer()).status == 417


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (head("host: x", "content-length: 2001"), 413),
        (head("host: x", "transfer-encoding: chunked") + b"7d1\r\n" + b"x" * 2001, 413),
        (head("host: x", "x: " + "y" * 3000), 431),
        (head("host: x", *(f"x{number}: 1" for number in range(200))), 431),
        (b"GET /" + b"y" * 3000, 431),
    ],
    ids=["length", "chunked", "head", "headers", "line"],
)
async def test_what_is_too_long_is_refused_before_it_has_been_read(tmp_path: Path, raw: bytes, status: int) -> None:
    async with (
        plane_world(tmp_path, settings=settings(tmp_path, head_limit=2900, body_limit=2000)) as world,
        world.client() as client,
    ):
        await client.send(raw)
        got = await client.answer()
        assert (got.status, got.whole, got.headers["connection"]) == (status, True, "close")
        assert await client.closed()


async def test_a_route_may_have_a_limit_of_its_own(tmp_path: Path) -> None:
    own = settings(tmp_path, body_limit=10, body_limits={"/v1/chat/completions": 1000})
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path, settings=own) as world:
        world.serve(engine)
        async with world.client() as client:
            await client.send(request(CHAT))
            assert (await client.answer()).status == 200
            await client.send(request(CHAT, path="/v1/completions"))
            assert (await client.answer()).code == "request_too_large"


async def test_a_client_sees_the_refusal_of_a_body_it_is_still_sending(tmp_path: Path) -> None:
    async with (
        plane_world(tmp_path, settings=settings(tmp_path, body_limit=2000)) as world,
        world.client() as client,
    ):
        await client.send(head("host: x", "content-length: 3000000"))
        await client.send(b"x" * 1_000_000)
        got = await client.answer()
        assert (got.status, got.whole) == (413, True)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST /v1/chat", 408),
        (head("host: x", "content-length: 100") + b"{", 408),
        (head("host: x", "transfer-encoding: chunked") + b"5\r\n{", 408),
        (b"", None),
    ],
    ids=["head", "body", "chunk", "nothing"],
)
async def test_a_slow_sender_is_timed_out(tmp_path: Path, sent: bytes, status: int | None) -> None:
    slow = settings(tmp_path, head_timeout_s=0.1, body_timeout_s=0.1)
    async with plane_world(tmp_path, settings=slow) as world, world.client() as client:
        if sent:
            await client.send(sent)
        if status is not None:
            assert (await client.answer()).status == status
        assert await client.closed()


async def test_a_sender_that_trickles_does_not_hold_on_for_ever(tmp_path: Path) -> None:
    slow = settings(tmp_path, body_timeout_s=0.3)
    async with plane_world(tmp_path, settings=slow) as world, world.client() as client:
        await client.send(head("host: x", "content-length: 100000"))
        answering = asyncio.create_task(client.answer())
        while not answering.done():
            await client.send(b"x")
            await asyncio.sleep(0.01)
        assert (await answering).status == 408


async def test_an_idle_connection_is_closed_without_a_word(tmp_path: Path) -> None:
    async with (
        plane_world(tmp_path, settings=settings(tmp_path, keep_alive_s=0.05)) as world,
        world.client() as client,
    ):
        await client.send(HEALTH)
        assert (await client.answer()).status == 200
        world.plane.wheel.set(next(iter(world.plane.connections)), 0.0)  # the wheel looks every ten seconds by itself
        assert await client.closed()


async def test_http_1_0_is_answered_and_closed(tmp_path: Path) -> None:
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        engine.script = says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n")
        async with world.client() as client:
            await client.send(request(CHAT).replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"host: gateway\r\n", b""))
            got = await client.read_all()
    assert got.endswith(b"\r\nconnection: close\r\n\r\nab")
    assert b"transfer-encoding" not in got


async def test_a_client_that_says_close_is_obeyed(tmp_path: Path) -> None:
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        async with world.client() as client:
            await client.send(request(CHAT, headers={"connection": "close"}) + b"bytes after the last request")
            got = await client.answer()
            assert (got.status, got.headers["connection"]) == (200, "close")
            assert await client.closed()


async def test_a_refused_request_with_a_small_body_leaves_the_connection_usable(tmp_path: Path) -> None:
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        async with world.client() as client:
            for key, status in ((None, 401), ("wrong-key", 401), ("secret-key", 200)):
                await client.send(request(CHAT, key=key))
                assert (await client.answer()).status == status


async def test_the_gateways_own_routes_answer_get_and_head(tmp_path: Path) -> None:
    async with plane_world(tmp_path) as world, world.client() as client:
        await client.send(HEALTH)
        assert (await client.answer()).json() == {"status": "ok"}
        await client.send(HEALTH.replace(b"GET", b"HEAD"))
        got = await client.answer(method="HEAD")
        assert (got.status, got.body, got.headers["content-length"]) == (200, b"", "15")
        await client.send(b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await client.answer()).status == 204
        await client.send(b"GET http://x/healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await client.answer()).status == 200


async def test_metrics_are_on_the_admin_listener_alone(tmp_path: Path) -> None:
    get = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        async with world.client() as client:
            await client.send(request(CHAT))
            assert (await client.answer()).status == 200
            await client.send(get)
            assert (await client.answer()).status == 404
        async with raw_client(world.admin) as client:
            await client.send(get)
            text = (await client.answer()).body.decode()
    assert 'first_requests_total{model="org/demo",outcome="complete",path="/v1/chat/completions"} 1.0' in text
    assert 'first_tokens_total{kind="output",model="org/demo"} 3.0' in text


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH"])
async def test_an_inference_route_takes_post_only(tmp_path: Path, method: str) -> None:
    async with plane_world(tmp_path) as world, world.client() as client:
        await client.send(request(b"", method=method))
        got = await client.answer(method=method)
    assert (got.status, got.headers["allow"]) == (405, "POST, OPTIONS")


async def test_a_browser_from_an_allowed_origin_may_ask_and_read(tmp_path: Path) -> None:
    page = {"origin": "https://chat.example", "access-control-request-method": "POST"}
    wanted = {**page, "access-control-request-headers": "authorization, content-type"}
    own = settings(tmp_path, cors_origins=("https://chat.example",))
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path, settings=own) as world:
        world.serve(engine)
        engine.script = says(answer(b"{}", extra=b"access-control-allow-origin: *\r\n"))
        async with world.client() as client:
            await client.send(request(b"", method="OPTIONS", key=None, headers=wanted))
            preflight = await client.answer()
            await client.send(request(CHAT, headers={"origin": "https://chat.example"}))
            read = await client.answer()
            await client.send(request(CHAT, key=None, headers={"origin": "https://chat.example"}))
            refused = await client.answer()
            await client.send(request(b"", method="OPTIONS", headers={**wanted, "origin": "https://evil.example"}))
            evil = await client.answer()
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-origin"] == "https://chat.example"
    assert preflight.headers["access-control-allow-headers"] == "authorization, content-type"
    assert "POST" in preflight.headers["access-control-allow-methods"]
    for got in (read, refused):
        assert got.headers["access-control-allow-origin"] == "https://chat.example"
        assert "x-request-id" in got.headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in evil.headers


async def test_a_key_that_must_be_looked_up_is_waited_for_without_reading_on(tmp_path: Path) -> None:
    from firstkit.testing.planes import ANN, Keys

    keys = Keys({}, slow={"slow-key": ANN})
    keys.let_go.clear()
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path, keys=keys) as world:
        world.serve(engine)
        async with world.client() as client:
            body = json.dumps({**CHAT, "x": "y" * 2_000_000}).encode()
            sending = asyncio.create_task(client.send(request(body, key="slow-key")))
            await world.until(lambda: keys.asked)
            assert world.plane.bodies.memory == 0
            keys.let_go.set()
            assert (await client.answer()).status == 200
            await sending
        assert (await engine.visit()).body == body
        async with world.client() as client:
            await client.send(request(CHAT, key="nobody's"))
            assert (await client.answer()).code == "invalid_api_key"


async def test_too_many_connections_are_turned_away_with_a_word(tmp_path: Path) -> None:
    async with (
        plane_world(tmp_path, settings=settings(tmp_path, connections=1)) as world,
        world.client() as first,
        world.client() as second,
    ):
        assert (await second.answer()).code == "too_many_connections"
        await first.send(HEALTH)
        assert (await first.answer()).status == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"[]", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"model":"org/demo"', "invalid_json"),
        (b'{"messages":[]}', "missing_model"),
        (b'{"model":""}', "missing_model"),
        (b'{"model":7}', "invalid_type"),
        (b'{"model":"org/demo","stream":"true"}', "invalid_type"),
        (b'{"model":"org/demo","n":"64"}', "invalid_type"),
        (b'{"model":"org/demo","n":64}', "too_many_choices"),
        (b'{"model":"org/demo","best_of":64}', "too_many_choices"),
        (b'{"model":"org/demo","model":"x"}', "ambiguous_field"),
        (b'{"model":"org/demo","x":{},"mod\\u0065l":"x"}', "ambiguous_field"),
        (b'{"model":"org/demo","stream":false,"stream":true}', "ambiguous_field"),
        (b'{"model":"org/demo","priority":-5}', "reserved_field"),
        (b'\xef\xbb\xbf{"model":"org/demo"}', "invalid_encoding"),
        ('{"model":"org/demo"}'.encode("utf-16"), "invalid_encoding"),
        ('{"model":"org/demo"}'.encode("utf-16-le"), "invalid_encoding"),
        (b'{"model":"org/demo","x":"\xff"}', "invalid_encoding"),
        (b'{"model":"org/demo","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json"),
    ],
)
async def test_a_body_that_could_be_read_in_two_ways_is_refused(tmp_path: Path, body: bytes, code: str) -> None:
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        async with world.client() as client:
            await client.send(request(body))
            got = await client.answer()
            assert (got.status, got.code) == (400, code)
            await client.send(request(CHAT))
            assert (await client.answer()).status == 200
        assert len(engine.visits) == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": "Basic abc"}, 401),
        ({"content-encoding": "gzip"}, 415),
        ({"x-first-max-wait": "soon"}, 400),
        ({"x-first-max-wait": "-1"}, 400),
        ({"x-first-max-wait": "nan"}, 400),
    ],
)
async def test_a_header_that_cannot_be_meant_is_refused(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    async with plane_world(tmp_path) as world, world.client() as client:
        key = None if "authorization" in headers else "secret-key"
        await client.send(request(CHAT, key=key, headers=headers))
        assert (await client.answer()).status == status
