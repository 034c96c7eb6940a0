# SPDX-License-Identifier: Apache-2.0
"""How a reverse door keeps connections parked: as many as are needed, at every gateway, again after a loss."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from firstkit.adapters.links.authority import Authority
from firstkit.launcher import parking
from firstkit.launcher.documents import DoorSpec
from firstkit.launcher.exchange import Address
from firstkit.launcher.parking import LEAST, ReverseDoor

PATIENCE_S = 20.0
INSTANCE = "i-a"
pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Path]:
    """Make an installation's authority, and the folder of a job of its with the door's certificate."""
    folder = tmp_path_factory.mktemp("papers")
    authority = Authority(folder / "ca")
    own = folder / INSTANCE
    own.mkdir()
    issued = authority.issue(name=f"{INSTANCE}.park.firstkit", valid_s=3600, server=False)
    (own / "door.crt").write_bytes(issued.certificate)
    (own / "door.key").write_bytes(issued.key)
    (folder / "ca.crt").write_bytes(authority.certificate)
    return authority, folder


class Gateway:
    """Takes in what is parked, and can use it, refuse it, go away and come back on the same port."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self.parked: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.protocols: set[str | None] = set()
        self.arrived = 0
        self.refuses = False
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def open(self) -> None:
        context = self._authority.doors_context([parking.PROTOCOL])
        self._server = await asyncio.start_server(self._take, "127.0.0.1", self.port, ssl=context, reuse_address=True)

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.arrived += 1
        self._writers.append(writer)
        self.protocols.add(writer.get_extra_info("ssl_object").selected_alpn_protocol())
        if self.refuses:
            writer.transport.abort()
        else:
            self.parked.append((reader, writer))

    @property
    def open_ones(self) -> int:
        return sum(not reader.at_eof() and reader.exception() is None for reader, _ in self.parked)

    async def close(self) -> None:
        """Go away as a process that is killed does."""
        if self._server is not None:
            self._server.close()
            await end(self._writers)
            await self._server.wait_closed()
        self.parked.clear()
        self._server = None


