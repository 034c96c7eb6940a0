# SPDX-License-Identifier: Apache-2.0
"""The one connection to a cluster's login: opened, found again, noticed to be dead, and closed; by the system's ssh."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import anyio

from firstkit.adapters.runners.ssh_here import Ended, last_line, run_here
from firstkit.adapters.runners.ssh_place import SshPlace, digest_of, render_config

ENVIRONMENT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "SSH_AUTH_SOCK", "KRB5CCNAME")
"""All that ssh and the `renew` command see of our environment."""
CHECK_S = 5.0
RENEW_S = 120.0
RENEW_PAUSE_S = 60.0
_VALID = re.compile(rb"Valid: (?:from \S+ to|before) ([0-9T:-]{19})")
_PID = re.compile(rb"pid=([0-9]+)")
_DENIED = ("Permission denied", "Too many authentication failures", "Certificate invalid: expired", "publickey")


class NotConnected(Exception):
    """There is no connection, so that nothing can have been run.

    `denied`: we were not let in. `expired`: because a login that was good is over.
    """

    def __init__(self, detail: str, *, denied: bool = False, expired: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.denied = denied
        self.expired = expired


class SshMaster:
    """One multiplexed connection, in a process of its own that outlives ours for `idle_s`.

    `folder` is private (`socket_folder`). `keeper`: the connection has a name under which the next keeper finds it
    again; who is none uses a keeper's if there is one, else one of its own.
    """

    def __init__(
        self, place: SshPlace, *, folder: Path, environment: Mapping[str, str], keeper: bool, idle_s: int = 600
    ) -> None:
        self.place = place
        self.folder = folder
        self._kept = digest_of(place)
        self._own = self._kept if keeper else f"{self._kept[:6]}-{os.getpid():x}-{os.urandom(2).hex()}"
        self._name = self._own
        self.environment = {name: environment[name] for name in ENVIRONMENT if name in environment}
        self.environment.setdefault("PATH", "/usr/local/bin:/usr/bin:/bin")
        self._idle_s = idle_s
        self._up = False
        self._worked = False
        self._deaf = False
        self._renewed_at = float("-inf")
        self._lock: anyio.Lock | None = None

    @property
    def foreign(self) -> bool:
        """Tell whether the connection is one that a person opened."""
        return bool(self.place.control_path)

    @property
    def socket(self) -> str:
        """Say where the connection's control socket is."""
        return str(Path(self.place.control_path).expanduser()) if self.foreign else str(self._file("sock"))

    def _file(self, ending: str) -> Path:
        return self.folder / f"{self._name}.{ending}"

    def argv(self, *rest: str) -> list[str]:
        """Build the command line of an ssh that uses the connection; it never makes one of its own."""
        return ["ssh", "-F", str(self._file("conf")), "-S", self.socket, "-o", "ProxyCommand=/bin/false", *rest]

    async def ready(self, deadline_s: float) -> None:
        """Have a connection; NotConnected if there is none within the deadline."""
        if self._up:
            return
        if self._lock is None:
            self._lock = anyio.Lock()
        try:
            with anyio.fail_after(deadline_s):
                async with self._lock:
                    if not self._up:
                        await self._connect()
                        self._up = self._worked = True
        except TimeoutError:
            raise NotConnected(f"{self.place.host} did not let us in within {deadline_s:g} s") from None

    async def lost(self) -> bool:
        """Look whether the connection is gone, after something on it failed; it is made anew when next needed."""
        self._up = self._up and await self._alive()
        return not self._up

    async def close(self) -> None:
        """End the connection if it is ours."""
        self._up = False
        if self.foreign or self._name != self._own:
            return
        with anyio.CancelScope(shield=True):
            if self._file("sock").exists():
                await self._end()
            for ending in ("sock", "conf", "log", "pid"):
                self._file(ending).unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------------------ connecting
    async def _connect(self) -> None:
        """Take the connection that is there, or make one; once more after `renew` where the login is refused."""
        for name in dict.fromkeys((self._kept, self._own)):
            self._name = name
            self._write_config()
            if await self._alive():
                return
        if self.foreign:
            raise NotConnected(
                f"the login at {self.place.host} is over: nobody has a connection open at {self.socket}; log in with: "
                f"ssh -M -S {self.place.control_path} -fN {self.place.host}",
                expired=True,
            )
        await self._end()
        try:
            await self._open()
        except NotConnected as error:
            if not error.denied:
                raise
            if await self._renew():
                await self._open()
                return
            left_s = await certificate_left_s(self)
            if left_s is not None and left_s <= 0:
                detail = f"the login at {self.place.host} is over: its certificate has ended"
                raise NotConnected(detail, denied=True, expired=True) from error
            raise NotConnected(error.detail, denied=True, expired=self._worked) from error

    def _write_config(self) -> None:
        path, text = self._file("conf"), render_config(self.place)
        if not path.exists() or path.read_text() != text:
            self._write("conf", text)

    def _write(self, ending: str, text: str) -> None:
        """Write one of the files beside the connection, for this user alone."""
        path = self._file(ending)
        new = path.with_name(f".{path.name}.{os.getpid()}.new")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as handle:
            handle.write(text)
        new.replace(path)

    async def _open(self) -> None:
        """Log in and leave the connection behind, in a process of its own that no end of ours ends."""
        log = self._file("log")
        log.unlink(missing_ok=True)
        command = ["ssh", "-F", str(self._file("conf")), "-S", self.socket, "-M", "-N", "-f", "-E", str(log)]
        ended = await run_here(
            [*command, "-o", f"ControlPersist={self._idle_s}", self.place.host],
            environment=self.environment,
            within_s=None,
            collect="none",
        )
        if ended.code == 0:
            told = await self._control("check")
            if found := _PID.search(told.words):
                self._write("pid", found[1].decode())
            return
        words = last_line(log.read_bytes() if log.exists() else b"") or "ssh ended without a word"
        denied = any(word in words for word in _DENIED)
        raise NotConnected(f"{self.place.host}: {words}", denied=denied)

    async def _renew(self) -> bool:
        """Run the `renew` command, now and then at most; True when it says that it has succeeded."""
        if not self.place.renew or anyio.current_time() - self._renewed_at < RENEW_PAUSE_S:
            return False
        self._renewed_at = anyio.current_time()
        argv = ["/bin/sh", "-c", self.place.renew]
        ended = await run_here(argv, environment=self.environment, within_s=RENEW_S)
        if ended.code == 0:
            return True
        words = last_line(ended.words) or ("it did not end" if ended.code is None else f"exit code {ended.code}")
        raise NotConnected(f"the login at {self.place.host} is over, and `renew` failed: {words}", expired=True)

    # --------------------------------------------------------------------------------------------------------- control
    async def _control(self, verb: str) -> Ended:
        """Tell the connection's process something."""
        argv = self.argv("-O", verb, self.place.host)
        return await run_here(argv, environment=self.environment, within_s=CHECK_S)

    async def _alive(self) -> bool:
        """Ask the connection's process whether it is there. A foreign one that is stopped counts as not there."""
        self._deaf = False
        if not Path(self.socket).exists():
            return False
        ended = await self._control("check")
        self._deaf = ended.code is None
        return ended.code == 0

    async def _end(self) -> None:
        """End a process that is ours: asked to, and killed if it does not hear."""
        if Path(self.socket).exists() and not self._deaf:
            await self._control("exit")
        with contextlib.suppress(OSError, ValueError):
            pid = int(self._file("pid").read_text())
            command_line = Path(f"/proc/{pid}/cmdline")
            if self.socket.encode() in command_line.read_bytes():
                os.kill(pid, signal.SIGKILL)
                with anyio.move_on_after(CHECK_S):
                    while command_line.read_bytes():  # noqa: ASYNC110  no child of ours: nothing tells its end
                        await anyio.sleep(0.01)
        Path(self.socket).unlink(missing_ok=True)


