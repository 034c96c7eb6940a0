# SPDX-License-Identifier: Apache-2.0
"""The runner for a cluster behind ssh: one connection, a session a call, and only a whole answer is one.

At the far end `gate.py` carries the call out: sent along with it, or installed for a key that may run nothing else.
"""

from __future__ import annotations

import secrets
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files as package_files
from typing import Any

import anyio
import anyio.abc

from firstkit.adapters.runners.ssh_here import end, last_line
from firstkit.adapters.runners.ssh_master import NotConnected, SshMaster, certificate_left_s
from firstkit.adapters.runners.ssh_wire import VERSION, Answer, AnswerReader, Garbled, request
from firstkit.core.reasons import Reason
from firstkit.ports.runner import Command, Login, Refused, RemoteFile, Result, RunnerTraits, Unknown

SESSIONS = 8
"""Commands at a time on one connection; sshd allows ten by default."""
GRACE_S = 5.0
"""After the deadline: how long the far end may take to say that it has killed a command."""
FULL_AGAIN_S = 0.25
_FULL = b"Session open refused by peer"
_BOOT = 'import sys;exec(compile(sys.stdin.buffer.read(int(sys.argv[2])),"gate.py","exec"))'
_CHUNK = 65_536


@dataclass(slots=True)
class _Exchange:
    """How one call went.

    `asked`: the whole request may have reached the far end. `late`: it did not speak in time. `full`: the connection
    carries as many sessions as the server allows.
    """

    answers: list[Answer] = field(default_factory=list[Answer])
    asked: bool = False
    greeted: bool = False
    late: bool = False
    full: bool = False
    ended: bool = False
    detail: str = ""
    expired: bool = False

    def missing(self) -> Refused | Unknown:
        """Say what became of what has no answer."""
        if self.expired:
            return Unknown(detail=self.detail, reason=Reason.LOGIN_EXPIRED)
        return Unknown(detail=self.detail) if self.asked else Refused(detail=self.detail)


