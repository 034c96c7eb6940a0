# SPDX-License-Identifier: Apache-2.0
"""What the kernel knows of the other side of a connection, asked without reading from it."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from typing import cast


def hung_up(transport: asyncio.BaseTransport) -> bool:
    """Tell whether the other side has closed or broken the connection, also while there is unread data."""
    found = _poll(transport, select.POLLRDHUP)
    return bool(found & (select.POLLRDHUP | select.POLLHUP | select.POLLERR))


def readable(transport: asyncio.BaseTransport) -> bool:
    """Tell whether something has come that has not been read yet."""
    return bool(_poll(transport, select.POLLIN) & select.POLLIN)


def reset(transport: asyncio.Transport) -> None:
    """Break the connection so that the other side sees it broken, not ended."""
    sock = _socket(transport)
    if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _poll(transport: asyncio.BaseTransport, events: int) -> int:
    sock = _socket(transport)
    if sock is None or sock.fileno() < 0:
        return 0
    poller = select.poll()
    poller.register(sock.fileno(), events)
    return sum(found for _, found in poller.poll(0))


def _socket(transport: asyncio.BaseTransport) -> socket.socket | None:
    return cast("socket.socket | None", transport.get_extra_info("socket"))
