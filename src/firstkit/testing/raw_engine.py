# SPDX-License-Identifier: Apache-2.0
"""An engine that sends exactly the bytes a test gives it, and counts what becomes of its connections."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from firstkit.core.topology import Address, AddressKind

PATIENCE_S = 30.0
"""No step of a test takes longer; beyond it the test fails instead of hanging."""


class Visit:
    """One request at the engine, and the connection it came over."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes, body: bytes) -> None:
        self._reader = reader
        self._writer = writer
        self.head = head
        self.body = body
        self.gone = asyncio.Event()
        """The other side has closed the connection while this request was being answered."""

    @property
    def target(self) -> str:
        """The request's target."""
        return self.head.split(b" ", 2)[1].decode()

    @property
    def headers(self) -> dict[str, str]:
        """The request's headers, names in lower case; one given twice fails the test."""
        pairs = [line.split(b":", 1) for line in self.head.split(b"\r\n")[1:] if line]
        names = [name.decode().lower() for name, _ in pairs]
        if len(set(names)) != len(names):
            raise AssertionError(f"a header is given twice: {sorted(names)}")
        return {name: value.strip().decode("latin-1") for name, (_, value) in zip(names, pairs, strict=True)}

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        if self._writer.is_closing():
            return
        self._writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    def send_now(self, data: bytes) -> None:
        """Send bytes without waiting until they have gone."""
        if not self._writer.is_closing():
            self._writer.write(data)

    async def receive(self, count: int) -> bytes:
        """Read further bytes (of a tunnel)."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._reader.readexactly(count)

    async def close(self) -> None:
        """Close the connection in good order."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    def reset(self) -> None:
        """Break the connection."""
        transport = cast("asyncio.Transport", self._writer.transport)
        sock = cast("socket.socket", transport.get_extra_info("socket"))
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    async def wait_gone(self) -> None:
        """Wait until the other side has closed."""
        async with asyncio.timeout(PATIENCE_S):
            await self.gone.wait()

    async def watch(self) -> None:
        """Notice a closed connection while the script runs; bytes beyond the request are for `receive`."""
        while not self._reader.at_eof():
            if self._reader.exception() is not None:
                break
            await asyncio.sleep(0.002)
        self.gone.set()


Script = Callable[[Visit], Awaitable[None]]


def answer(body: bytes, *, status: str = "200 OK", content_type: str = "application/json", extra: bytes = b"") -> bytes:
    """Write a plain answer with a length."""
    head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n".encode()
    return head + extra + b"\r\n" + body


def chunked(*pieces: bytes, end: bool = True) -> bytes:
    """Frame pieces as chunks."""
    data = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return data + (b"0\r\n\r\n" if end else b"")


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def says(data: bytes) -> Script:
    """Make a script that sends these bytes and nothing else."""

    async def script(visit: Visit) -> None:
        await visit.send(data)

    return script


class RawEngine:
    """Runs `script` for every request, or the next one of `scripts` as long as there are any."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.script: Script = says(answer(b'{"usage":{"prompt_tokens":7,"completion_tokens":3}}'))
        self.scripts: list[Script] = []
        self.visits: list[Visit] = []
        self.connections = 0
        self.open = 0
        self.aborted = 0
        """Connections that the other side closed while a script was running."""
        self._arrived = asyncio.Event()
        self._failures: list[BaseException] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.AbstractServer | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def visit(self, number: int = 0) -> Visit:
        """Wait for a request by its number."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.visits) <= number:
                self._arrived.clear()
                await self._arrived.wait()
        return self.visits[number]

    async def start(self) -> None:
        """Listen."""
        if self.address.kind is AddressKind.UNIX:
            self._server = await asyncio.start_unix_server(self._serve, self.address.path)
        else:
            self._server = await asyncio.start_server(
                self._serve, self.address.host, self.address.port, reuse_address=True
            )

    async def stop(self) -> None:
        """Stop listening and break every connection: as if the process had been killed."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        if server is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await server.wait_closed()
        if self.address.kind is AddressKind.UNIX:
            _remove(self.address.path)

    def close_idle(self) -> None:
        """Close every connection in good order, as a server's keep-alive time-out does."""
        for writer in list(self._writers):
            writer.close()

    async def finish(self) -> None:
        """Stop, and raise what failed in a script."""
        await self.stop()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=1.0)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self._failures:
            raise self._failures[0]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        try:
            await self._requests(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except Exception as error:  # noqa: BLE001 told by `finish`, in the test's own task
            self._failures.append(error)
        finally:
            self.open -= 1
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as error:
                if error.partial:
                    raise
                return
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            body = await reader.readexactly(int(lengths[0].split(b":")[1])) if lengths else b""
            if b"transfer-encoding: chunked" in head.lower():
                body = await _read_chunked(reader)
            visit = Visit(reader, writer, head[:-2], body)
            script = self.scripts.pop(0) if self.scripts else self.script
            self.visits.append(visit)
            self._arrived.set()
            watching = asyncio.create_task(visit.watch())
            try:
                await script(visit)
                if visit.gone.is_set():
                    self.aborted += 1
            finally:
                watching.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watching
            if writer.is_closing():
                return


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)


async def _read_chunked(reader: asyncio.StreamReader) -> bytes:
    pieces: list[bytes] = []
    while True:
        size = int((await reader.readuntil(b"\r\n")).strip(), 16)
        piece = await reader.readexactly(size)
        await reader.readexactly(2)
        if not size:
            return b"".join(pieces)
        pieces.append(piece)


_NUMBERS = itertools.count()


@asynccontextmanager
async def raw_engine(folder: Path | None = None) -> AsyncGenerator[RawEngine]:
    """Run an engine on a Unix socket in the folder, or without one on a TCP port of this machine."""
    if folder is not None:
        address = Address(kind=AddressKind.UNIX, path=str(folder / f"e{next(_NUMBERS)}.sock"))
    else:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            address = Address(kind=AddressKind.TCP, host="127.0.0.1", port=probe.getsockname()[1])
    engine = RawEngine(address)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.finish()
