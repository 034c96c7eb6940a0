# SPDX-License-Identifier: Apache-2.0
"""Listening sockets: bound once with a sentence when that fails, or inherited."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from pathlib import Path

from firstkit.core.errors import SiteError
from firstkit.core.settings import Listen

BACKLOG = 4096
LAST_PORT = 65535
ADMIN = Path("run") / "admin.sock"
ADDRESS = Path("run") / "public.json"


def public_socket(listen: Listen, inherited: int | None) -> socket.socket:
    """Return the gateway's public socket: the inherited one, or a new one."""
    if inherited is not None:
        return socket.socket(fileno=inherited)
    return bind(listen)


def admin_socket(listen: Listen | None, data: Path, inherited: int | None = None) -> socket.socket | None:
    """Return the admin socket: None where it is switched off; a Unix path is below the state folder."""
    if inherited is not None:
        return socket.socket(fileno=inherited)
    if listen is None:
        return None
    return bind(listen if not listen.path else Listen(path=str(data / listen.path)))


def doors_socket(listen: Listen | None, inherited: int | None = None) -> socket.socket | None:
    """Return the socket at which doors arrive: None where none do."""
    if inherited is not None:
        return socket.socket(fileno=inherited)
    return None if listen is None else bind(listen)


def bind(listen: Listen) -> socket.socket:
    """Bind and listen; SiteError with one sentence that says what to do when that cannot be."""
    try:
        if listen.path:
            return _bind_unix(listen.path)
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((listen.host, listen.port))
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
        return listener
    except OSError as error:
        where = listen.path or f"{listen.host}:{listen.port}"
        if error.errno == errno.EADDRINUSE:
            near = listen.port + 1 if listen.port < LAST_PORT else listen.port - 1
            raise SiteError(
                f"Port {listen.port} of {listen.host} is in use; choose another, in the configuration or by: "
                f"make up PORT={near}"
                if not listen.path
                else f"Another process listens on {where}; stop it first.",
                code="port_in_use",
            ) from error
        raise SiteError(f"Cannot listen on {where}: {error.strerror}.", code="cannot_listen") from error


def release(listener: socket.socket, *, inherited: bool) -> None:
    """Close a listening socket, and remove its name unless that is the giver's or another listens there by now."""
    path = str(listener.getsockname()) if listener.family == socket.AF_UNIX and not inherited else ""
    listener.close()
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            if probe.connect_ex(path) == errno.ECONNREFUSED:
                Path(path).unlink()


def _bind_unix(path: str) -> socket.socket:
    """Bind a Unix socket, mode 0600; one that a dead process left behind is replaced, a live one is not."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            probe.connect(path)
            raise SiteError(f"Another process listens on {path}; stop it first.", code="port_in_use")
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()
        listener.bind(path)
        Path(path).chmod(0o600)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def leave_address(data: Path, listener: socket.socket, *, tls: bool) -> None:
    """Write into the state folder where the gateway is reached, for commands on this machine."""
    if listener.family == socket.AF_UNIX:
        return
    host, port = str(listener.getsockname()[0]), int(listener.getsockname()[1])
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 turned into loopback here
    shown = f"[{host}]" if ":" in host else host
    path = data / ADDRESS
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps({"base_url": f"{'https' if tls else 'http'}://{shown}:{port}"}) + "\n")
    temporary.replace(path)
