# SPDX-License-Identifier: Apache-2.0
"""The port for doors: connections come in over TLS with certificates on both sides, to be parked or to report."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from firstkit.core.ids import InstanceId, read_park_name
from firstkit.core.settings import GatewaySettings
from firstkit.dataplane.pools import watch_over
from firstkit.dataplane.ways import Pools

PARK = "first-park/1"
"""What a door calls a connection in the handshake (ALPN) that it parks: on it we ask and it answers."""
REPORT = "http/1.1"
"""And one on which a job reports: on it the job asks."""
HANDSHAKE_S = 10.0


class Arrival(asyncio.Protocol):
    """A connection whose handshake is over. Its certificate has been verified, and says whose it is.

    Nothing has been said on it yet: it is handed on to whoever speaks with its kind, or cut.
    """

    def __init__(
        self,
        *,
        pools: Pools,
        settings: GatewaySettings,
        report: Callable[[], asyncio.Protocol],
        refuse: Callable[[str], None],
    ) -> None:
        self._pools = pools
        self._settings = settings
        self._report = report
        self._refuse = refuse

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand it on (called by the loop)."""
        wire = cast("asyncio.Transport", transport)
        asked = wire.get_extra_info("ssl_object").selected_alpn_protocol()
        if asked == REPORT:
            self._become(wire, self._report())
            return
        instance = parked_for(wire.get_extra_info("peercert"))
        if asked != PARK or instance is None:
            self._refuse("a certificate of this installation, but not one to park with")
            wire.abort()
            return
        watch_over(wire.get_extra_info("socket"), self._settings.user_timeout_s)
        pool = self._pools.parked(instance)
        upstream = pool.new()
        self._become(wire, upstream)
        pool.park(upstream)

    @staticmethod
    def _become(transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


def parked_for(certificate: Any) -> InstanceId | None:
    """Say which instance a verified certificate lets its bearer park for: the one that its only DNS name names."""
    alternatives: tuple[tuple[str, str], ...] = certificate.get("subjectAltName", ()) if certificate else ()
    names = [name for kind, name in alternatives if kind == "DNS"]
    return read_park_name(names[0]) if len(names) == 1 else None
