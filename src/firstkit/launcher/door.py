# SPDX-License-Identifier: Apache-2.0
"""The direct door: TLS for the gateway alone, and bytes spliced both ways between it and the engine's socket.

Nothing is understood here. Passed on besides bytes: backpressure (either side's full buffer stops reading the
other), an end (either side's close is the other's), and an abort (a reset or a dead engine cuts at once).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import ssl
import struct
import sys
from typing import Any, Callable, Dict, Optional, Set, cast

from .deadlines import within
from .documents import DoorSpec
from .exchange import Address

MAX_CONNECTIONS = 4096
MAX_HANDSHAKES = 256
HANDSHAKE_S = 10.0
LISTEN_BACKLOG = 512
LINGER_S = 1.0
"""After the engine's end: how long answers that are already whole may take to leave."""
CHECK_S = 5.0
UNACKED_MS = 20_000
STALLED_MS = 600_000
_PATIENCE: Dict[str, Any] = {"ssl_shutdown_timeout": STALLED_MS / 1000} if sys.version_info >= (3, 11) else {}
"""asyncio would cut a close after 30 s, with bytes that a slow gateway has yet to read; before 3.11 it does not."""


class DoorFailed(Exception):
    """The door cannot be opened; the message says why."""


class Door:
    """One instance's door: a listening port, the connections through it, and how it is closed."""

    def __init__(self, spec: DoorSpec, engine: Address, *, folder: str, note: Callable[[str], None]) -> None:
        self.port = 0
        self.engine = engine
        self.peer = spec.peer
        self.connections: Set[GatewaySide] = set()
        self._spec = spec
        self._folder = folder
        self._note = note
        self._socket: Optional[socket.socket] = None
        self._context: Optional[ssl.SSLContext] = None
        self._handshakes: Dict[asyncio.Task[None], None] = {}
        self._dialling: Set[asyncio.Task[None]] = set()
        self._checking: Optional[asyncio.TimerHandle] = None
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
        self._check()

    async def close(self) -> None:
        """Close the port and every connection; answers that the engine has already ended get a moment to leave."""
        loop = asyncio.get_running_loop()
        if self._socket is not None:
            loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        if self._checking is not None:
            self._checking.cancel()
        tasks = [*self._handshakes, *self._dialling]
        for task in tasks:
            task.cancel()
        deadline = loop.time() + LINGER_S
        while self.connections and loop.time() < deadline:  # noqa: ASYNC110  once, for a second at most
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.abort()
        if tasks:
            await asyncio.wait(tasks, timeout=LINGER_S)

    def admits(self, certificate: Any) -> bool:
        """Tell whether a verified certificate is the gateway's: one of its DNS names must be the peer's, exactly."""
        names = certificate.get("subjectAltName", ()) if certificate else ()
        return bool(self.peer) and ("DNS", self.peer) in names

    def dial(self, side: GatewaySide) -> None:
        """Connect a gateway's connection to the engine."""
        task = asyncio.get_running_loop().create_task(self._dial(side))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)

    def refuse(self, why: str) -> None:
        """Note that somebody was turned away; ever more rarely, so that no stranger fills the log."""
        self._refused += 1
        if self._refused & (self._refused - 1) == 0:
            self._note(f"door: turned away, {self._refused} so far, the last: {why}")

    async def _dial(self, side: GatewaySide) -> None:
        loop = asyncio.get_running_loop()

        def protocol() -> EngineSide:
            return EngineSide(side)

        try:
            if self.engine.path is not None:
                await within(HANDSHAKE_S, loop.create_unix_connection(protocol, self.engine.path))
            else:
                await within(HANDSHAKE_S, loop.create_connection(protocol, self.engine.host, self.engine.port))
        except (OSError, asyncio.TimeoutError):
            side.abort()

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
                lambda: GatewaySide(self), connection, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_S, **_PATIENCE
            )
        except (OSError, EOFError, asyncio.TimeoutError) as error:
            self.refuse(getattr(error, "reason", None) or type(error).__name__)
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise

    def _check(self) -> None:
        for connection in self.connections:
            connection.check()
        self._checking = asyncio.get_running_loop().call_later(CHECK_S, self._check)