async def eventually(what: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not what():  # noqa: ASYNC110  what another end does sets no event here
            await asyncio.sleep(0.01)


async def end(writers: list[asyncio.StreamWriter]) -> None:
    """Cut connections, and wait until nothing is left of them."""
    for writer in writers:
        writer.transport.abort()
    for writer in writers:
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    writers.clear()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()


class Scene:
    """Gateways, a door, an engine that echoes."""

    def __init__(self, papers: tuple[Authority, Path], engine: Path) -> None:
        self.authority, self.folder = papers
        self.gateways = [Gateway(self.authority), Gateway(self.authority)]
        self.notes: list[str] = []
        self._engine = Address(path=str(engine))
        self.door = self.build(1)

    def build(self, gateways: int) -> ReverseDoor:
        addresses = tuple(gateway.address for gateway in self.gateways[:gateways])
        peer = "gateway.firstkit"
        spec = DoorSpec("reverse", cert="door.crt", key="door.key", ca="ca.crt", peer=peer, gateways=addresses)
        note = self.notes.append
        return ReverseDoor(spec, self._engine, folder=str(self.folder), instance=INSTANCE, note=note)


@contextlib.asynccontextmanager
async def scene(papers: tuple[Authority, Path], tmp_path: Path) -> AsyncIterator[Scene]:
    path = tmp_path / "e.sock"
    writers: list[asyncio.StreamWriter] = []

    async def speaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await echo(reader, writer)

    engine = await asyncio.start_unix_server(speaks, path, backlog=1)
    made = Scene(papers, path)
    for gateway in made.gateways:
        await gateway.open()
    try:
        yield made
    finally:
        await made.door.close()
        for gateway in made.gateways:
            await gateway.close()
        await end(writers)
        engine.close()
        await engine.wait_closed()


async def use(gateway: Gateway, count: int) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Use so many parked connections, one after the other as they come."""
    used = []
    for _ in range(count):
        await eventually(lambda: gateway.parked)
        reader, writer = gateway.parked.pop(0)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        used.append((reader, writer))
    return used


async def test_a_few_are_parked_while_nothing_is_in_use(papers: tuple[Authority, Path], tmp_path: Path) -> None:
    async with scene(papers, tmp_path) as at:
        at.door.open()
        gateway = at.gateways[0]
        await eventually(lambda: len(gateway.parked) == LEAST)
        assert gateway.protocols == {"first-park/1"}
        assert at.door.connections == set()
        assert at.door.trouble is None


async def test_more_are_parked_the_more_are_in_use_and_fewer_afterwards(
    papers: tuple[Authority, Path], tmp_path: Path
) -> None:
    async with scene(papers, tmp_path) as at:
        at.door.open()
        gateway = at.gateways[0]
        used = await use(gateway, 40)
        await eventually(lambda: gateway.open_ones == 20)
        assert len(at.door.connections) == 40
        for _, writer in used:
            writer.close()
        await eventually(lambda: not at.door.connections)
        [berth] = at.door.berths.values()
        assert berth.wanted == LEAST


async def test_a_burst_finds_an_engine_whose_queue_of_connections_is_full_and_gets_through(
    papers: tuple[Authority, Path], tmp_path: Path
) -> None:
    """The engine here queues one connection, llama.cpp five: what comes on top is refused by the kernel at once."""
    async with scene(papers, tmp_path) as at:
        at.door.open()
        gateway = at.gateways[0]
        await use(gateway, 30)
        await eventually(lambda: len(gateway.parked) >= 10)
        burst = [gateway.parked.pop() for _ in range(10)]
        for _, writer in burst:
            writer.write(b"hello")
        async with asyncio.timeout(PATIENCE_S):
            for reader, _ in burst:
                assert await reader.readexactly(5) == b"hello"


async def test_every_gateway_has_some_and_the_desired_ones_replace_those_of_the_job(
    papers: tuple[Authority, Path], tmp_path: Path
) -> None:
    async with scene(papers, tmp_path) as at:
        first, second = at.gateways
        at.door.open()
        await eventually(lambda: len(first.parked) == LEAST)
        [(reader, writer)] = await use(first, 1)
        at.door.use([first.address, second.address])
        await eventually(lambda: first.open_ones == second.open_ones == LEAST)
        at.door.use([second.address])
        await eventually(lambda: first.open_ones == 0)
        writer.write(b"still")
        assert await reader.readexactly(5) == b"still"
        assert second.open_ones == LEAST


async def test_a_gateway_that_comes_back_is_parked_at_again(papers: tuple[Authority, Path], tmp_path: Path) -> None:
    async with scene(papers, tmp_path) as at:
        gateway = at.gateways[0]
        at.door.open()
        await eventually(lambda: len(gateway.parked) == LEAST)
        await gateway.close()
        await eventually(lambda: at.door.trouble)
        assert at.door.trouble is not None
        assert f"the gateway {gateway.address} cannot be reached: " in at.door.trouble
        await gateway.open()
        await eventually(lambda: len(gateway.parked) == LEAST)
        await use(gateway, 1)
        await eventually(lambda: at.door.trouble is None)
        assert [note for note in at.notes if "again" in note] == [f"door: reaches the gateway {gateway.address} again"]


async def test_a_gateway_that_does_not_want_what_is_parked_is_asked_ever_more_rarely(
    papers: tuple[Authority, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    async with scene(papers, tmp_path) as at:
        gateway = at.gateways[0]
        gateway.refuses = True
        loop = asyncio.get_running_loop()
        later = loop.call_later

        def call_later(delay: float, callback: Any, *args: Any, **more: Any) -> asyncio.TimerHandle:
            if getattr(callback, "__name__", "") == "_resume":
                pauses.append(delay)
                delay = 0.0
            return later(delay, callback, *args, **more)

        monkeypatch.setattr(loop, "call_later", call_later)
        at.door.open()
        await eventually(lambda: len(pauses) >= 9)
        gateway.refuses = False
        await eventually(lambda: len(gateway.parked) == LEAST)
    for number, pause_s in enumerate(pauses[:9]):
        longest_s = min(parking.LONGEST_PAUSE_S, parking.FIRST_PAUSE_S * 2**number)
        assert longest_s / 2 <= pause_s <= longest_s
    assert at.notes[0] == f"door: the gateway {gateway.address} cannot be reached: it closes what is parked there"
    assert len(at.notes) == 1


async def test_an_unused_connection_that_has_grown_old_is_replaced(
    papers: tuple[Authority, Path], tmp_path: Path
) -> None:
    async with scene(papers, tmp_path) as at:
        gateway = at.gateways[0]
        at.door.open()
        await eventually(lambda: len(gateway.parked) == LEAST)
        [berth] = at.door.berths.values()
        for side in berth.parked:
            side.expires_at = time.monotonic()
        berth.refresh()
        await eventually(lambda: gateway.arrived == LEAST + 1 and gateway.open_ones == LEAST)


async def test_a_door_whose_engine_has_ended_withdraws_what_it_has_parked(
    papers: tuple[Authority, Path], tmp_path: Path
) -> None:
    async with scene(papers, tmp_path) as at:
        gateway = at.gateways[0]
        at.door.open()
        [(reader, writer)] = await use(gateway, 1)
        await eventually(lambda: len(gateway.parked) == LEAST)
        at.door.shut()
        await eventually(lambda: gateway.open_ones == 0)
        writer.write(b"whole")  # what is under way goes on to its end
        assert await reader.readexactly(5) == b"whole"
        assert gateway.arrived == LEAST + 1


@pytest.fixture
def silent_gateway() -> Iterator[int]:
    """Accept connections and say nothing, as something on the way may that only holds them."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


async def test_a_gateway_that_never_finishes_the_handshake_is_said_to_be_out_of_reach(
    papers: tuple[Authority, Path], tmp_path: Path, silent_gateway: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "HANDSHAKE_S", 0.05)
    async with scene(papers, tmp_path) as at:
        at.door.open()
        at.door.use([f"127.0.0.1:{silent_gateway}"])
        await eventually(lambda: at.door.trouble)
        assert at.door.trouble == f"the gateway 127.0.0.1:{silent_gateway} cannot be reached: no answer in time"
