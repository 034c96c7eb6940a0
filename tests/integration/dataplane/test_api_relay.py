# SPDX-License-Identifier: Apache-2.0
"""What is no inference route goes to the api: streamed both ways, with the caller, without the credential."""

import asyncio
import json
from pathlib import Path

import pytest

from firstkit.core.settings import GatewaySettings
from firstkit.testing.planes import plane_world
from firstkit.testing.raw_client import raw_client, request
from firstkit.testing.raw_engine import Visit, answer, chunked, raw_engine, says
from firstkit.wire.caller import decode_principal

pytestmark = pytest.mark.anyio

BODY = b'{"object":"list","data":[]}'


async def test_a_request_is_relayed_with_the_caller_and_without_the_credential(tmp_path: Path) -> None:
    async with raw_engine(tmp_path) as api, plane_world(tmp_path, api=api.address) as world:
        api.script = says(answer(BODY, extra=b"set-cookie: a=b\r\nserver: uvicorn\r\nx-request-id: other\r\n"))
        forged = {
            "x-first-principal": "forged",
            "x-first-admin": "1",
            "x-first-request-id": "forged",
            "x-first-desired-version": "7",
            "x-first-max-wait": "5",
            "x-other": "kept",
            "connection": "keep-alive, x-hop",
            "x-hop": "1",
        }
        async with world.client() as client:
            await client.send(request(b"", path="/v1/models?limit=3", method="GET", headers=forged))
            got = await client.answer()
            await client.send(request(b"", path="/api/x", method="GET", key=None))
            assert (await client.answer()).status == 200
        visit, anonymous = await api.visit(), await api.visit(1)
        assert api.connections == 1  # used again
    assert (got.status, got.body) == (200, BODY)
    assert got.headers["set-cookie"] == "a=b"
    assert "server" not in got.headers
    assert visit.target == "/v1/models?limit=3"
    headers = visit.headers
    assert decode_principal(headers["x-first-principal"]).subject == "key:ann"
    assert headers["x-first-request-id"] == got.headers["x-request-id"]
    assert headers["x-first-desired-version"] == "7"
    assert headers["x-other"] == "kept"
    assert {"authorization", "x-first-admin", "x-hop", "connection"}.isdisjoint(headers)
    assert b"secret" not in visit.head
    assert "x-first-principal" not in anonymous.headers


async def test_a_wrong_key_is_refused_by_the_gateway_except_below_control(tmp_path: Path) -> None:
    async with raw_engine(tmp_path) as api, plane_world(tmp_path, api=api.address) as world:
        async with world.client() as client:
            await client.send(request(b"", path="/v1/models", method="GET", key="wrong-key"))
            assert (await client.answer()).status == 401
            await client.send(request(b"{}", path="/control/jobs/j-1/status", method="PUT", key="job-token"))
            assert (await client.answer()).status == 200
        [visit] = api.visits
    assert visit.headers["authorization"] == "Bearer job-token"
    assert "x-first-principal" not in visit.headers


async def test_the_admin_listener_says_so_to_the_api(tmp_path: Path) -> None:
    async with raw_engine(tmp_path) as api, plane_world(tmp_path, api=api.address) as world:
        async with raw_client(world.admin) as client:
            await client.send(request(b"", path="/api/deployments", method="GET", key=None))
            assert (await client.answer()).status == 200
        assert (await api.visit()).headers["x-first-admin"] == "1"


