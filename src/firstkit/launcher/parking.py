# SPDX-License-Identifier: Apache-2.0
"""The reverse door: dials out to every gateway over TLS and parks connections there, a few more than are in use."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import ssl
from typing import Any, Callable, Dict, Optional, Sequence, Set, cast

from .deadlines import within
from .documents import DoorSpec
from .door import HANDSHAKE_S, DoorFailed
from .exchange import Address, ExchangeFailed, parse_url
from .splice import LINGER_S, PATIENCE, GatewaySide, Passage, keep_alive

PROTOCOL = "first-park/1"
"""What a parked connection is called in the handshake (ALPN): from then on the gateway asks and the door answers."""
LEAST = 4
"""So many unused connections are kept at each gateway while nothing is in use; beyond that, half as many as are."""
MOST = 64
DIALS = 16
"""So many connections are dialled at a time."""
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
SETTLED_S = 2.0
"""A gateway that closes an unused connection sooner than this does not want it: the next dial waits longer."""
AGE_S = 900.0
"""An unused connection is replaced about so long after it was dialled: nothing on the way keeps one for ever."""


class ReverseDoor(Passage):
    """One instance's door where nothing comes in from outside: it goes out, to every gateway it is told of."""

    def __init__(
        self, spec: DoorSpec, engine: Address, *, folder: str, instance: str, note: Callable[[str], None]
    ) -> None:
        super().__init__(engine, note)
        self.peer = spec.peer
        self.berths: Dict[str, Berth] = {}
        self._spec = spec
        self._folder = folder
        self._instance = instance
        self._context: Optional[ssl.SSLContext] = None

    def open(self) -> None:
        """Begin to park; raise `DoorFailed` if the certificate cannot be used."""
        self._context = self._make_context()
        self.use(self._spec.gateways)
        self.check()

    def use(self, gateways: Sequence[str]) -> None:
        """Park at these gateways (host:port) and no others; what is in use at another one goes on to its end."""
        if self._context is None:
            return
        for name in [name for name in self.berths if name not in gateways]:
            self.berths.pop(name).leave()
            self.look()
        for name in gateways:
            if name not in self.berths:
                self.berths[name] = berth = Berth(self, name, self._context)
                berth.tend()

    def shut(self) -> None:
        """Withdraw what is parked, at once: whoever routes here sees that the engine is gone."""
        self._context = None
        for berth in self.berths.values():
            berth.leave()

    async def close(self) -> None:
        """Withdraw and cut everything; answers that the engine has already ended get a moment to leave."""
        dialling = [task for berth in self.berths.values() for task in berth.dialling]
        await super().close()
        if dialling:
            await asyncio.wait(dialling, timeout=LINGER_S)

    def check(self) -> None:
        """Look after the connections, and replace old ones that nobody has used."""
        super().check()
        for berth in self.berths.values():
            berth.refresh()

    @property
    def address(self) -> Dict[str, Any]:
        """Where gateways reach it, as the status tells it: they do not, it comes to them."""
        return {"kind": "parked"}

    def look(self) -> None:
        """Say which gateway cannot be reached, if one cannot."""
        self.trouble = next((berth.trouble for berth in self.berths.values() if berth.trouble is not None), None)

    def _make_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols([PROTOCOL])
        own = os.path.join(self._folder, self._instance)
        try:
            context.load_cert_chain(*(os.path.join(own, name) for name in (self._spec.cert, self._spec.key)))
            context.load_verify_locations(os.path.join(self._folder, self._spec.ca))
        except OSError as error:  # SSLError too
            raise DoorFailed(f"the door's certificate, key or authority cannot be used: {error}") from error
        return context


