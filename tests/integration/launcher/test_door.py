# SPDX-License-Identifier: Apache-2.0
"""Doors, direct and reverse: whom they admit, what they pass on, and what they cost in memory."""

import asyncio
import contextlib
import datetime as dt
import fcntl
import hashlib
import os
import random
import socket
import ssl
import struct
import termios
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from firstkit.launcher.documents import DoorSpec
from firstkit.launcher.door import Door, DoorFailed
from firstkit.launcher.exchange import Address
from firstkit.launcher.parking import ReverseDoor
from firstkit.launcher.splice import keep_alive, stalled

PEER = "gateway.firstkit"
PATIENCE_S = 20.0
pytestmark = pytest.mark.anyio

Speaks = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Authority:
    """A certificate authority made for one test run."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(self.name, self.key, is_authority=True, host=None)
        self.path = folder / f"{name}.crt"
        self.path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, host: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        certificate = self._sign(subject, key, is_authority=False, host=host)
        paths = self.folder / f"{host}.crt", self.folder / f"{host}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return paths

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, is_authority: bool, host: str | None
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        building = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if host is not None:
            building = building.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        return building.sign(self.key, hashes.SHA256())


class Pki:
    """An installation's authority, a stranger's, and whom they certify."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ours, theirs = Authority(folder, "ours"), Authority(folder, "theirs")
        self.certificates = {
            "gateway": ours.issue(PEER),
            "another part": ours.issue("controller.firstkit"),
            "door": ours.issue("door"),
        }
        (folder / "elsewhere").mkdir()
        theirs.folder = folder / "elsewhere"
        self.certificates["stranger"] = theirs.issue(PEER)
        self.authority = ours.path

    def client(self, who: str | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.authority)
        context.check_hostname = False
        if who is not None:
            context.load_cert_chain(*self.certificates[who])
        return context

    def server(self, who: str | None) -> ssl.SSLContext:
        """Make the context of a gateway at which doors park."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.authority)
        context.verify_mode = ssl.CERT_REQUIRED
        if who is not None:
            context.load_cert_chain(*self.certificates[who])
        return context

    def reverse_door(self, *ports: int) -> DoorSpec:
        """Describe a door that parks at gateways on these ports; its certificate lies in its instance's folder."""
        own = self.folder / "i-a"
        own.mkdir(exist_ok=True)
        for name in ("door.crt", "door.key"):
            (own / name).write_bytes((self.folder / name).read_bytes())
        gateways = tuple(f"127.0.0.1:{port}" for port in ports)
        return DoorSpec("reverse", cert="door.crt", key="door.key", ca="ours.crt", peer=PEER, gateways=gateways)

    def door(self, ports: tuple[int, int]) -> DoorSpec:
        return DoorSpec("direct", "127.0.0.1", ports, "door.crt", "door.key", "ours.crt", PEER)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


class House:
    """A door with an engine behind it, and how a gateway comes by connections through it."""

    def __init__(self, pki: Pki, engine: Path, kind: str) -> None:
        self.pki = pki
        self.kind = kind
        self.notes: list[str] = []
        self.engine = engine
        self.gateway = socket.create_server(("127.0.0.1", 0))
        """Where a reverse door dials; nobody answers until a connection is called for."""
        self.gateway.setblocking(False)
        self.door = self.build()

    def build(self) -> Any:
        engine, folder = Address(path=str(self.engine)), str(self.pki.folder)
        if self.kind == "reverse":
            spec = self.pki.reverse_door(self.gateway.getsockname()[1])
            return ReverseDoor(spec, engine, folder=folder, instance="i-a", note=self.notes.append)
        port = free_port()
        return Door(self.pki.door((port, port)), engine, folder=folder, note=self.notes.append)

    def open(self) -> None:
        for _ in range(20):
            with contextlib.suppress(DoorFailed):
                self.door = self.build()
                self.door.open()
                return
        pytest.fail("no port could be had")

    async def close(self) -> None:
        await self.door.close()
        self.gateway.close()

    async def call(self, who: str | None = "gateway") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.kind == "direct":
            context = self.pki.client(who)
            return await asyncio.open_connection("127.0.0.1", self.door.port, ssl=context, limit=2**20)
        loop = asyncio.get_running_loop()
        arrived, _ = await loop.sock_accept(self.gateway)
        reader = asyncio.StreamReader(2**20)
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, arrived, ssl=self.pki.server(who))
        except BaseException:
            arrived.close()
            raise
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def say_and_listen(self, who: str | None) -> bytes:
        """Ask for something; TLS 1.3 lets a client know only when it reads that it was refused."""
        reader, writer = await self.call(who)
        try:
            writer.write(b"GET /v1/models HTTP/1.1\r\n\r\n")
            return await reader.readexactly(1)
        finally:
            writer.transport.abort()

    def call_blocking(self) -> ssl.SSLSocket:
        if self.kind == "direct":
            raw = socket.create_connection(("127.0.0.1", self.door.port))
            return self.pki.client("gateway").wrap_socket(raw)
        with socket.socket(fileno=os.dup(self.gateway.fileno())) as gateway:
            gateway.settimeout(PATIENCE_S)
            raw, _ = gateway.accept()
        return self.pki.server("gateway").wrap_socket(raw, server_side=True)


