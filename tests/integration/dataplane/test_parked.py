# SPDX-License-Identifier: Apache-2.0
"""Connections that doors have parked: who may park, how they are used, and that a stale one costs no request."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from firstkit.adapters.links.authority import GATEWAY, Authority
from firstkit.core.health.liveness import Failure
from firstkit.core.ids import park_name
from firstkit.core.settings import GatewaySettings
from firstkit.core.topology import Address, AddressKind
from firstkit.dataplane import doors, parked, peer
from firstkit.dataplane.doors import PARK, REPORT
from firstkit.dataplane.upstream import Upstream
from firstkit.launcher import parking
from firstkit.testing.planes import MODEL, PlaneWorld, bound_socket, make_route, plane_world
from firstkit.testing.raw_client import request
from firstkit.testing.raw_engine import STREAM_HEAD, Visit, answer, chunked, raw_engine

pytestmark = pytest.mark.anyio

CHAT = {"model": MODEL, "messages": []}
STREAM = {**CHAT, "stream": True}
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
PATIENCE_S = 30.0


def test_door_and_gateway_mean_the_same_protocol() -> None:
    assert parking.PROTOCOL == PARK


class End:
    """The door's end of one parked connection, answered by the test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def request(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            await self.reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            return head

    def answer(self, body: bytes = b"{}") -> None:
        self.writer.write(answer(body))

    async def serve(self, count: int) -> None:
        """Answer so many requests, then close."""
        for _ in range(count):
            await self.request()
            self.answer()
        await self.close()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def closed(self) -> None:
        """Wait until the gateway has closed it."""
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(OSError):
                assert await self.reader.read() == b""
        await self.close()


class Site:
    """Where doors dial from: makes certificates, and connections with them."""

    def __init__(self, world: PlaneWorld, folder: Path, authority: Authority) -> None:
        self.world = world
        self.authority = authority
        self.folder = folder
        self.port = 0
        self.ends: list[End] = []

    def context(
        self, name: str | None, *, server: bool = False, authority: Authority | None = None, protocol: str | None = PARK
    ) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.authority.certificate.decode())
        if protocol is not None:
            context.set_alpn_protocols([protocol])
        if name is not None:
            issued = (authority or self.authority).issue(name=name, valid_s=3600, server=server)
            pair = self.folder / f"{name}.pem"
            pair.write_bytes(issued.certificate + issued.key)
            context.load_cert_chain(pair)
        return context

    async def dial(self, context: ssl.SSLContext) -> End:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname=GATEWAY)
        end = End(reader, writer)
        self.ends.append(end)
        return end

    async def park(self, count: int = 1, instance: str = "i-0") -> list[End]:
        context = self.context(park_name(instance))
        pool = self.world.plane.pools.parked(instance)
        before = len(pool.open)
        ends = [await self.dial(context) for _ in range(count)]
        await self.world.until(lambda: len(pool.open) == before + count)
        return ends

    @property
    def lost(self) -> bool:
        """Whether the gateway tells the controller that the instance cannot be reached."""
        return any("i-0" in demand.lost for demand in self.world.dispatcher.demand())


@contextlib.asynccontextmanager
async def site(folder: Path, **settings: Any) -> AsyncGenerator[Site]:
    authority = Authority(folder / "ca")
    given = GatewaySettings(uploads=str(folder), **settings)
    async with plane_world(folder, settings=given) as world:
        made = Site(world, folder, authority)
        with bound_socket() as listening:
            made.port = listening.getsockname()[1]
            await world.plane.listen_for_doors(listening, authority.doors_context([PARK, REPORT]))
            try:
                yield made
            finally:
                for end in made.ends:
                    end.writer.transport.abort()
                    await end.close()


def reverse(world: PlaneWorld, **more: object) -> None:
    world.publish(make_route("i-0", Address(kind=AddressKind.PARKED), **more))