class Berth:
    """One gateway, the connections parked there, and the dialling of more."""

    def __init__(self, door: ReverseDoor, gateway: str, context: ssl.SSLContext) -> None:
        self.gateway = gateway
        self.parked: Set[ParkedSide] = set()
        self.used: Set[ParkedSide] = set()
        self.dialling: Set[asyncio.Task[None]] = set()
        self.trouble: Optional[str] = None
        self.door = door
        self._context = context
        self._failures = 0
        self._pause: Optional[asyncio.TimerHandle] = None
        self._left = False

    @property
    def wanted(self) -> int:
        """How many unused connections are to be there."""
        return min(MOST, max(LEAST, len(self.used) // 2))

    def tend(self) -> None:
        """Dial what is missing; after a failure one at a time, each after a longer pause."""
        if self._left or self._pause is not None:
            return
        missing = self.wanted - len(self.parked) - len(self.dialling)
        most = DIALS if self._failures == 0 else 1
        for _ in range(min(missing, most - len(self.dialling))):
            task = asyncio.get_running_loop().create_task(self._dial())
            self.dialling.add(task)
            task.add_done_callback(self._dialled)

    def refresh(self) -> None:
        """Give up one unused connection that is too old; another takes its place."""
        now = asyncio.get_running_loop().time()
        if any(now - side.parked_at > SETTLED_S for side in self.parked):
            self._reached()
        old = next((side for side in self.parked if side.expires_at <= now), None)
        if old is not None:
            self.parked.discard(old)
            old.abort()
        self.tend()

    def leave(self) -> None:
        """Park nothing here any more."""
        self._left = True
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        for task in self.dialling:
            task.cancel()
        for side in list(self.parked):
            side.abort()
        self.parked.clear()

    def arrived(self, side: ParkedSide) -> None:
        """Take in a connection whose handshake is over."""
        if self._left:
            side.abort()
        else:
            self.parked.add(side)

    def taken(self, side: ParkedSide) -> None:
        """Take in that the gateway has begun to use a connection."""
        self.parked.discard(side)
        self.used.add(side)
        self._reached()
        self.tend()

    def ended(self, side: ParkedSide) -> None:
        """Take in that a connection is closed; an unused one that was not there for long was not wanted."""
        unused = side in self.parked
        self.parked.discard(side)
        self.used.discard(side)
        if unused and asyncio.get_running_loop().time() - side.parked_at < SETTLED_S:
            self._failed("it closes what is parked there")
        else:
            self.tend()

    async def _dial(self) -> None:
        try:
            address, _ = parse_url(f"https://{self.gateway}")
            await within(HANDSHAKE_S, self._connect(address))
        except asyncio.TimeoutError:
            self._failed("no answer in time")
        except (OSError, EOFError, ExchangeFailed) as error:  # SSLError too
            self._failed(getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error) or "cut off")

    async def _connect(self, address: Address) -> None:
        await asyncio.get_running_loop().create_connection(
            lambda: ParkedSide(self),
            address.host,
            address.port,
            ssl=self._context,
            server_hostname=self.door.peer,
            **PATIENCE,
        )

    def _dialled(self, task: asyncio.Task[None]) -> None:
        self.dialling.discard(task)
        if not task.cancelled():
            self.tend()

    def _reached(self) -> None:
        self._failures = 0
        if self.trouble is not None:
            self.trouble = None
            self.door.look()
            self.door.note(f"door: reaches the gateway {self.gateway} again")

    def _failed(self, why: str) -> None:
        """Wait before the next dial: longer each time, and not as long as all the other doors do."""
        if self._left or self._pause is not None:
            return
        self._failures += 1
        longest_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._failures - 1, 10))
        pause_s = longest_s * (0.5 + random.random() / 2)  # noqa: S311  jitter
        self._pause = asyncio.get_running_loop().call_later(pause_s, self._resume)
        trouble = f"the gateway {self.gateway} cannot be reached: {why}"
        if trouble != self.trouble:
            self.trouble = trouble
            self.door.look()
            self.door.note(f"door: {trouble}")

    def _resume(self) -> None:
        self._pause = None
        self.tend()


class ParkedSide(GatewaySide):
    """A connection parked at a gateway: idle until the gateway uses it, and spliced to the engine from then on."""

    def __init__(self, berth: Berth) -> None:
        super().__init__(berth.door)
        self.expires_at = 0.0
        self._berth = berth
        self.parked_at = 0.0
        self._taken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        loop = asyncio.get_running_loop()
        self.transport = cast("asyncio.Transport", transport)
        self.parked_at = loop.time()
        self.expires_at = self.parked_at + AGE_S * (0.75 + random.random() / 2)  # noqa: S311  jitter
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(connection)
        self._berth.arrived(self)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._taken:
            self._taken = True
            self.enter()
            self._berth.taken(self)

    def connection_lost(self, exc: Optional[Exception]) -> None:
        super().connection_lost(exc)
        self._berth.ended(self)
