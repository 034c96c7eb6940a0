# SPDX-License-Identifier: Apache-2.0
"""One HTTP/1.1 exchange with a deadline and a bounded answer, over TCP, TLS or a Unix socket; never by a proxy."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple
from urllib.parse import urlsplit

from .deadlines import within

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 1024 * 1024


class ExchangeFailed(Exception):
    """There was no answer, or none that is HTTP; the message says which."""


class Identity(NamedTuple):
    """How both ends of TLS prove who they are, where they are parts of one installation; all files are PEM."""

    ca_file: str
    cert_file: str
    key_file: str
    peer: str


class Address(NamedTuple):
    """Where to connect: a Unix path, or host and port, with TLS by a CA file or the system's authorities if asked."""

    path: Optional[str] = None
    host: str = ""
    port: int = 0
    tls: bool = False
    ca_file: Optional[str] = None
    identity: Optional[Identity] = None


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: bytes


def parse_url(url: str, ca_file: Optional[str] = None) -> Tuple[Address, str]:
    """Split `http://`, `https://` or `unix:/path` into where to connect and what to put before every request's path."""
    if url.startswith("unix:"):
        return Address(path=url[len("unix:") :]), ""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError as error:
        raise ExchangeFailed(f"{url[:200]} has no valid port") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ExchangeFailed(f"{url[:200]} is no http://, https:// or unix: address")
    tls = parts.scheme == "https"
    return Address(host=parts.hostname, port=port or (443 if tls else 80), tls=tls, ca_file=ca_file), parts.path.rstrip(
        "/"
    )


async def exchange(
    address: Address,
    method: str,
    target: str,
    *,
    headers: Optional[Mapping[str, str]] = None,
    body: bytes = b"",
    connect_s: float = 5.0,
    deadline_s: float,
) -> Answer:
    """Send one request on a connection of its own and read the answer; raise `ExchangeFailed` within the deadline.

    Cancelling it drops the connection at once.
    """
    connected: List[asyncio.StreamWriter] = []
    try:
        reader = await within(min(connect_s, deadline_s), _connect(address, connected))
        connected[0].write(_request(address, method, target, headers or {}, body))
        return await within(deadline_s, _answer(reader))
    except asyncio.TimeoutError as error:
        raise ExchangeFailed("no answer in time" if connected else "no connection in time") from error
    except (EOFError, ValueError, asyncio.LimitOverrunError) as error:
        raise ExchangeFailed("the answer broke off or is not HTTP") from error
    except OSError as error:  # SSLError too
        raise ExchangeFailed(error.strerror or type(error).__name__) from error
    finally:
        for writer in connected:
            writer.transport.abort()


async def _connect(address: Address, connected: List[asyncio.StreamWriter]) -> asyncio.StreamReader:
    """Connect; the writer goes into a list at once, so that a cancellation cannot lose it."""
    if address.path is not None:
        reader, writer = await asyncio.open_unix_connection(address.path, limit=MAX_HEAD_BYTES)
        connected.append(writer)
        return reader
    context: Any = None
    identity = address.identity
    if address.tls:
        import ssl  # noqa: PLC0415  only few launchers need it

        context = ssl.create_default_context(cafile=address.ca_file if identity is None else identity.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        if identity is not None:
            context.load_cert_chain(identity.cert_file, identity.key_file)
    reader, writer = await asyncio.open_connection(
        address.host,
        address.port,
        ssl=context,
        server_hostname=None if identity is None else identity.peer,
        limit=MAX_HEAD_BYTES,
    )
    connected.append(writer)
    return reader


def _request(address: Address, method: str, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
    host = "localhost" if address.path is not None else address.host
    if ":" in host:
        host = f"[{host}]"
    if address.port and address.port != (443 if address.tls else 80):
        host = f"{host}:{address.port}"
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close", "Accept: */*"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body or method in ("PUT", "POST"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


async def _answer(reader: asyncio.StreamReader) -> Answer:
    status = 100
    head: Mapping[str, str] = {}
    while status < 200:
        status, head = _parse_head(await reader.readuntil(b"\r\n\r\n"))
    if status in (204, 304):
        return Answer(status, b"")
    if "chunked" in head.get("transfer-encoding", "").lower():
        return Answer(status, await _chunked(reader))
    if "content-length" in head:
        length = int(head["content-length"])
        if not 0 <= length <= MAX_BODY_BYTES:
            raise ValueError("too long")
        return Answer(status, await reader.readexactly(length))
    body = b""
    while chunk := await reader.read(65536):
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise ValueError("too long")
    return Answer(status, body)


def _parse_head(head: bytes) -> Tuple[int, Mapping[str, str]]:
    lines = head.decode("latin-1").split("\r\n")
    version, _, rest = lines[0].partition(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError("not HTTP")
    fields: Dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            fields[name.strip().lower()] = value.strip()
    return int(rest[:3]), fields


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        if size < 0 or len(body) + size > MAX_BODY_BYTES:
            raise ValueError("too long")
        if size == 0:
            with contextlib.suppress(EOFError):
                await reader.readuntil(b"\r\n")
            return body
        body += await reader.readexactly(size)
        await reader.readexactly(2)