class SshRunner:
    """Run commands and move files at a cluster's login node."""

    traits = RunnerTraits(round_trip_s=0.1)

    def __init__(self, master: SshMaster) -> None:
        self.master = master
        self._place = master.place
        self._gate = package_files("firstkit.adapters.runners").joinpath("gate.py").read_bytes()
        self._sessions: anyio.CapacityLimiter | None = None

    async def run(self, commands: Sequence[Command], *, deadline_s: float) -> list[Result]:
        """Run them in order in one round trip; after one that is Unknown the rest are not begun."""
        if not commands:
            return []
        head: dict[str, Any] = {"op": "run", "commands": [list(command.argv) for command in commands]}
        if self._place.path:
            head["path"] = self._place.path
        exchange = await self._call(head, [command.stdin for command in commands], deadline_s)
        results: list[Result] = [answer.result() for answer in exchange.answers[: len(commands)]]
        return results + [exchange.missing() for _ in commands[len(results) :]]

    async def put(self, files: Sequence[RemoteFile], *, deadline_s: float) -> Result:
        """Write files whole or not at all."""
        head: dict[str, Any] = {"op": "put", "files": [[file.path, file.mode] for file in files]}
        return _only(await self._call(head, [file.data for file in files], deadline_s))

    async def remove(self, folders: Sequence[str], *, deadline_s: float) -> Result:
        """Remove whole folders."""
        return _only(await self._call({"op": "remove", "folders": list(folders)}, [], deadline_s))

    async def read_many(
        self, paths: Sequence[str], *, deadline_s: float, limit: int = 262_144
    ) -> Mapping[str, bytes] | Unknown:
        """Read what exists."""
        head: dict[str, Any] = {"op": "read-many", "paths": list(paths), "limit": limit}
        exchange = await self._call(head, [], deadline_s)
        if not exchange.ended:
            missing = exchange.missing()
            return missing if isinstance(missing, Unknown) else Unknown(detail=missing.detail)
        verdict = exchange.answers[-1].result() if exchange.answers else Unknown(detail="no answer")
        if isinstance(verdict, (Refused, Unknown)):
            return Unknown(detail=verdict.detail)
        found = [answer for answer in exchange.answers if answer.head.get("state") == "file"]
        return {paths[int(answer.head["number"])]: answer.blobs[0] for answer in found}

    async def login(self) -> Login:
        """Say whether we are let in, and how long yet where that is known."""
        try:
            await self.master.ready(GRACE_S)
        except NotConnected as error:
            return Login(well=False, detail=error.detail, expired=error.expired)
        return Login(well=True, left_s=await certificate_left_s(self.master))

    # ------------------------------------------------------------------------------------------------------- one call
    async def _call(self, head: dict[str, Any], blobs: Sequence[bytes], deadline_s: float) -> _Exchange:
        """Carry out one call; what surely was not asked for is tried again on a new connection, once."""
        if self._sessions is None:
            self._sessions = anyio.CapacityLimiter(SESSIONS)
        exchange = _Exchange(detail=f"{self._place.host} did not answer within {deadline_s:g} s")
        until = anyio.current_time() + deadline_s
        with anyio.move_on_after(deadline_s + GRACE_S):
            async with self._sessions:
                for fresh in (False, True):
                    exchange.detail = f"{self._place.host} did not answer within {deadline_s:g} s"
                    await self._try(exchange, head, blobs, until)
                    if exchange.greeted or exchange.expired or fresh or not await self.master.lost():
                        break
        return exchange

    async def _try(self, exchange: _Exchange, head: dict[str, Any], blobs: Sequence[bytes], until: float) -> None:
        """Have a connection and a session on it; a connection that is full is asked again."""
        while (left_s := until - anyio.current_time()) > 0:
            try:
                await self.master.ready(left_s)
            except NotConnected as error:
                exchange.detail, exchange.expired = error.detail, error.expired
                return
            await self._session(exchange, head, blobs, until)
            if exchange.greeted or not exchange.full:
                return
            await anyio.sleep(FULL_AGAIN_S)

    async def _session(self, exchange: _Exchange, head: dict[str, Any], blobs: Sequence[bytes], until: float) -> None:
        """Open a session, ask, and take the answers until the far end says that these were all."""
        nonce = secrets.token_hex(16)
        reader = AnswerReader(nonce)
        process = await anyio.open_process(
            self.master.argv("-T", self._place.host, self._command(nonce)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.master.environment,
            start_new_session=True,
        )
        words = bytearray()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_collect, process, words)
                try:
                    await self._converse(exchange, process, reader, (head, blobs, nonce), until)
                    if not reader.greeted and not exchange.late:
                        exchange.detail = await self._last_words(process, words)
                        exchange.full = _FULL in words
                except Garbled as error:
                    exchange.detail = f"{self._place.host}: {error}"
                group.cancel_scope.cancel()
        finally:
            exchange.greeted, exchange.ended, exchange.answers = reader.greeted, reader.ended, reader.answers
            await end(process)

    async def _converse(
        self,
        exchange: _Exchange,
        process: anyio.abc.Process,
        reader: AnswerReader,
        asked: tuple[dict[str, Any], Sequence[bytes], str],
        until: float,
    ) -> None:
        """Be greeted until then, ask, and listen to the end."""
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018  both are pipes
        with anyio.CancelScope(deadline=until) as greeting:
            await _send(process.stdin, b"" if self._place.gate else self._gate)
            await _read(process.stdout, reader, lambda: reader.greeted)
        exchange.late = greeting.cancelled_caught
        if not reader.greeted:
            exchange.detail = f"{self._place.host} opened no session in time"
            return
        if reader.version != VERSION:
            exchange.detail = f"the gate at {self._place.host} is of another version; install it again"
            return
        head, blobs, nonce = asked
        asking = request(head, blobs, nonce=nonce, deadline_s=max(0.1, until - anyio.current_time()))
        await _send(process.stdin, asking[:-1])
        exchange.asked = True
        await _send(process.stdin, asking[-1:])
        await _read(process.stdout, reader, lambda: reader.ended)
        exchange.detail = f"the connection to {self._place.host} was lost before the answer was whole"

    def _command(self, nonce: str) -> str:
        """Say what the login shell, whichever it is, is to run."""
        if self._place.gate:
            return f"first-gate {nonce}"
        return f"exec {shlex.quote(self._place.python)} -I -S -c '{_BOOT}' {nonce} {len(self._gate)}"

    async def _last_words(self, process: anyio.abc.Process, words: bytearray) -> str:
        """Say why a session ended before the far end spoke."""
        with anyio.move_on_after(GRACE_S):
            await process.wait()
            await anyio.sleep(0.05)  # what it printed last is on its way
        if _FULL in words:
            return f"{self._place.host} allows no more sessions on one connection at present"
        said = last_line(bytes(words)) or f"ssh ended with exit code {process.returncode}"
        hint = f"; name its Python (3.9 or later) as `python` of the runner, now {self._place.python}"
        return f"{self._place.host}: {said}{hint if process.returncode == 127 else ''}"


def _only(exchange: _Exchange) -> Result:
    """Read the one result of a call about files."""
    return exchange.answers[0].result() if exchange.answers else exchange.missing()


async def _collect(process: anyio.abc.Process, words: bytearray) -> None:
    """Keep the end of what a login prints beside the answer."""
    if process.stderr is not None:
        async for chunk in process.stderr:
            words += chunk
            del words[:-_CHUNK]


async def _send(stream: anyio.abc.ByteSendStream, data: bytes) -> None:
    """Write; that nobody reads any more shows in what comes back."""
    for place in range(0, len(data), _CHUNK):
        try:
            await stream.send(data[place : place + _CHUNK])
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return


async def _read(stream: anyio.abc.ByteReceiveStream, reader: AnswerReader, enough: Callable[[], bool]) -> None:
    """Read until there is enough or no more."""
    while not enough():
        try:
            reader.feed(await stream.receive(_CHUNK))
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return
