# SPDX-License-Identifier: Apache-2.0
"""A real sshd on a free port of the loopback interface, for this user alone, which can be frozen and killed."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firstkit.adapters.runners.ssh_place import SshPlace

SSHD = "/usr/sbin/sshd"
START_S = 20.0
_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
PidFile {folder}/sshd.pid
AuthorizedKeysFile {folder}/authorized_keys
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 100
LogLevel VERBOSE
SetEnv SHLVL=1
{extra}
"""
# Debian's bash reads ~/.bashrc under sshd unless it thinks that it is an inner shell. What the machine's account has
# there, a version manager with a lock that a killed shell leaves behind, say, is none of the tests' business.


def installed() -> bool:
    """Tell whether there is an sshd on this machine."""
    return Path(SSHD).exists() and shutil.which("ssh") is not None


class Sshd:
    """One server with a host key and a user's key of its own. `extra`: further lines of its configuration.

    `options`: what stands before the user's key in authorized_keys.
    """

    def __init__(self, folder: Path, *, extra: str = "", options: str = "") -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        for name in ("host", "user"):
            keygen("-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name))
        self.authorize(options)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        host_key = " ".join((folder / "host.pub").read_text().split()[:2])
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host_key}\n")
        self._config = folder / "sshd_config"
        self._config.write_text(_CONFIG.format(port=self.port, folder=folder, extra=extra))
        self._process: subprocess.Popen[bytes] | None = None

    def authorize(self, options: str = "") -> None:
        """Let the user's key in, with these options before it in authorized_keys."""
        key = (self.folder / "user.pub").read_text()
        (self.folder / "authorized_keys").write_text(f"{options} {key}".lstrip())

    def place(self, **others: Any) -> SshPlace:
        """Say how it is reached."""
        return SshPlace(
            host="127.0.0.1",
            port=self.port,
            user=pwd.getpwuid(os.getuid()).pw_name,
            key=str(self.folder / "user"),
            known_hosts=str(self.folder / "known_hosts"),
            ssh_config="",
            **others,
        )

    def start(self) -> None:
        """Listen."""
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        with (self.folder / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.folder / "sshd.log").read_text()) from None
                time.sleep(0.02)

    def processes(self) -> list[int]:
        """List what belongs to it now: itself, its connections, and what runs on them."""
        return [] if self._process is None else [self._process.pid, *descendants(self._process.pid)]

    def cut(self) -> None:
        """End every connection at once, and all that runs on them, as a login node does that falls over."""
        for pid in self.processes()[1:]:
            _signal(pid, signal.SIGKILL)

    def freeze(self) -> None:
        """Stop answering without a word."""
        for pid in self.processes():
            _signal(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        for pid in self.processes():
            _signal(pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it and every connection."""
        if self._process is not None:
            self.thaw()
            for pid in reversed(self.processes()):
                _signal(pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def keygen(*arguments: str) -> None:
    """Make keys or certificates."""
    subprocess.run(["ssh-keygen", *arguments], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)  # noqa: S607


def descendants(pid: int) -> Iterator[int]:
    """List children and theirs."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        if parent == pid:
            yield int(entry.name)
            yield from descendants(int(entry.name))


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
