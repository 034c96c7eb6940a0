# SPDX-License-Identifier: Apache-2.0
"""Ask an engine over HTTP for its model listing; a new connection each time, proxies of the environment ignored."""

from __future__ import annotations

import functools
import http.client
import socket
import ssl

import anyio
import anyio.to_thread

from firstkit.core.topology import Address, AddressKind
from firstkit.ports.probe import Probed

DEADLINE_S = 5.0
BODY_LIMIT = 1_000_000


class HttpProbe:
    """Implements `Probe` with the standard library's client in a worker thread: a probe is rare and small."""

    async def __call__(self, address: Address, *, authorization: str | None, path: str) -> Probed:
        """GET the path; 200 is ready, everything else says why not in one sentence."""
        ask = functools.partial(get, address, address.base_path + path, authorization=authorization)
        try:
            with anyio.fail_after(2 * DEADLINE_S):
                status, body = await anyio.to_thread.run_sync(ask, abandon_on_cancel=True)
        except (OSError, http.client.HTTPException, ValueError) as error:
            where = address.path or f"{address.host}:{address.port}"
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            return Probed(ready=False, detail=f"no answer from {where}: {why}")
        if len(body) > BODY_LIMIT:
            return Probed(ready=False, detail=f"{path} answers more than a megabyte; is this an engine?")
        if status != 200:
            hint = "; check its key_file" if status in {401, 403} else ""
            return Probed(ready=False, detail=f"{path} answers {status}{hint}")
        return Probed(ready=True, body=body)


def get(
    address: Address, path: str, *, authorization: str | None, context: ssl.SSLContext | None = None
) -> tuple[int, bytes]:
    """GET once, in this thread; return status and at most a megabyte of body. Raises OSError or HTTPException."""
    connection = _connection(address, context)
    try:
        headers = {"authorization": authorization} if authorization else {}
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(BODY_LIMIT + 1)
    finally:
        connection.close()


def _connection(address: Address, context: ssl.SSLContext | None) -> http.client.HTTPConnection:
    if address.kind is AddressKind.UNIX:
        connection = http.client.HTTPConnection("localhost", timeout=DEADLINE_S)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(DEADLINE_S)
        try:
            connection.sock.connect(address.path)
        except OSError:
            connection.sock.close()
            raise
        return connection
    if address.kind is AddressKind.TLS:
        context = context or ssl.create_default_context()
        return http.client.HTTPSConnection(address.host, address.port, timeout=DEADLINE_S, context=context)
    return http.client.HTTPConnection(address.host, address.port, timeout=DEADLINE_S)
