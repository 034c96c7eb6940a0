# SPDX-License-Identifier: Apache-2.0
"""A client whose host vanishes, with no FIN and no RST: the kernel's TCP_USER_TIMEOUT is what notices it."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from firstkit.core.request import Outcome
from firstkit.core.settings import GatewaySettings
from firstkit.testing.planes import MODEL, plane_world
from firstkit.testing.raw_client import request
from firstkit.testing.raw_engine import STREAM_HEAD, Visit, chunked, raw_engine

NOTICED_S = 60.0
"""How long the gateway may take; without TCP_USER_TIMEOUT Linux repeats unacknowledged data for about 15 minutes."""

GATEWAY, CLIENT = "192.0.2.1", "192.0.2.2"
"""Two addresses of TEST-NET-1 (RFC 5737), which only the two namespaces know."""

STREAM = {"model": MODEL, "messages": [], "stream": True}
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'

LISTENS = """
import socket, sys
listening = socket.create_server((sys.argv[1], 0))
socket.send_fds(socket.socket(fileno=0), [b"."], [listening.fileno()])
"""

READS = """
import os, socket, sys
gateway = socket.create_connection((sys.argv[1], int(sys.argv[2])))
gateway.sendall(sys.stdin.buffer.read())
while data := gateway.recv(65536):
    os.write(1, data)
"""


@dataclass(frozen=True)
class Cable:
    """A gateway's host and a client's: two network namespaces, and one cable between them that is their only way."""

    gateway: str
    client: str
    listener: socket.socket

    @asynccontextmanager
    async def reader(self, sent: bytes) -> AsyncGenerator[asyncio.subprocess.Process]:
        """Run a client on its host, which sends these bytes and writes to its stdout what comes back."""
        host, port = self.listener.getsockname()
        process = await asyncio.create_subprocess_exec(
            *inside(self.client, READS, host, str(port)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stdin is not None
            process.stdin.write(sent)
            process.stdin.close()
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def pull(self) -> None:
        """Take the cable out at the client's end: from now on nothing comes from there, not even that it has ended."""
        await anyio.run_process(["ip", "-n", self.client, "link", "set", "c0", "down"])


def inside(namespace: str, program: str, *arguments: str) -> list[str]:
    """Write the argv that runs a Python program in a network namespace."""
    return ["nsenter", f"--net=/run/netns/{namespace}", sys.executable, "-c", program, *arguments]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


def make_or_skip(*arguments: str) -> None:
    """Make what not every kernel and not every container lets even root make."""
    made = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True, timeout=30)
    if made.returncode != 0:
        pytest.skip(f"allowed: no network namespaces can be joined here: {made.stderr.strip()}")


def listening_in(namespace: str, host: str) -> socket.socket:
    """Have a socket bound inside a namespace by a program that runs there; a socket stays where it was made."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        subprocess.run(inside(namespace, LISTENS, host), stdin=theirs.fileno(), check=True, timeout=30)
        _, (listening,), _, _ = socket.recv_fds(ours, 1, 1)
    return socket.socket(fileno=listening)


@pytest.fixture
def cable() -> Iterator[Cable]:
    if os.geteuid() != 0:
        pytest.skip("allowed: only root can make network namespaces")
    if shutil.which("ip") is None:
        pytest.skip("there is no ip program (Debian: apt-get install iproute2)")
    gateway, client = (f"first-{os.getpid()}-{name}" for name in ("gateway", "client"))
    with ExitStack() as made:
        for namespace in (gateway, client):
            make_or_skip("netns", "add", namespace)
            made.callback(ip, "netns", "delete", namespace)
        make_or_skip("link", "add", "g0", "netns", gateway, "type", "veth", "peer", "name", "c0", "netns", client)
        for namespace, end, address in ((gateway, "g0", GATEWAY), (client, "c0", CLIENT)):
            ip("-n", namespace, "address", "add", f"{address}/24", "dev", end)
            ip("-n", namespace, "link", "set", end, "up")
        yield Cable(gateway, client, made.enter_context(listening_in(gateway, GATEWAY)))


async def streaming(visit: Visit) -> None:
    """Stream slowly: little enough that what nobody acknowledges stays in the kernel, and the client is not slow."""
    await visit.send(STREAM_HEAD)
    while not visit.gone.is_set():
        await visit.send(chunked(TOKEN, end=False))
        await asyncio.sleep(0.05)


@pytest.mark.anyio
@pytest.mark.timeout(180)
async def test_an_engine_is_let_go_when_the_host_of_its_client_vanishes(tmp_path: Path, cable: Cable) -> None:
    impatient = GatewaySettings(uploads=str(tmp_path), user_timeout_s=1.0)
    async with (
        raw_engine(tmp_path) as engine,
        plane_world(tmp_path, settings=impatient, listener=cable.listener, link="local") as world,
        cable.reader(request(STREAM)) as client,
    ):
        world.serve(engine)
        engine.script = streaming
        assert client.stdout is not None
        async with asyncio.timeout(NOTICED_S):
            await client.stdout.readuntil(TOKEN)
        assert len(world.plane.leases) == 1
        await cable.pull()
        visit = await engine.visit()
        async with asyncio.timeout(NOTICED_S):
            await visit.gone.wait()
        await world.until(lambda: not any(world.leftovers().values()))
        assert client.returncode is None  # it has not left: it still waits for more
        assert [record.outcome for record in world.records] == [Outcome.CLIENT_GONE]
