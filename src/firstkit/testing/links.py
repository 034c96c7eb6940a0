# SPDX-License-Identifier: Apache-2.0
"""Real doors of the launcher before engines that tests control, so that what holds over one link is tried over each."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from firstkit.adapters.links.authority import GATEWAY, Authority
from firstkit.core.ids import park_name
from firstkit.core.topology import Address, AddressKind
from firstkit.dataplane import PARK, REPORT, Plane
from firstkit.launcher.documents import DoorSpec
from firstkit.launcher.door import Door, DoorFailed
from firstkit.launcher.exchange import Address as EngineAddress
from firstkit.launcher.parking import ReverseDoor

DOOR = "j-1.door.firstkit"
TRIES = 20


class Doorway:
    """Puts doors of one kind before engines, with the certificates of an installation made for the purpose."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.notes: list[str] = []
        self.doors: dict[str, Door | ReverseDoor] = {}
        self.authority = Authority(folder / "ca")
        self.gateways: list[str] = []
        self._folder = folder
        self._shut: list[Door | ReverseDoor] = []
        _put(folder / "ca.crt", self.authority.certificate)

    def client_tls(self) -> ssl.SSLContext:
        """Make the gateway's context for doors that it dials."""
        return self.authority.gateway_context()

    async def arrive(self, plane: Plane, listener: socket.socket) -> None:
        """Have doors that dial arrive at a plane."""
        await plane.listen_for_doors(listener, self.authority.doors_context([PARK, REPORT]))
        self.gateways = [f"127.0.0.1:{listener.getsockname()[1]}"]

    def before(self, engine: Address, instance: str) -> Address:
        """Open a door before an engine, once; return how its instance is reached from then on."""
        if instance not in self.doors:
            inner = EngineAddress(path=engine.path or None, host=engine.host, port=engine.port)
            self.doors[instance] = self._reverse(inner, instance) if self.kind == "reverse" else self._direct(inner)
        door = self.doors[instance]
        if isinstance(door, ReverseDoor):
            return Address(kind=AddressKind.PARKED)
        return Address(kind=AddressKind.TLS, host="127.0.0.1", port=door.port, server_name=DOOR, mutual=True)

    def ended(self, instance: str) -> None:
        """Do as the launcher does when an engine's process has ended."""
        door = self.doors.pop(instance)
        door.shut()
        self._shut.append(door)

    async def close(self) -> None:
        """Close every door."""
        for door in [*self.doors.values(), *self._shut]:
            await door.close()

    def _direct(self, engine: EngineAddress) -> Door:
        self._certify(self._folder, DOOR, server=True)
        for _ in range(TRIES):
            with socket.create_server(("127.0.0.1", 0)) as probe:
                port = probe.getsockname()[1]
            spec = DoorSpec("direct", "127.0.0.1", (port, port), "door.crt", "door.key", "ca.crt", GATEWAY)
            door = Door(spec, engine, folder=str(self._folder), note=self.notes.append)
            try:
                door.open()
            except DoorFailed:
                continue
            return door
        raise DoorFailed("no port could be had")

    def _reverse(self, engine: EngineAddress, instance: str) -> ReverseDoor:
        own = self._folder / instance
        own.mkdir(exist_ok=True)
        self._certify(own, park_name(instance), server=False)
        spec = DoorSpec(
            "reverse", cert="door.crt", key="door.key", ca="ca.crt", peer=GATEWAY, gateways=tuple(self.gateways)
        )
        door = ReverseDoor(spec, engine, folder=str(self._folder), instance=instance, note=self.notes.append)
        door.open()
        return door

    def _certify(self, folder: Path, name: str, *, server: bool) -> None:
        issued = self.authority.issue(name=name, valid_s=3600, server=server)
        _put(folder / "door.crt", issued.certificate)
        _put(folder / "door.key", issued.key)


def _put(path: Path, data: bytes) -> None:
    path.write_bytes(data)