class SshMasters:
    """The connections of one process: one for each place, however many use it."""

    def __init__(self, *, folder: Callable[[], Path], environment: Mapping[str, str], keeper: bool) -> None:
        self._folder = folder
        self._environment = environment
        self._keeper = keeper
        self._masters: dict[str, SshMaster] = {}

    def at(self, place: SshPlace) -> SshMaster:
        """Give the connection to a place; it is opened when first needed."""
        name = digest_of(place)
        if name not in self._masters:
            self._masters[name] = SshMaster(
                place, folder=self._folder(), environment=self._environment, keeper=self._keeper
            )
        return self._masters[name]

    async def close(self) -> None:
        """End those that are ours."""
        for master in self._masters.values():
            await master.close()
            with contextlib.suppress(OSError):  # another one's files are there yet
                master.folder.rmdir()


async def certificate_left_s(master: SshMaster) -> float | None:
    """Say how long the login's certificate is still good, by this machine's clock; None where there is none."""
    asked = await run_here(
        master.argv("-G", master.place.host), environment=master.environment, within_s=CHECK_S, collect="out"
    )
    lefts: list[float] = []
    for line in asked.words.decode("utf-8", "replace").splitlines():
        keyword, _, value = line.partition(" ")
        if keyword not in {"certificatefile", "identityfile"}:
            continue
        path = Path(value if keyword == "certificatefile" else f"{value}-cert.pub").expanduser()
        if path.exists() and (left_s := await _left_s(path, master.environment)) is not None:
            lefts.append(left_s)
    return max(lefts, default=None)


async def _left_s(certificate: Path, environment: Mapping[str, str]) -> float | None:
    """Read the end of one certificate; None: it has none."""
    argv = ["ssh-keygen", "-L", "-f", str(certificate)]
    told = await run_here(argv, environment={**environment, "TZ": "UTC"}, within_s=CHECK_S, collect="out")
    found = _VALID.search(told.words)
    if found is None:
        return None
    end = datetime.fromisoformat(found[1].decode()).replace(tzinfo=UTC)
    return (end - datetime.now(UTC)).total_seconds()
