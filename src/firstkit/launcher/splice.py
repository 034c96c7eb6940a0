# SPDX-License-Identifier: Apache-2.0
"""What all doors have in common: bytes spliced both ways between a gateway's connection and the engine's.

Nothing is understood here. Passed on besides bytes: backpressure (either side's full buffer stops reading the
other), an end (either side's close is the other's), and an abort (a reset or a dead engine cuts at once).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from typing import Any, Callable, Dict, Optional, Sequence, Set, cast

from .deadlines import within
from .exchange import Address

ENGINE_S = 10.0
"""How long connecting to the engine may take."""
FULL_S = 0.002
"""How long until an engine whose queue of connections is full is asked again; llama.cpp's holds five."""
LINGER_S = 1.0
"""After the engine's end: how long answers that are already whole may take to leave."""
CHECK_S = 5.0
UNACKED_MS = 20_000
STALLED_MS = 600_000
PATIENCE: Dict[str, Any] = {"ssl_shutdown_timeout": STALLED_MS / 1000} if sys.version_info >= (3, 11) else {}
"""asyncio would cut a close after 30 s, with bytes that a slow gateway has yet to read; before 3.11 it does not."""


class Passage:
    """One instance's way in: the connections that gateways use, and the engine behind them."""

    def __init__(self, engine: Address, note: Callable[[str], None]) -> None:
        self.engine = engine
        self.note = note
        self.connections: Set[GatewaySide] = set()
        """Those through which bytes pass."""
        self.trouble: Optional[str] = None
        """What keeps gateways from getting through, if something does."""
        self._dialling: Set[asyncio.Task[None]] = set()
        self._checking: Optional[asyncio.TimerHandle] = None

    def check(self) -> None:
        """Look after the connections; from the first call on, every few seconds."""
        for connection in self.connections:
            connection.check()
        self._checking = asyncio.get_running_loop().call_later(CHECK_S, self.check)

    def use(self, gateways: Sequence[str]) -> None:
        """Learn which gateways (host:port) there are; for a door that goes out to them."""

    def shut(self) -> None:
        """Let nobody in any more, at once: whoever routes here sees that the engine is gone."""

    async def close(self) -> None:
        """Shut, and cut every connection; answers that the engine has already ended get a moment to leave."""
        self.shut()
        loop = asyncio.get_running_loop()
        if self._checking is not None:
            self._checking.cancel()
        tasks = list(self._dialling)
        for task in tasks:
            task.cancel()
        deadline = loop.time() + LINGER_S
        while self.connections and loop.time() < deadline:  # noqa: ASYNC110  once, for a second at most
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.abort()
        if tasks:
            await asyncio.wait(tasks, timeout=LINGER_S)

    def dial(self, side: GatewaySide) -> None:
        """Connect a gateway's connection to the engine."""
        task = asyncio.get_running_loop().create_task(self._dial(side))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)

    async def _dial(self, side: GatewaySide) -> None:
        try:
            await within(ENGINE_S, self._connect(lambda: EngineSide(side)))
        except (OSError, asyncio.TimeoutError):
            side.abort()

    async def _connect(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Connect to the engine; again and again where its queue is full, which asyncio would take for success."""
        loop, pause_s = asyncio.get_running_loop(), FULL_S
        if self.engine.path is None:
            await loop.create_connection(protocol, self.engine.host, self.engine.port)
            return
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.setblocking(False)
                connection.connect(self.engine.path)
                await loop.create_unix_connection(protocol, sock=connection)
            except BlockingIOError:
                connection.close()
                await asyncio.sleep(pause_s)
                pause_s = min(0.05, pause_s * 2)
            except BaseException:
                connection.close()
                raise
            else:
                return


def keep_alive(connection: Any) -> None:
    """Notice a gateway that vanished without a word: 20 s of unacknowledged bytes, or of silence when idle."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 4)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKED_MS)


def cut(transport: asyncio.BaseTransport) -> None:
    """End a connection with a reset: the gateway must not take an end of file for the end of an answer."""
    with contextlib.suppress(OSError):
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    cast("asyncio.Transport", transport).abort()


def stalled(connection: Any) -> bool:
    """Tell whether the peer has acknowledged everything it was sent and lets no more come (a closed window).

    Read from struct tcp_info: tcpi_unacked at byte 24, tcpi_notsent_bytes at byte 144 (Linux 4.6 and later).
    """
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 148)
    if len(info) < 148:
        return False
    return struct.unpack_from("=I", info, 24)[0] == 0 and struct.unpack_from("=I", info, 144)[0] > 0


class GatewaySide(asyncio.Protocol):
    """A gateway's connection, once its handshake is over."""

    def __init__(self, passage: Passage) -> None:
        self.transport: Optional[asyncio.Transport] = None
        self.engine: Optional[asyncio.Transport] = None
        self.ended = False
        self._passage = passage
        self._patient = False
        self._early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.enter()

    def enter(self) -> None:
        """Have the engine dialled; nothing more is read until it has accepted."""
        if self.transport is not None:
            self.transport.pause_reading()
            self._passage.connections.add(self)
            self._passage.dial(self)

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
        self._passage.connections.discard(self)
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
        """Cut now, on both sides."""
        if self.transport is not None:
            cut(self.transport)

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