def keep_alive(connection: Any) -> None:
    """Notice a gateway that vanished without a word: 20 s of unacknowledged bytes, or of silence when idle."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 4)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKED_MS)


def stalled(connection: Any) -> bool:
    """Tell whether the peer has acknowledged everything it was sent and lets no more come (a closed window).

    Read from struct tcp_info: tcpi_unacked at byte 24, tcpi_notsent_bytes at byte 144 (Linux 4.6 and later).
    """
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 148)
    if len(info) < 148:
        return False
    return struct.unpack_from("=I", info, 24)[0] == 0 and struct.unpack_from("=I", info, 144)[0] > 0


def _descriptor_limit() -> int:
    import resource  # noqa: PLC0415  only for a door

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class GatewaySide(asyncio.Protocol):
    """The gateway's connection, once its handshake is over."""

    def __init__(self, door: Door) -> None:
        self.transport: Optional[asyncio.Transport] = None
        self.engine: Optional[asyncio.Transport] = None
        self.ended = False
        self._door = door
        self._patient = False
        self._early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if not self._door.admits(transport.get_extra_info("peercert")):
            self._door.refuse("a certificate of this installation, but not the gateway's")
            self.abort()
            return
        self.transport.pause_reading()
        self._door.connections.add(self)
        self._door.dial(self)

    def joined(self, engine: asyncio.Transport) -> None:
        """Begin to splice: the engine has accepted."""
        if self.transport is None or self.ended:
            engine.abort()
            return
        self.engine = engine
        if self._early:
            engine.write(self._early)
            self._early = b""
        self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self.engine is not None:
            self.engine.write(data)
        else:  # Python 3.9 and 3.10 deliver what came along with the handshake although reading is paused
            self._early += data

    def eof_received(self) -> None:
        """Let asyncio close this side, and with it the engine's: the gateway has gone."""

    def pause_writing(self) -> None:
        if self.engine is not None:
            self.engine.pause_reading()

    def resume_writing(self) -> None:
        if self.engine is not None and not self.engine.is_closing():
            self.engine.resume_reading()

    def connection_lost(self, exc: Optional[Exception]) -> None:  # noqa: ARG002  asyncio's signature
        """Have the engine stop working for it at once, whatever ended it."""
        self.ended = True
        self._door.connections.discard(self)
        self.transport = None
        if self.engine is not None:
            self.engine.abort()
            self.engine = None

    def finish(self, exc: Optional[Exception]) -> None:
        """Follow the end of the engine's side: let what it wrote leave, or cut if it broke off."""
        self.engine = None
        if self.transport is None:
            return
        if exc is None:
            self.transport.close()
        else:
            self.abort()

    def abort(self) -> None:
        """Cut now, on both sides, with a reset: the gateway must not take an end of file for the end of an answer."""
        if self.transport is not None:
            with contextlib.suppress(OSError):
                connection = self.transport.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()

    def check(self) -> None:
        """Be patient with a gateway that has stopped reading, but not with one that has vanished.

        TCP_USER_TIMEOUT counts the time for which a window stays closed as well (seen: a reader that stops is cut after
        it, though it acknowledges every probe), and a gateway whose client has stopped reading closes its window.
        """
        connection = None if self.transport is None else self.transport.get_extra_info("socket")
        if connection is None:
            return
        with contextlib.suppress(OSError):
            patient = stalled(connection)
            if patient != self._patient:
                self._patient = patient
                timeout_ms = STALLED_MS if patient else UNACKED_MS
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)


class EngineSide(asyncio.Protocol):
    """The connection to the engine that belongs to one of the gateway's."""

    def __init__(self, gateway: GatewaySide) -> None:
        self._gateway = gateway
        self._transport: Optional[asyncio.Transport] = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._gateway.joined(self._transport)

    def data_received(self, data: bytes) -> None:
        gateway = self._gateway.transport
        if gateway is not None:
            gateway.write(data)

    def eof_received(self) -> None:
        """Let asyncio close this side: the engine has said all it will, and the gateway's side follows."""

    def pause_writing(self) -> None:
        gateway = self._gateway.transport
        if gateway is not None:
            gateway.pause_reading()

    def resume_writing(self) -> None:
        gateway = self._gateway.transport
        if gateway is not None and not gateway.is_closing():
            gateway.resume_reading()

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self._gateway.finish(exc)
