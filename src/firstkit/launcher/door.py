# SPDX-License-Identifier: Apache-2.0
"""The direct door: a port of the cluster's range, TLS, and the gateway's certificate alone is let in."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import ssl
from typing import Any, Callable, Dict, Optional

from .documents import DoorSpec
from .exchange import Address
from .splice import LINGER_S, PATIENCE, GatewaySide, Passage, cut, keep_alive

MAX_CONNECTIONS = 4096
MAX_HANDSHAKES = 256
HANDSHAKE_S = 10.0
LISTEN_BACKLOG = 512


class DoorFailed(Exception):
    """The door cannot be opened; the message says why."""


class Door(Passage):
    """One instance's door: a listening port, the connections through it, and how it is closed."""

    def __init__(self, spec: DoorSpec, engine: Address, *, folder: str, note: Callable[[str], None]) -> None:
        super().__init__(engine, note)
        self.port = 0
        self.peer = spec.peer
        self._spec = spec
        self._folder = folder
        self._socket: Optional[socket.socket] = None
        self._context: Optional[ssl.SSLContext] = None
        self._handshakes: Dict[asyncio.Task[None], None] = {}
        self._refused = 0
        self._limit = MAX_CONNECTIONS

    @property
    def host(self) -> str:
        """The address under which the door is reached."""
        return self._spec.host or socket.gethostname()

    def open(self) -> None:
        """Listen on a free port of the range, tried in random order; raise `DoorFailed` if there is none."""
        self._context = self._make_context()
        self._socket = self._listen()
        self._limit = min(MAX_CONNECTIONS, max(16, (_descriptor_limit() - 128) // 2))
        asyncio.get_running_loop().add_reader(self._socket, self._accept)
        self.check()

    def shut(self) -> None:
        """Close the port."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        for task in self._handshakes:
            task.cancel()

    async def close(self) -> None:
        """Close the port and every connection; answers that the engine has already ended get a moment to leave."""
        handshakes = list(self._handshakes)
        await super().close()
        if handshakes:
            await asyncio.wait(handshakes, timeout=LINGER_S)

    @property
    def address(self) -> Dict[str, Any]:
        """Where gateways reach it, as the status tells it."""
        return {"kind": "tls", "host": self.host, "port": self.port}

    def admits(self, certificate: Any) -> bool:
        """Tell whether a verified certificate is the gateway's: one of its DNS names must be the peer's, exactly."""
        names = certificate.get("subjectAltName", ()) if certificate else ()
        return bool(self.peer) and ("DNS", self.peer) in names

    def refuse(self, why: str) -> None:
        """Note that somebody was turned away; ever more rarely, so that no stranger fills the log."""
        self._refused += 1
        if self._refused & (self._refused - 1) == 0:
            self.note(f"door: turned away, {self._refused} so far, the last: {why}")

    def _make_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
        context.num_tickets = 0  # connections live long: nothing is gained by resuming one without its certificate
        try:
            context.load_cert_chain(*(os.path.join(self._folder, name) for name in (self._spec.cert, self._spec.key)))
            context.load_verify_locations(os.path.join(self._folder, self._spec.ca))
        except OSError as error:  # SSLError too
            raise DoorFailed(f"the door's certificate, key or authority cannot be used: {error}") from error
        return context

    def _listen(self) -> socket.socket:
        first, last = self._spec.ports
        try:
            family, _, _, _, bound = socket.getaddrinfo(
                self._spec.host or None, first, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
        except OSError as error:
            raise DoorFailed(f"the door's host {self._spec.host!r} is not known here: {error.strerror}") from error
        failure = "nothing tried"
        for port in random.sample(range(first, last + 1), last - first + 1):
            listening = socket.socket(family, socket.SOCK_STREAM)
            try:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listening.bind((bound[0], port, *bound[2:]))
                listening.listen(LISTEN_BACKLOG)
                listening.setblocking(False)
            except OSError as error:
                listening.close()
                failure = error.strerror or "refused"
                continue
            self.port = port
            return listening
        raise DoorFailed(f"no port is free in the range {first}-{last} on {self.host}: {failure}")

    def _accept(self) -> None:
        """Take what waits on the port. A stranger who only holds handshakes open pushes out the oldest of them."""
        for _ in range(64):
            if self._socket is None:
                return
            try:
                connection, _address = self._socket.accept()
            except OSError as error:
                if not isinstance(error, BlockingIOError):
                    self.refuse(error.strerror or "accept failed")
                return
            if len(self.connections) + len(self._handshakes) >= self._limit:
                connection.close()
                self.refuse("too many connections")
                continue
            if len(self._handshakes) >= MAX_HANDSHAKES:
                next(iter(self._handshakes)).cancel()
                self.refuse("too many handshakes under way")
            task = asyncio.get_running_loop().create_task(self._shake_hands(connection))
            self._handshakes[task] = None
            task.add_done_callback(self._shaken)

    def _shaken(self, task: asyncio.Task[None]) -> None:
        self._handshakes.pop(task, None)

    async def _shake_hands(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(connection)
            await loop.connect_accepted_socket(
                lambda: Visitor(self), connection, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_S, **PATIENCE
            )
        except (OSError, EOFError, asyncio.TimeoutError) as error:
            self.refuse(getattr(error, "reason", None) or type(error).__name__)
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise


class Visitor(GatewaySide):
    """A connection that has been made to the door; only a gateway gets further than that."""

    def __init__(self, door: Door) -> None:
        super().__init__(door)
        self._door = door

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._door.admits(transport.get_extra_info("peercert")):
            super().connection_made(transport)
        else:
            self._door.refuse("a certificate of this installation, but not the gateway's")
            cut(transport)


def _descriptor_limit() -> int:
    import resource  # noqa: PLC0415  only for a door

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
