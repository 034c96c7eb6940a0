# SPDX-License-Identifier: Apache-2.0
"""Another user of the same machine, who tries what he can reach without a credential; only root can become one."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Mapping
from typing import Any

NOBODY = 65534
_BODY = b'{"model":"demo","prompt":"x","input":"x","messages":[{"role":"user","content":"x"}]}'


def attempts_of_a_stranger(address: Mapping[str, Any], routes: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Try each (method, path) from a process of another uid; give the status line, or the name of the error, of each.

    `address` is an instance's as the launcher reports it, of the kind unix or tcp.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            found = {f"{method} {path}": _attempt(address, method, path) for method, path in routes}
            with os.fdopen(write, "wb") as pipe:
                pipe.write(json.dumps(found).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer)


def _attempt(address: Mapping[str, Any], method: str, path: str) -> str:
    unix = address["kind"] == "unix"
    body = b"" if method == "GET" else _BODY
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as connection:
        connection.settimeout(10)
        try:
            connection.connect(address["path"] if unix else (address["host"], address["port"]))
            connection.sendall(head.encode() + body)
            return connection.recv(100).decode(errors="replace").split("\r\n")[0]
        except OSError as error:
            return type(error).__name__