async def test_parked_connections_are_used_like_dialled_ones(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        ends = await at.park(2)
        reverse(at.world)
        serving = [asyncio.create_task(end.serve(3)) for end in ends]
        async with at.world.client() as client:
            for _ in range(6):
                await client.send(request(CHAT))
                assert (await client.answer()).status == 200
            await asyncio.gather(*serving)


async def test_a_request_that_finds_none_free_waits_for_one(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        [first] = await at.park()
        reverse(at.world)
        async with at.world.client() as one, at.world.client() as two, at.world.client() as three:
            await one.send(request(CHAT))
            await first.request()
            await two.send(request(CHAT))
            await three.send(request(CHAT))
            await at.world.until(lambda: at.world.dispatcher.in_flight == 3)
            [second] = await at.park()
            await second.request()
            first.answer(b'{"n":1}')  # given back, it goes to who still waits
            assert (await one.answer()).body == b'{"n":1}'
            await first.request()
            first.answer(b'{"n":3}')
            second.answer(b'{"n":2}')
            assert {(await two.answer()).body, (await three.answer()).body} == {b'{"n":2}', b'{"n":3}'}


async def test_one_that_has_been_used_is_used_again_before_an_unused_one(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        await at.park(3)
        reverse(at.world)
        pool = at.world.plane.pools.parked("i-0")
        serving = [asyncio.create_task(end.serve(5)) for end in at.ends]
        async with at.world.client() as client:
            for _ in range(4):
                await client.send(request(CHAT))
                assert (await client.answer()).status == 200
                assert pool.unused == 2
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def test_unused_ones_are_kept_and_used_ones_are_closed_after_a_while(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        await at.park(2)
        reverse(at.world)
        serving = [asyncio.create_task(end.serve(2)) for end in at.ends]
        async with at.world.client() as client:
            await client.send(request(CHAT))
            assert (await client.answer()).status == 200
        pool = at.world.plane.pools.parked("i-0")
        for upstream in pool.open:
            upstream.due = min(upstream.due, 0.0) if upstream.heard else upstream.due
        at.world.hurry_upstreams()
        await at.world.until(lambda: len(pool.open) == 1)
        assert pool.unused == 1
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


@pytest.mark.parametrize("who", ["nobody", "stranger", "direct door", "gateway", "wrong name", "wrong word", "no word"])
async def test_nobody_else_parks_and_nothing_is_said_to_them(
    tmp_path: Path, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(doors.Arrival, "_become", lambda *_: said.append("handed on"))
    async with site(tmp_path) as at:
        reverse(at.world)
        mine = park_name("i-0")
        contexts = {
            "nobody": lambda: at.context(None),
            "stranger": lambda: at.context(mine, authority=Authority(tmp_path / "theirs")),
            "direct door": lambda: at.context(mine, server=True),
            "gateway": lambda: at.context(GATEWAY),
            "wrong name": lambda: at.context("j-0.door.firstkit"),
            "wrong word": lambda: at.context(mine, protocol="h2"),
            "no word": lambda: at.context(mine, protocol=None),
        }
        with contextlib.suppress(OSError):
            end = await at.dial(contexts[who]())
            await end.closed()
        assert at.world.plane.pools.open() == []
        assert at.lost
    assert said == []


async def test_one_parks_for_its_own_instance_alone(tmp_path: Path) -> None:
    async with site(tmp_path, connect_timeout_s=0.1, hold_s=0.2) as at:
        await at.park(instance="i-1")
        reverse(at.world)
        async with at.world.client() as client:
            await client.send(request(CHAT, headers={"x-first-max-wait": "0.2"}))
            assert (await client.answer()).status in {502, 503}


async def test_reports_come_in_by_the_same_port_and_nothing_else_does(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    async with raw_engine(tmp_path) as api, plane_world(tmp_path, api=api.address) as world:
        at = Site(world, tmp_path, authority)
        with bound_socket() as listening:
            at.port = listening.getsockname()[1]
            await world.plane.listen_for_doors(listening, authority.doors_context([PARK, REPORT]))
            for path, status in (
                ("/control/v1/jobs/j-1/status", b"200"),
                ("/v1/models", b"404"),
                ("/v1/chat/completions", b"404"),
                ("/healthz", b"404"),
                ("/api/v1/keys", b"404"),
                ("/control/../api/v1/keys", b"400"),
            ):
                end = await at.dial(at.context("j-1.job.firstkit", protocol=REPORT))
                end.writer.write(f"PUT {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{{}}".encode())
                async with asyncio.timeout(PATIENCE_S):
                    assert (await end.reader.readuntil(b"\r\n"))[9:12] == status, path
                end.writer.transport.abort()
                await end.close()
        assert [visit.target for visit in api.visits] == ["/control/v1/jobs/j-1/status"]


async def test_an_instance_is_dead_while_nothing_is_parked_and_alive_again_at_once(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        reverse(at.world)
        assert at.lost
        [end] = await at.park()
        assert not at.lost
        await end.close()
        await at.world.until(lambda: at.lost)
        async with at.world.client() as client:
            await client.send(request(CHAT))  # waits, as for any model that has no instance
            await at.world.until(lambda: at.world.dispatcher.waiting == 1)
            [end] = await at.park()
            await end.request()
            end.answer()
            assert (await client.answer()).status == 200


async def test_a_door_that_goes_while_requests_wait_for_it_does_not_keep_them(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        [end] = await at.park()
        reverse(at.world)
        async with raw_engine(tmp_path) as other, at.world.client() as one, at.world.client() as two:
            await one.send(request(CHAT))
            await end.request()
            await two.send(request(CHAT))
            await at.world.until(lambda: at.world.dispatcher.in_flight == 2)
            at.world.publish(*at.world.routes.values(), make_route("i-1", other.address))
            end.writer.transport.abort()
            for client in (one, two):
                assert (await client.answer()).headers["x-first-instance"] == "i-1"


async def test_requests_on_connections_that_are_closed_in_that_moment_are_sent_again_unseen(tmp_path: Path) -> None:
    """Four of them: as many as may well have been cut on the way while nobody looked."""
    async with site(tmp_path) as at:
        ends = await at.park(5)
        reverse(at.world)
        async with at.world.client() as client:
            await client.send(request(CHAT))
            for end in reversed(ends[1:]):
                await end.request()
                await end.close()
            await ends[0].request()
            ends[0].answer(b'{"whole":true}')
            assert (await client.answer()).body == b'{"whole":true}'
            await at.world.until(lambda: at.world.records)
        assert [record.attempt for record in at.world.records] == [1]


async def test_after_the_first_byte_nothing_is_sent_again(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        ends = await at.park(2)
        reverse(at.world)
        async with at.world.client() as client:
            await client.send(request(STREAM))
            await ends[1].request()
            ends[1].writer.write(STREAM_HEAD + chunked(TOKEN, end=False))
            assert TOKEN in await client.read_until(b"}\n\n")
            ends[1].writer.transport.abort()
            assert b"engine_cut" in await client.read_until(b"0\r\n\r\n")
            await at.world.until(lambda: at.world.records)
        assert at.world.plane.pools.parked("i-0").unused == 1


async def test_one_that_leaves_probes_unanswered_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with site(tmp_path) as at:
        good, dead = await at.park(2)
        reverse(at.world)
        port = dead.writer.get_extra_info("sockname")[1]
        monkeypatch.setattr(peer, "unacknowledged", lambda transport: transport.get_extra_info("peername")[1] == port)
        async with at.world.client() as client:
            await client.send(request(CHAT))
            await good.request()
            good.answer()
            assert (await client.answer()).status == 200
        await dead.closed()  # so that its door, if it lives, parks another


async def test_one_that_does_not_acknowledge_a_request_is_given_up_and_another_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parked, "UNHEARD_S", 0.05)
    cut: list[int] = []
    monkeypatch.setattr(peer, "unacknowledged", lambda transport: transport.get_extra_info("peername")[1] in cut)
    async with site(tmp_path) as at:
        good, dead = await at.park(2)
        reverse(at.world)
        async with at.world.client() as client:
            await client.send(request(CHAT))
            await dead.request()
            cut.append(dead.writer.get_extra_info("sockname")[1])
            await good.request()
            good.answer()
            assert (await client.answer()).status == 200
        await dead.closed()


async def test_one_that_is_slow_to_answer_is_not_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Upstream] = []
    look = parked._look

    def looking(upstream: Upstream) -> None:
        look(upstream)
        looked.append(upstream)

    monkeypatch.setattr(parked, "UNHEARD_S", 0.05)
    monkeypatch.setattr(parked, "_look", looking)
    async with site(tmp_path) as at:
        [end] = await at.park()
        reverse(at.world)
        async with at.world.client() as client:
            await client.send(request(CHAT))
            await end.request()
            await at.world.until(lambda: looked)
            end.answer()
            assert (await client.answer()).status == 200


async def test_a_gateway_that_drains_keeps_what_is_in_use_and_sends_the_rest_elsewhere(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        ends = await at.park(3)
        reverse(at.world)
        async with at.world.client() as client:
            await client.send(request(CHAT))
            await ends[2].request()
            draining = asyncio.create_task(at.world.plane.drain(PATIENCE_S))
            for end in ends[:2]:
                await end.closed()
            ends[2].answer()
            assert (await client.answer()).status == 200
            assert await draining


async def test_no_more_is_kept_than_anybody_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parked, "UNUSED_MOST", 2)
    async with site(tmp_path) as at:
        await at.park(2)
        extra = await at.dial(at.context(park_name("i-0")))
        await extra.closed()
        assert at.world.plane.pools.parked("i-0").unused == 2


async def test_what_is_parked_before_its_route_is_known_is_kept_for_it(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        [end] = await at.park()
        at.world.publish()
        reverse(at.world)
        assert not at.lost
        async with at.world.client() as client:
            await client.send(request(CHAT))
            await end.request()
            end.answer()
            assert (await client.answer()).status == 200
        at.world.publish()
        await end.close()
        await at.world.until(lambda: not at.world.plane.pools.open())


async def test_real_doors_park_again_at_a_gateway_that_was_restarted(tmp_path: Path) -> None:
    async def slow(visit: Visit) -> None:
        await visit.send(answer(b"{}"))

    with bound_socket() as probe:
        port = probe.getsockname()[1]
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path, link="reverse") as world:
        engine.script = slow
        doorway = world.doorway
        assert doorway is not None
        doorway.gateways.append(f"127.0.0.1:{port}")  # a second one, that comes and goes
        world.serve(engine)
        for _ in range(2):
            (tmp_path / "other").mkdir(exist_ok=True)
            async with plane_world(tmp_path / "other") as other:
                with contextlib.closing(listening_at(port)) as listening:
                    await other.plane.listen_for_doors(listening, doorway.authority.doors_context([PARK, REPORT]))
                    other.publish(*world.routes.values())
                    async with other.client() as client:
                        await client.send(request(CHAT))
                        assert (await client.answer()).status == 200
                    other.dispatcher.failed("i-0", Failure.OK)
            async with world.client() as client:
                await client.send(request(CHAT))
                assert (await client.answer()).status == 200


def listening_at(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port))
