# SPDX-License-Identifier: Apache-2.0
"""Where load is sent, and the bytes of a request to it."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")
P = TypeVar("P", bound=asyncio.Protocol)
CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One listener of a contender, or of the imitated engine itself, and the processes whose cost is counted."""

    roots: tuple[int, ...]
    port: int = 0
    unix: str = ""
    tls: bool = False
    key: str = "sk-bench"
    model: str = "mock-model"
    gateway: int = 0
    owes: Callable[[], float] | None = None
    """How much of what it has to do about requests that are over is still to be done; it is waited for and counted."""

    def catch_up(self, *, deadline_s: float = 60) -> None:
        """Wait until it has done all that it puts off, so that no cost falls out of a measurement, or into the next."""
        end = time.monotonic() + deadline_s
        while self.owes is not None and self.owes() > 0 and time.monotonic() < end:
            time.sleep(0.5)

    @property
    def url(self) -> str:
        """Give the base URL, for a client that speaks TCP."""
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    def head(self, length: int, *, path: str = CHAT) -> bytes:
        """Write the head of a POST whose body has `length` bytes."""
        return (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port or 80}\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Type: application/json\r\nAccept: */*\r\nContent-Length: {length}\r\n\r\n"
        ).encode()

    def request(self, body: bytes) -> bytes:
        """Write a whole request."""
        return self.head(len(body)) + body

    async def connect(self, make: Callable[[], P]) -> P:
        """Open a connection and give its protocol."""
        loop = asyncio.get_running_loop()
        if self.unix:
            return (await loop.create_unix_connection(make, self.unix))[1]
        context = client_tls() if self.tls else None
        return (await loop.create_connection(make, "127.0.0.1", self.port, ssl=context))[1]


def client_tls() -> ssl.SSLContext:
    """Make a client's TLS context that takes any certificate: the peer is ours and on loopback."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def get(url: str) -> dict[str, Any]:
    """GET a JSON document from loopback, past any proxy of the environment."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=5) as answer:
        return json.loads(answer.read())


def completes(target: Target) -> bool:
    """Tell whether a chat completion through the target succeeds."""
    body = json.dumps({"model": target.model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1})
    try:
        with _dial(target) as connection:
            connection.sendall(target.request(body.encode()))
            answer = HTTPResponse(connection, method="POST")
            answer.begin()
            return answer.status == 200 and "choices" in json.loads(answer.read())
    except (OSError, HTTPException, ValueError):
        return False


def _dial(target: Target) -> socket.socket:
    if target.unix:
        plain = socket.socket(socket.AF_UNIX)
        plain.settimeout(10)
        plain.connect(target.unix)
        return plain
    plain = socket.create_connection(("127.0.0.1", target.port), timeout=10)
    return client_tls().wrap_socket(plain) if target.tls else plain


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