@pytest.fixture(params=["direct", "reverse"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.asynccontextmanager
async def house(pki: Pki, tmp_path: Path, kind: str, speaks: Speaks) -> AsyncIterator[House]:
    path = tmp_path / "e.sock"
    engine = await asyncio.start_unix_server(speaks, path)
    made = House(pki, path, kind)
    made.open()
    try:
        yield made
    finally:
        await made.close()
        engine.close()
        await engine.wait_closed()


async def eventually(what: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not what():  # noqa: ASYNC110  what another process does sets no event here
            await asyncio.sleep(0.01)


def read_to_the_end(connection: ssl.SSLSocket, take: Callable[[bytes], object] = len) -> None:
    while data := connection.recv(1 << 18):
        take(data)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def test_the_gateway_gets_through_and_every_byte_with_it(pki: Pki, tmp_path: Path, kind: str) -> None:
    sent = random.Random(1).randbytes(3_000_000)
    async with house(pki, tmp_path, kind, echo) as at, asyncio.timeout(PATIENCE_S):
        reader, writer = await at.call()
        writer.write(sent)
        assert await reader.readexactly(len(sent)) == sent
        assert len(at.door.connections) == 1
        writer.close()
        await eventually(lambda: not at.door.connections)


@pytest.mark.parametrize(
    ("who", "kind"),
    [(who, "direct") for who in (None, "stranger", "another part")]
    + [(who, "reverse") for who in ("stranger", "another part")],
    indirect=["kind"],
)
async def test_nobody_else_gets_through(pki: Pki, tmp_path: Path, kind: str, who: str | None) -> None:
    reached = asyncio.Event()

    async def speaks(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        writer.close()

    async with house(pki, tmp_path, kind, speaks) as at, asyncio.timeout(PATIENCE_S):
        with pytest.raises((OSError, EOFError)):
            await at.say_and_listen(who)
        await eventually(lambda: at.notes)
        assert ("turned away" if kind == "direct" else "cannot be reached") in at.notes[0]
        assert not reached.is_set()


@pytest.mark.parametrize("kind", ["direct"], indirect=True)
async def test_a_peer_that_does_not_speak_tls_1_2_or_newer_is_refused(pki: Pki, tmp_path: Path, kind: str) -> None:
    async with house(pki, tmp_path, kind, echo) as at, asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", at.door.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert b"HTTP" not in await reader.read()
        writer.close()
        await eventually(lambda: at.notes)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_gateway_that_leaves_is_gone_for_the_engine_at_once(
    pki: Pki, tmp_path: Path, kind: str, how: str
) -> None:
    begun, gone = asyncio.Event(), asyncio.Event()

    async def speaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(5)
        writer.write(b"token")
        begun.set()
        with contextlib.suppress(OSError):
            await reader.read()
        gone.set()
        writer.close()

    async with house(pki, tmp_path, kind, speaks) as at, asyncio.timeout(PATIENCE_S):
        reader, writer = await at.call()
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"token"
        if how == "close":
            writer.close()
        else:
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        await gone.wait()


async def test_an_engine_that_has_said_all_is_an_end(pki: Pki, tmp_path: Path, kind: str) -> None:
    async def speaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(5)
        writer.write(b"answer")
        writer.close()

    async with house(pki, tmp_path, kind, speaks) as at, asyncio.timeout(PATIENCE_S):
        reader, writer = await at.call()
        writer.write(b"hello")
        assert await reader.read() == b"answer"
        writer.close()


async def test_an_engine_that_breaks_off_is_a_reset_and_no_end(pki: Pki, tmp_path: Path, kind: str) -> None:
    class DyingEngine(asyncio.Protocol):
        """Dies with bytes unread, for which the kernel resets its peer."""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport
            transport.pause_reading()  # type: ignore[attr-defined]  it is a reading one
            self.look()

        def look(self) -> None:
            waiting = bytearray(4)
            fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.FIONREAD, waiting)
            if any(waiting):
                self.transport.abort()  # type: ignore[attr-defined]
            else:
                asyncio.get_running_loop().call_later(0.01, self.look)

    path = tmp_path / "e.sock"
    engine = await asyncio.get_running_loop().create_unix_server(DyingEngine, path)
    at = House(pki, path, kind)
    at.open()
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await at.call()
        writer.write(b"hello")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
    await at.close()
    engine.close()
    await engine.wait_closed()


async def test_an_engine_that_is_away_means_a_reset_at_once(pki: Pki, tmp_path: Path, kind: str) -> None:
    at = House(pki, tmp_path / "nobody.sock", kind)
    at.open()
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises((OSError, EOFError)):
            await at.say_and_listen("gateway")
    await at.close()


async def test_a_gateway_that_stops_reading_costs_no_memory_and_gets_every_byte(
    pki: Pki, tmp_path: Path, kind: str
) -> None:
    """54 MB wait behind the door; it may grow by 2 MB (the engine here holds one block, and shares the process)."""
    block = random.Random(2).randbytes(1_000_000)
    count, written = 54, 0

    async def speaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readexactly(5)
        for _ in range(count):
            writer.write(block)
            await writer.drain()
            written += 1
        writer.close()

    async with house(pki, tmp_path, kind, speaks) as at, asyncio.timeout(40):
        tls = await asyncio.to_thread(at.call_blocking)
        before = resident_bytes()
        tls.sendall(b"start")
        last = -1
        while written != last:  # until nothing moves any more
            last = written
            await asyncio.sleep(0.5)
        assert written < count / 2, "the engine is held up"
        assert resident_bytes() - before < 2_000_000 + 1_500_000  # what the engine itself holds: 1 block and its tail
        digest = hashlib.sha256()

        await asyncio.to_thread(read_to_the_end, tls, digest.update)
        assert digest.digest() == hashlib.sha256(block * count).digest()
        tls.close()
    await asyncio.get_running_loop().shutdown_default_executor()


async def test_an_engine_that_stops_reading_holds_up_the_gateway(pki: Pki, tmp_path: Path, kind: str) -> None:
    release = asyncio.Event()
    sent = random.Random(3).randbytes(20_000_000)

    async def speaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        received = hashlib.sha256()
        while data := await reader.read(65536):
            received.update(data)
            if data.endswith(b"the end"):
                break
        writer.write(received.digest())
        writer.close()

    async with house(pki, tmp_path, kind, speaks) as at, asyncio.timeout(PATIENCE_S):
        tls = await asyncio.to_thread(at.call_blocking)
        done = 0

        def send_until_held_up() -> None:
            nonlocal done
            tls.settimeout(1)
            with contextlib.suppress(TimeoutError):
                while done < len(sent):
                    done += tls.send(sent[done : done + 16_384])

        def send_the_rest() -> bytes:
            tls.settimeout(PATIENCE_S)
            tls.sendall(sent[done:] + b"the end")
            return tls.recv(100)

        await asyncio.to_thread(send_until_held_up)
        assert 0 < done < len(sent)
        release.set()
        assert await asyncio.to_thread(send_the_rest) == hashlib.sha256(sent + b"the end").digest()
        tls.close()
    await asyncio.get_running_loop().shutdown_default_executor()


def test_a_reader_that_has_stopped_is_told_from_one_that_has_vanished() -> None:
    """The first acknowledges what it was sent, so its connection is not given up after TCP_USER_TIMEOUT."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        with socket.create_connection(listening.getsockname()) as client, listening.accept()[0] as served:
            keep_alive(served)
            assert served.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
            assert not stalled(served)
            served.setblocking(False)
            deadline = time.monotonic() + PATIENCE_S
            while not stalled(served):
                assert time.monotonic() < deadline
                with contextlib.suppress(BlockingIOError):
                    served.send(b"x" * 65536)
            client.settimeout(0.2)
            while stalled(served):
                assert time.monotonic() < deadline
                with contextlib.suppress(TimeoutError):
                    client.recv(1 << 20)


async def test_a_connection_is_patient_only_while_its_reader_has_stopped(pki: Pki, tmp_path: Path, kind: str) -> None:
    stop = asyncio.Event()

    async def speaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while not stop.is_set():
                writer.write(bytes(65536))
                await writer.drain()
        writer.close()

    async with house(pki, tmp_path, kind, speaks) as at, asyncio.timeout(PATIENCE_S):
        tls = await asyncio.to_thread(at.call_blocking)
        tls.sendall(b"start")
        await eventually(lambda: at.door.connections)
        [side] = at.door.connections
        assert side.transport is not None
        connection = side.transport.get_extra_info("socket")

        def timeout_ms() -> int:
            side.check()
            return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)

        await eventually(lambda: timeout_ms() == 600_000)
        stop.set()
        await asyncio.to_thread(read_to_the_end, tls)
        tls.close()
        await eventually(lambda: not at.door.connections)
    await asyncio.get_running_loop().shutdown_default_executor()


async def test_closing_the_door_cuts_every_connection(pki: Pki, tmp_path: Path, kind: str) -> None:
    async with house(pki, tmp_path, kind, echo) as at, asyncio.timeout(PATIENCE_S):
        calls = []
        for _ in range(5):
            reader, writer = await at.call()
            calls.append((reader, writer))
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
        await at.door.close()
        for reader, writer in calls:
            with contextlib.suppress(OSError):
                assert await reader.read() == b""
            writer.close()
        if kind == "reverse":
            assert not any(berth.dialling or berth.parked for berth in at.door.berths.values())
            return
        with pytest.raises(OSError, match=r"refused|Connect"):
            await at.call()


async def test_a_range_without_a_free_port_says_so(pki: Pki, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        door = Door(pki.door((port, port)), Address(path="/nowhere"), folder=str(pki.folder), note=print)
        with pytest.raises(
            DoorFailed, match=f"no port is free in the range {port}-{port} on 127.0.0.1: Address already"
        ):
            door.open()


async def test_a_door_without_its_certificate_says_so(pki: Pki, tmp_path: Path) -> None:
    door = Door(pki.door((1, 1)), Address(path="/nowhere"), folder=str(tmp_path), note=print)
    with pytest.raises(DoorFailed, match="cannot be used"):
        door.open()


async def test_a_real_job_is_reached_through_its_door_and_closes_it_at_its_end(pki: Pki, node: Any) -> None:
    run_dir = node.folder / "run"
    run_dir.mkdir(mode=0o700)
    for name in ("door.crt", "door.key", "ours.crt"):
        (run_dir / name).write_bytes((pki.folder / name).read_bytes())
    first = free_port()
    door = pki.door((first, min(first + 50, 65535)))._asdict()
    job = node.launch(node.engine("DribblingEngine"), door=door)
    address = job.until("READY")["address"]
    assert address["kind"] == "tls"
    assert first <= address["port"] <= first + 50
    async with asyncio.timeout(PATIENCE_S):
        calls = []
        for _ in range(2):
            reader, writer = await asyncio.open_connection(address["host"], address["port"], ssl=pki.client("gateway"))
            writer.write(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await reader.readexactly(15) == b"HTTP/1.1 200 OK"
            calls.append((reader, writer))
        calls[0][1].transport.abort()
        await asyncio.to_thread(node.eventually, (job.run_dir / "i-a" / "work" / "client-gone").exists)
        assert job.end() == 0
        with contextlib.suppress(OSError):
            while await calls[1][0].read(65536):
                pass
        calls[1][1].close()
    await asyncio.get_running_loop().shutdown_default_executor()


async def test_a_job_whose_door_cannot_open_ends_with_that_reason(pki: Pki, node: Any) -> None:
    job = node.launch(node.engine("NeverReadyEngine"), door=pki.door((1, 1))._asdict())
    assert job.wait() == 1
    assert job.exit()["reason"] == "DOOR_FAILED"
