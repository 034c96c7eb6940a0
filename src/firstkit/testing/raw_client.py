# SPDX-License-Identifier: Apache-2.0
"""A client that sends exactly the bytes a test gives it and reads answers with a parser that is not ours (h11)."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import h11

PATIENCE_S = 30.0


@dataclass(slots=True)
class Answer:
    """One answer as a client sees it. `whole` is False when the connection ended before the answer's framing did."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    whole: bool = False
    interim: list[int] = field(default_factory=list[int])

    def json(self) -> Any:
        """Decode the body."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The stable code of an error answer."""
        return cast("str", self.json()["error"]["code"])


class RawClient:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(data)
        await self._writer.drain()

    async def read(self) -> bytes:
        """Read what is there; b"" at the connection's end."""
        async with asyncio.timeout(PATIENCE_S):
            if self._buffer:
                data, self._buffer = self._buffer, b""
                return data
            try:
                return await self._reader.read(65536)
            except ConnectionError:
                return b""

    async def read_raw_all(self) -> bytes:
        """Read until the connection ends in good order; a broken one raises."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._reader.read()

    async def read_until(self, marker: bytes) -> bytes:
        """Read until the bytes have come; what came after them is kept for the next read."""
        data = b""
        while marker not in data:
            more = await self.read()
            if not more:
                raise AssertionError(f"the connection ended before {marker!r}; it said {data[-2000:]!r}")
            data += more
        end = data.index(marker) + len(marker)
        self._buffer = data[end:] + self._buffer
        return data[:end]

    def unread(self, data: bytes) -> None:
        """Put bytes back, to be read again."""
        self._buffer = data + self._buffer

    async def read_all(self) -> bytes:
        """Read until the connection ends."""
        data = b""
        while more := await self.read():
            data += more
        return data

    async def answer(self, *, method: str = "POST") -> Answer:
        """Read one answer, judged by h11."""
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        parser.send(h11.EndOfMessage())
        answer = Answer()
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                data = await self.read()
                try:
                    parser.receive_data(data)
                    if not data:
                        event = parser.next_event()
                        if not isinstance(event, h11.EndOfMessage):
                            return answer
                        answer.whole = True
                        return answer
                except h11.RemoteProtocolError:
                    return answer
            elif isinstance(event, h11.InformationalResponse):
                answer.interim.append(event.status_code)
            elif isinstance(event, h11.Response):
                answer.status = event.status_code
                for name, value in event.headers:
                    key = name.decode()
                    if key in answer.headers and key != "vary":
                        raise AssertionError(f"the header {key} came twice")
                    answer.headers[key] = value.decode("latin-1")
            elif isinstance(event, h11.Data):
                answer.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                answer.whole = True
                rest, _ = parser.trailing_data
                self._buffer = rest + self._buffer
                return answer
            else:
                return answer

    async def closed(self) -> bool:
        """Tell whether the other side closes the connection without another byte."""
        return await self.read() == b""

    def half_close(self) -> None:
        """Send no more, but go on reading."""
        self._writer.write_eof()

    def reset(self) -> None:
        """Break the connection."""
        transport = cast("asyncio.Transport", self._writer.transport)
        sock = cast("socket.socket", transport.get_extra_info("socket"))
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    async def close(self) -> None:
        """Close the connection in good order."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except (ConnectionError, ssl.SSLError):
            return

    def serial(self) -> str:
        """Return the serial number of the server's certificate."""
        certificate = self._writer.get_extra_info("ssl_object").getpeercert()
        return cast("str", certificate["serialNumber"])

    def stop_reading(self) -> None:
        """Read no more, not even into a buffer."""
        cast("asyncio.Transport", self._writer.transport).pause_reading()

    def start_reading(self) -> None:
        """Read again."""
        cast("asyncio.Transport", self._writer.transport).resume_reading()


@asynccontextmanager
async def raw_client(
    where: str | tuple[str, int], *, tls: ssl.SSLContext | None = None, limit: int = 1 << 22
) -> AsyncGenerator[RawClient]:
    """Connect to a host and port, or a Unix socket."""
    if isinstance(where, str):
        reader, writer = await asyncio.open_unix_connection(where, limit=limit)
    else:
        reader, writer = await asyncio.open_connection(
            *where, ssl=tls, server_hostname="localhost" if tls else None, limit=limit
        )
    client = RawClient(reader, writer)
    try:
        yield client
    finally:
        await client.close()


def request(
    body: bytes | dict[str, Any],
    *,
    path: str = "/v1/chat/completions",
    method: str = "POST",
    key: str | None = "secret-key",
    headers: dict[str, str] | None = None,
) -> bytes:
    """Write a request with a length."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    lines = [f"{method} {path} HTTP/1.1", "host: gateway"]
    if key is not None:
        lines.append(f"authorization: Bearer {key}")
    if data or method in {"POST", "PUT", "PATCH"}:
        lines.append(f"content-length: {len(data)}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + data
