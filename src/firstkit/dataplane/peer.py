# SPDX-License-Identifier: Apache-2.0
"""What the kernel knows of the other side of a connection, asked without reading from it."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from typing import cast

UNANSWERED = 2
_TCP_INFO_BYTES = 148


def hung_up(transport: asyncio.BaseTransport) -> bool:
    """Tell whether the other side has closed or broken the connection, also while there is unread data."""
    found = _poll(transport, select.POLLRDHUP)
    return bool(found & (select.POLLRDHUP | select.POLLHUP | select.POLLERR))


def readable(transport: asyncio.BaseTransport) -> bool:
    """Tell whether something has come that has not been read yet."""
    return bool(_poll(transport, select.POLLIN) & select.POLLIN)


def stalled(transport: asyncio.BaseTransport) -> bool:
    """Tell whether the other side has acknowledged all it was sent and lets no more come: it lives, and does not read.

    Read from struct tcp_info (Linux 4.6 and later): tcpi_unacked at byte 24, tcpi_notsent_bytes at byte 144.
    """
    sock = _socket(transport)
    if sock is None or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return False
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    if len(info) < _TCP_INFO_BYTES:
        return False
    return struct.unpack_from("=I", info, 24)[0] == 0 and struct.unpack_from("=I", info, 144)[0] > 0


def unacknowledged(transport: asyncio.BaseTransport) -> bool:
    """Tell whether the other side has let two probes, or two repetitions of what it was sent, go unanswered in a row.

    Read from struct tcp_info: tcpi_retransmits at byte 2, tcpi_probes at byte 3; both begin anew with an answer.
    """
    sock = _socket(transport)
    if sock is None or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return False
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    return max(info[2:4]) >= UNANSWERED


def wait_for_acknowledgements(transport: asyncio.BaseTransport, seconds: float) -> None:
    """Set how long sent bytes may stay unacknowledged before the kernel gives the connection up."""
    sock = _socket(transport)
    if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


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
