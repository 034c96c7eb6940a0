# SPDX-License-Identifier: Apache-2.0
"""Links with TLS: to a door that knows us, and towards the clients."""

import asyncio
import contextlib
import ssl
from dataclasses import replace
from pathlib import Path

import pytest

from firstkit.adapters.links.authority import GATEWAY, Authority
from firstkit.core.topology import Address, AddressKind
from firstkit.testing.planes import MODEL, make_route, plane_world
from firstkit.testing.raw_client import raw_client, request
from firstkit.testing.raw_engine import raw_engine

pytestmark = pytest.mark.anyio

CHAT = {"model": MODEL, "messages": []}


def files(folder: Path, authority: Authority, name: str) -> tuple[Path, Path]:
    issued = authority.issue(name=name, valid_s=3600, server=True)
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    certificate.write_bytes(issued.certificate)
    key.write_bytes(issued.key)
    return certificate, key


def door_context(folder: Path, authority: Authority, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files(folder, authority, name))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority.certificate.decode())
    return context


@contextlib.asynccontextmanager
async def tls_front(context: ssl.SSLContext, engine: Address):
    """Splice TLS connections to an engine's socket, as a door does."""

    async def splice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_unix_connection(engine.path)
        except OSError:
            writer.transport.abort()
            return

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, RuntimeError):
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            sink.transport.abort()

        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    server = await asyncio.start_server(splice, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.sleep(0.05)


async def test_a_door_with_a_certificate_of_the_installation_is_reached_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    context = door_context(tmp_path, authority, "j-1.firstkit")
    async with (
        raw_engine(tmp_path) as engine,
        tls_front(context, engine.address) as port,
        plane_world(tmp_path, client_tls=authority.gateway_context()) as world,
    ):
        address = Address(kind=AddressKind.TLS, host="127.0.0.1", port=port, server_name="j-1.firstkit", mutual=True)
        world.publish(make_route("i-0", address))
        async with world.client() as client:
            for _ in range(3):
                await client.send(request(CHAT))
                assert (await client.answer()).status == 200
        assert len(engine.visits) == 3
        # another job's certificate is not taken for this one's
        world.publish(make_route("i-1", replace(address, server_name="j-2.firstkit")))
        async with world.client() as client:
            await client.send(request(CHAT, headers={"x-first-max-wait": "0.3"}))
            assert (await client.answer()).status in {502, 503}
        assert len(engine.visits) == 3


async def test_without_a_certificate_of_our_own_a_door_is_unreachable_and_said_so(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    context = door_context(tmp_path, authority, "j-1.firstkit")
    async with (
        raw_engine(tmp_path) as engine,
        tls_front(context, engine.address) as port,
        plane_world(tmp_path) as world,
    ):
        address = Address(kind=AddressKind.TLS, host="127.0.0.1", port=port, server_name="j-1.firstkit", mutual=True)
        world.publish(make_route("i-0", address))
        async with world.client() as client:
            await client.send(request(CHAT, headers={"x-first-max-wait": "0.2"}))
            assert (await client.answer()).status in {502, 503}
        assert engine.visits == []


@pytest.fixture
def trusted(tmp_path: Path) -> tuple[Authority, ssl.SSLContext]:
    authority = Authority(tmp_path / "ca")
    trust = ssl.create_default_context(cadata=authority.certificate.decode())
    return authority, trust


async def test_clients_are_served_over_tls_and_a_new_certificate_is_used_without_a_restart(
    tmp_path: Path, trusted: tuple[Authority, ssl.SSLContext]
) -> None:
    authority, trust = trusted
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files(tmp_path, authority, "localhost"))
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path, server_tls=context) as world:
        world.serve(engine)
        async with raw_client(world.where, tls=trust) as old:
            await old.send(request(CHAT))
            assert (await old.answer()).status == 200
            first = old.serial()
            context.load_cert_chain(*files(tmp_path, authority, "localhost"))
            async with raw_client(world.where, tls=trust) as new:
                await new.send(request({**CHAT, "x": "y" * 300_000}))
                assert (await new.answer()).status == 200
                assert new.serial() != first
            await old.send(request(CHAT))
            assert (await old.answer()).status == 200


async def test_a_tls_client_that_leaves_lets_the_engine_go(
    tmp_path: Path, trusted: tuple[Authority, ssl.SSLContext]
) -> None:
    from firstkit.testing.raw_engine import Visit

    async def silent(visit: Visit) -> None:
        await visit.wait_gone()

    authority, trust = trusted
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files(tmp_path, authority, "localhost"))
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path, server_tls=context) as world:
        world.serve(engine)
        engine.script = silent
        for reset in (True, False):
            number = len(engine.visits)
            async with raw_client(world.where, tls=trust) as client:
                await client.send(request(CHAT))
                await engine.visit(number)
                if reset:
                    client.reset()
            await engine.visits[number].wait_gone()


async def test_plain_http_on_a_tls_listener_harms_nobody(
    tmp_path: Path, trusted: tuple[Authority, ssl.SSLContext]
) -> None:
    authority, trust = trusted
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files(tmp_path, authority, "localhost"))
    async with plane_world(tmp_path, server_tls=context) as world:
        async with world.client() as client:
            await client.send(request(CHAT))
            await client.read_all()
        async with raw_client(world.where, tls=trust) as client:
            await client.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await client.answer()).status == 200


def test_the_gateways_name_in_its_certificate_is_known() -> None:
    assert GATEWAY == "gateway.firstkit"
