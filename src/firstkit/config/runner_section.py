# SPDX-License-Identifier: Apache-2.0
"""The section that says where a cluster's commands run."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from firstkit.config.process_sections import Section

_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:%+\[\]-]*")
_HOPS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:/,\[\]-]*")
_PATH = re.compile(r"(/|~/)[^\"\\$\x00-\x1f]*")


def _word(value: str) -> str:
    if not _WORD.fullmatch(value):
        raise ValueError(f"{value!r} is nothing that ssh would take here; write a name as in `ssh NAME`")
    return value


def _hops(value: str) -> str:
    if not _HOPS.fullmatch(value):
        raise ValueError(
            f"{value!r} names no hosts to jump over; write [USER@]HOST[:PORT], several with commas between"
        )
    return value


def _path(value: str) -> str:
    if not _PATH.fullmatch(value):
        raise ValueError(f"{value!r} is no path for ssh; write one from the root, or beginning with ~/")
    return value


SshWord = Annotated[str, AfterValidator(_word)]
SshHops = Annotated[str, AfterValidator(_hops)]
SshPath = Annotated[str, AfterValidator(_path)]


def _ssh(about: str, *, example: Any = None, **bounds: Any) -> Any:
    return Field(
        default=None, description=f"{about} (`ssh`)", examples=None if example is None else [example], **bounds
    )


class Runner(Section):
    """Where a cluster's commands run: on this machine, or at its login node by the system's ssh."""

    kind: Literal["local", "ssh"] = Field(
        description="`local`: on this machine; `ssh`: at `host`, over one connection", examples=["ssh"]
    )
    host: SshWord | None = _ssh("the login node, or a name from the ssh_config", example="login1.example.org")
    user: SshWord | None = _ssh("who logs in; default: as ssh has it", example="svc-first")
    port: int | None = _ssh("the port of its sshd; default: as ssh has it", example=22, ge=1, le=65535)
    key: SshPath | None = _ssh(
        "the private key, without passphrase; default: the user's own and those of the agent",
        example="/etc/first/id_sophia",
    )
    certificate: SshPath | None = _ssh("a certificate for the key", example="/etc/first/id_sophia-cert.pub")
    known_hosts: SshPath | None = _ssh(
        "the host keys that are believed; default: the user's known_hosts", example="/etc/first/known_hosts"
    )
    ssh_config: SshPath | Literal["none"] | None = _ssh(
        "an ssh_config that is read after what is said here, or `none`; default: ~/.ssh/config",
        example="/etc/first/ssh_config",
    )
    jump: SshHops | None = _ssh("hosts to jump over, as for ProxyJump", example="bastion.example.org")
    control_path: SshPath | None = _ssh(
        "the control socket of a connection that a person has opened, where a login needs one; no other is made",
        example="~/.ssh/first-sophia",
    )
    renew: str | None = _ssh(
        "a shell line, run on this machine, that gets a new certificate or ticket when a login is refused",
        example="/usr/local/bin/get-certificate sophia",
        min_length=1,
    )
    python: SshPath | SshWord | None = _ssh(
        "the Python (3.9 or later) that carries out calls at the login node; default: python3",
        example="/usr/bin/python3",
    )
    gate: bool | None = _ssh("the key may run nothing but an installed gate (`first gate install`)", example=True)
    path: str | None = _ssh(
        "PATH of the scheduler's commands there; default: as the login has it",
        example="/opt/slurm/bin:/usr/bin:/bin",
        pattern=r"^/[^\x00-\x1f]*$",
    )