async def test_bodies_are_streamed_both_ways(tmp_path: Path) -> None:
    first, second = asyncio.Event(), asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        assert await reader.readexactly(8) == b"3\r\nabc\r\n"
        first.set()
        writer.write(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: text/event-stream\r\n\r\n1\r\nx\r\n"
        )
        await second.wait()
        assert await reader.readexactly(13) == b"3\r\ndef\r\n0\r\n\r\n"
        writer.write(b"1\r\ny\r\n0\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    from firstkit.core.topology import Address, AddressKind

    path = str(tmp_path / "api.sock")
    server = await asyncio.start_unix_server(talk, path)
    async with (
        plane_world(tmp_path, api=Address(kind=AddressKind.UNIX, path=path)) as world,
        world.client() as client,
    ):
        head = request(b"", path="/v1/files", method="POST").replace(
            b"content-length: 0", b"transfer-encoding: chunked"
        )
        await client.send(head + chunked(b"abc", end=False))
        await first.wait()
        begun = await client.read_until(b"1\r\nx\r\n")
        await client.send(chunked(b"def"))
        second.set()
        client.unread(begun)
        got = await client.answer()
    server.close()
    await server.wait_closed()
    assert (got.status, got.body, got.whole) == (200, b"xy", True)


async def test_a_large_upload_waits_for_the_api(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    received = bytearray()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await go_on.wait()
        while len(received) < 20_000_000:
            received.extend(await reader.read(1 << 20))
        writer.write(answer(BODY))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    from firstkit.core.topology import Address, AddressKind

    path = str(tmp_path / "api.sock")
    server = await asyncio.start_unix_server(slow, path)
    async with (
        plane_world(tmp_path, api=Address(kind=AddressKind.UNIX, path=path)) as world,
        world.client() as client,
    ):
        sending = asyncio.create_task(client.send(request(b"z" * 20_000_000, path="/v1/files")))
        await world.until(lambda: any(conn._pull_paused for conn in world.plane.connections))
        assert world.plane.bodies.memory == 0
        go_on.set()
        assert (await client.answer()).body == BODY
        await sending
    server.close()
    await server.wait_closed()
    assert received == b"z" * 20_000_000


async def test_head_and_ranges_pass(tmp_path: Path) -> None:
    async with raw_engine(tmp_path) as api, plane_world(tmp_path, api=api.address) as world:
        async with world.client() as client:
            api.script = says(b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n")
            for _ in range(2):
                await client.send(request(b"", path="/v1/files/f/content", method="HEAD"))
                got = await client.answer(method="HEAD")
                assert (got.status, got.headers["content-length"], got.whole) == (200, "5000", True)
            api.script = says(answer(b"23", status="206 Partial Content", extra=b"content-range: bytes 2-3/9\r\n"))
            await client.send(request(b"", path="/v1/files/f/content", method="GET", headers={"range": "bytes=2-3"}))
            got = await client.answer()
            assert (got.status, got.body, got.headers["content-range"]) == (206, b"23", "bytes 2-3/9")
            api.script = says(b"HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n")
            await client.send(request(b"", path="/x", method="GET"))
            assert (await client.answer()).status == 304
        assert api.connections == 1


async def test_an_upgrade_becomes_a_tunnel(tmp_path: Path) -> None:
    async def script(visit: Visit) -> None:
        assert visit.headers["upgrade"] == "websocket"
        assert visit.headers["connection"] == "upgrade"
        await visit.send(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
            b"sec-websocket-accept: s\r\n\r\nhello"
        )
        assert await visit.receive(10) == b"early,late"
        await visit.send(b"\x00\r\n\r\nHTTP/1.1 bytes\xff" * 3)
        await visit.wait_gone()

    async with raw_engine(tmp_path) as api, plane_world(tmp_path, api=api.address) as world:
        api.script = script
        headers = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-key": "k"}
        async with world.client() as client:
            await client.send(request(b"", path="/api/events", method="GET", headers=headers) + b"early")
            head = await client.read_until(b"\r\n\r\nhello")
            assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
            assert b"\r\nsec-websocket-accept: s\r\n" in head
            await client.send(b",late")
            await client.read_until(b"\x00\r\n\r\nHTTP/1.1 bytes\xff" * 3)
        await (await api.visit()).wait_gone()


async def test_a_tunnel_that_the_api_closes_is_closed(tmp_path: Path) -> None:
    async def script(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nbye")
        await visit.close()

    async with raw_engine(tmp_path) as api, plane_world(tmp_path, api=api.address) as world:
        api.script = script
        async with world.client() as client:
            await client.send(request(b"", path="/x", method="GET", headers={"connection": "upgrade", "upgrade": "x"}))
            assert (await client.read_all()).endswith(b"\r\n\r\nbye")


async def test_an_upgrade_that_the_api_declines_is_an_ordinary_answer(tmp_path: Path) -> None:
    async with raw_engine(tmp_path) as api, plane_world(tmp_path, api=api.address) as world:
        api.script = says(answer(b"no", status="403 Forbidden"))
        async with world.client() as client:
            for _ in range(2):
                headers = {"connection": "upgrade", "upgrade": "x"}
                await client.send(request(b"", path="/x", method="GET", headers=headers))
                assert (await client.answer()).body == b"no"


async def test_an_upgrade_on_an_inference_route_is_ignored(tmp_path: Path) -> None:
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path) as world:
        world.serve(engine)
        async with world.client() as client:
            chat = {"model": "org/demo", "messages": []}
            await client.send(request(chat, headers={"connection": "upgrade", "upgrade": "h2c", "http2-settings": "A"}))
            assert (await client.answer()).status == 200
        assert "upgrade" not in (await engine.visit()).headers


async def test_an_api_that_is_away_is_a_503_and_inference_goes_on(tmp_path: Path) -> None:
    async with (
        raw_engine(tmp_path) as api,
        raw_engine(tmp_path) as engine,
        plane_world(tmp_path, api=api.address) as world,
    ):
        world.serve(engine)
        await api.stop()
        async with world.client() as client:
            await client.send(request(b"", path="/v1/models", method="GET"))
            got = await client.answer()
            assert (got.status, got.code, got.headers["retry-after"]) == (503, "api_unavailable", "2")
            await client.send(request({"model": "org/demo", "messages": []}))
            assert (await client.answer()).status == 200
            await api.start()
            await client.send(request(b"", path="/v1/models", method="GET"))
            assert (await client.answer()).status == 200


async def test_a_stale_connection_to_the_api_is_replaced_unseen(tmp_path: Path) -> None:
    async def drop(visit: Visit) -> None:
        await visit.close()

    async with raw_engine(tmp_path) as api, plane_world(tmp_path, api=api.address) as world:
        api.scripts = [says(answer(BODY)), drop]
        async with world.client() as client:
            for _ in range(2):
                await client.send(request(b"", path="/v1/models", method="GET"))
                assert (await client.answer()).status == 200
            api.scripts = [drop]
            await client.send(request(b"{}", path="/api/keys"))  # a body is never sent twice
            assert (await client.answer()).status == 503


async def test_an_api_answer_that_breaks_is_not_well_formed(tmp_path: Path) -> None:
    async def script(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        await visit.close()

    async with raw_engine(tmp_path) as api, plane_world(tmp_path, api=api.address) as world:
        api.script = script
        async with world.client() as client:
            await client.send(request(b"", path="/v1/models", method="GET"))
            got = await client.answer()
            assert (got.body, got.whole) == (b"half", False)


async def test_a_client_that_leaves_lets_the_api_go(tmp_path: Path) -> None:
    async def script(visit: Visit) -> None:
        await visit.wait_gone()

    async with raw_engine(tmp_path) as api, plane_world(tmp_path, api=api.address) as world:
        api.script = script
        async with world.client() as client:
            await client.send(request(b"", path="/api/wait", method="GET"))
            await api.visit()
        await (await api.visit()).wait_gone()


async def test_a_body_over_the_limit_is_cut_off_for_the_api_too(tmp_path: Path) -> None:
    settings = GatewaySettings(body_limit=10)
    async with raw_engine(tmp_path) as api, plane_world(tmp_path, api=api.address, settings=settings) as world:
        async with world.client() as client:
            await client.send(request(b"x" * 11, path="/api/x"))
            assert (await client.answer()).status == 413
        async with world.client() as client:
            head = request(b"", path="/api/x").replace(b"content-length: 0", b"transfer-encoding: chunked")
            await client.send(head + chunked(b"x" * 11, end=False))
            assert (await client.answer()).status == 413


async def test_the_error_table_of_other_routes_is_openais(tmp_path: Path) -> None:
    async with plane_world(tmp_path) as world, world.client() as client:
        await client.send(request(b"", path="/nothing", method="GET"))
        assert set(json.loads((await client.answer()).body)["error"]) == {"message", "type", "param", "code"}
