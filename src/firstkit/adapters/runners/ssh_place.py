# SPDX-License-Identifier: Apache-2.0
"""Where a cluster is reached by ssh, and the ssh_config that says so: one file, which a person can use as well."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstkit.core.errors import SiteError

CONNECT_S = 15
USERS_CONFIG = "~/.ssh/config"
SOCKET_ROOM = 70
"""Bytes that a folder's path may have so that ssh can bind its sockets there: it first binds a longer name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SshPlace:
    """A cluster's login as the catalog describes it.

    `host` may be a name of the user's own ssh_config. `control_path`: the socket of a connection that a person has
    opened; no other is made then. `renew`: a shell line that gets a new certificate or ticket.
    """

    host: str
    user: str = ""
    port: int | None = None
    key: str = ""
    certificate: str = ""
    known_hosts: str = ""
    ssh_config: str = USERS_CONFIG
    jump: str = ""
    control_path: str = ""
    renew: str = ""
    python: str = "python3"
    path: str = ""
    gate: bool = False

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> SshPlace:
        """Read a runner's options."""
        found: dict[str, Any] = {"ssh_config": USERS_CONFIG, **options}
        if found["ssh_config"] == "none":
            found["ssh_config"] = ""
        return cls(**found)


def render_config(place: SshPlace) -> str:
    """Write the ssh_config: what is settled here comes first and holds, also for the hosts jumped over."""
    settled = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "NoHostAuthenticationForLocalhost": "no",
        "VerifyHostKeyDNS": "no",
        "UpdateHostKeys": "no",
        "ConnectTimeout": str(CONNECT_S),
        "ConnectionAttempts": "1",
        "ServerAliveInterval": "10",
        "ServerAliveCountMax": "3",
        "TCPKeepAlive": "yes",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "Tunnel": "no",
        "PermitLocalCommand": "no",
        "RequestTTY": "no",
        "EscapeChar": "none",
        "ExitOnForwardFailure": "no",
        "StreamLocalBindMask": "0177",
        "StreamLocalBindUnlink": "yes",
        "LogLevel": "INFO",
    }
    given = {
        "UserKnownHostsFile": quote(place.known_hosts),
        "GlobalKnownHostsFile": "/dev/null" if place.known_hosts else "",
        "IdentityFile": quote(place.key),
        "CertificateFile": quote(place.certificate),
        "IdentitiesOnly": "yes" if place.key else "",
    }
    own = {
        "User": place.user,
        "Port": str(place.port or ""),
        "ProxyJump": place.jump,
        "RemoteCommand": "none",
        "ClearAllForwardings": "yes",
    }
    lines = ["# Written by firstkit; try it by hand: ssh -F THIS-FILE " + place.host]
    lines += [f"Host {place.host}", *_lines(own), "Host *", *_lines({**settled, **given})]
    if place.ssh_config:
        lines += [f"  Include {quote(place.ssh_config)} /etc/ssh/ssh_config"]
    return "\n".join(lines) + "\n"


def _lines(values: Mapping[str, str]) -> list[str]:
    return [f"  {key} {value}" for key, value in values.items() if value]


def quote(path: str) -> str:
    """Write a path as ssh_config does; %-signs would be expanded."""
    return '"' + path.replace("%", "%%") + '"' if path else ""


def digest_of(place: SshPlace) -> str:
    """Name a connection by everything that decides where it goes and as whom."""
    return hashlib.sha256(f"{place.host}\n{render_config(place)}".encode()).hexdigest()[:12]


def socket_folder(data: Path) -> Path:
    """Make and return the private folder for ssh's sockets: in the state folder, or in /tmp if its path is too long.

    SiteError where somebody else could get at it.
    """
    folder = data / "run" / "ssh"
    if len(os.fsencode(folder)) > SOCKET_ROOM:
        folder = Path("/tmp") / f"first-{os.getuid()}-{hashlib.sha256(os.fsencode(data)).hexdigest()[:12]}"  # noqa: S108  checked below
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    told = folder.lstat()
    if not stat.S_ISDIR(told.st_mode) or told.st_uid != os.getuid() or told.st_mode & 0o077:
        raise SiteError(f"{folder} must be a folder of this user's that nobody else may enter; remove it and try again")
    return folder
