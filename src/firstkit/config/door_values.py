# SPDX-License-Identifier: Apache-2.0
"""Values that say where doors and gateways meet: what doors listen on, where they arrive, where they dial."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, PlainValidator, WithJsonSchema

from firstkit.config.values import WRITE_LISTEN, Shown, parse_listen, read_host, write_listen
from firstkit.core.settings import Listen


def _port_address(value: object) -> Listen:
    """Read where doors arrive: an address of this machine and a port."""
    listen = parse_listen(value)
    if listen.path:
        raise ValueError(f"{value!r} is a socket on this machine; write an address and a port, such as 0.0.0.0:8443")
    return listen


PortAddress = Annotated[
    Listen,
    PlainValidator(_port_address),
    WithJsonSchema({"type": "string", "pattern": r"^.+:\d{1,5}$"}),
    WRITE_LISTEN,
    Shown(name="address", write=write_listen),
]


def _door_address(value: str) -> str:
    """Read what doors listen on and are dialled at: a name or address without a port."""
    if not value or "/" in value:
        raise ValueError(f"{value!r} is no host name or address")
    return read_host(f"[{value}]" if ":" in value and not value.startswith("[") else value)


DoorAddress = Annotated[str, AfterValidator(_door_address)]


def _gateway_address(value: str) -> str:
    """Read where a gateway is reached: a name or address, and a port."""
    expected = "write a name or address and a port, such as gw.example.org:8443"
    if "://" in value:
        raise ValueError(f"{value!r} is a URL; {expected}")
    host, colon, port = value.rpartition(":")
    if not colon or not re.fullmatch(r"\d{1,5}", port) or not 0 < int(port) <= 65535:
        raise ValueError(f"{value!r} names no port; {expected}")
    if host in {"", "0.0.0.0", "[::]", "*"}:  # noqa: S104 refused
        raise ValueError(f"{value!r} names no machine; {expected}")
    read_host(host)
    return value


GatewayAddress = Annotated[str, AfterValidator(_gateway_address)]
