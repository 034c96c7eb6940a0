# SPDX-License-Identifier: Apache-2.0
"""The runner for commands of this machine: clean environment, own session, killed whole at the deadline."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread

from firstkit.ports.runner import Command, Done, Login, Refused, RemoteFile, Result, RunnerTraits, Unknown

ENVIRONMENT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "SLURM_CONF")
"""All that a scheduler's command sees of our environment."""


class LocalRunner:
    """Run commands and move files on this machine."""

    traits = RunnerTraits(round_trip_s=0.02)

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = {name: environment[name] for name in ENVIRONMENT if name in environment}
        self._environment.setdefault("PATH", "/usr/local/bin:/usr/bin:/bin")

    async def run(self, commands: Sequence[Command], *, deadline_s: float) -> list[Result]:
        """Run them in order; after one that is Unknown the rest are Refused, since order matters."""
        results: list[Result] = []
        for command in commands:
            if results and isinstance(results[-1], Unknown):
                results.append(Refused(detail="not tried: the command before it did not end"))
            else:
                results.append(await self._one(command, deadline_s))
        return results

    async def _one(self, command: Command, deadline_s: float) -> Result:
        """Run one command to its end or the deadline."""
        try:
            process = await anyio.open_process(
                command.argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                env=self._environment,
                start_new_session=True,
                umask=0o077,
            )
        except OSError as error:
            return Refused(detail=f"{command.argv[0]}: {error.strerror or error}")
        chunks: dict[str, bytearray] = {"out": bytearray(), "err": bytearray()}
        try:
            with anyio.fail_after(deadline_s):
                async with anyio.create_task_group() as group:
                    group.start_soon(_collect, process.stdout, chunks["out"])
                    group.start_soon(_collect, process.stderr, chunks["err"])
                    group.start_soon(_feed, process.stdin, command.stdin)
                code = await process.wait()
        except TimeoutError:
            return Unknown(detail=f"{command.argv[0]} did not end within {deadline_s:g} s")
        finally:
            await _end(process)
        return Done(code=code, out=bytes(chunks["out"]), err=bytes(chunks["err"]))

    async def put(self, files: Sequence[RemoteFile], *, deadline_s: float) -> Result:
        """Write files whole or not at all."""
        try:
            with anyio.fail_after(deadline_s):
                await anyio.to_thread.run_sync(_put, tuple(files), abandon_on_cancel=True)
        except TimeoutError:
            return Unknown(detail=f"writing files did not end within {deadline_s:g} s")
        except OSError as error:
            return Refused(detail=f"{error.filename or 'run directory'}: {error.strerror or error}")
        return Done(code=0, out=b"", err=b"")

    async def remove(self, folders: Sequence[str], *, deadline_s: float) -> Result:
        """Remove whole folders."""
        try:
            with anyio.fail_after(deadline_s):
                await anyio.to_thread.run_sync(_remove, tuple(folders), abandon_on_cancel=True)
        except TimeoutError:
            return Unknown(detail=f"removing folders did not end within {deadline_s:g} s")
        except OSError as error:
            return Refused(detail=f"{error.filename}: {error.strerror or error}")
        return Done(code=0, out=b"", err=b"")

    async def read_many(
        self, paths: Sequence[str], *, deadline_s: float, limit: int = 262_144
    ) -> Mapping[str, bytes] | Unknown:
        """Read what exists; a file that cannot be read is as good as absent only if it does not exist."""
        try:
            with anyio.fail_after(deadline_s):
                return await anyio.to_thread.run_sync(_read_many, tuple(paths), limit, abandon_on_cancel=True)
        except TimeoutError:
            return Unknown(detail=f"reading files did not end within {deadline_s:g} s")
        except OSError as error:
            return Unknown(detail=f"{error.filename}: {error.strerror or error}")

    async def login(self) -> Login:
        """Nobody has to let us in here."""
        return Login(well=True)


async def _collect(stream: anyio.abc.ByteReceiveStream | None, into: bytearray) -> None:
    if stream is not None:
        async for chunk in stream:
            into.extend(chunk)


async def _feed(stream: anyio.abc.ByteSendStream | None, data: bytes) -> None:
    if stream is None:
        return
    try:
        if data:
            await stream.send(data)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass  # it did not read its input; its exit code tells
    finally:
        await stream.aclose()


async def _end(process: anyio.abc.Process) -> None:
    """Leave nothing of a command behind: what has not ended is killed with its session."""
    with anyio.CancelScope(shield=True):
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        await process.aclose()


def _put(files: Sequence[RemoteFile]) -> None:
    for file in files:
        target = Path(file.path)
        _make_private(target.parent)
        if _same(target, file):
            continue
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, file.mode)
        try:
            with os.fdopen(descriptor, "wb") as handle:
                handle.write(file.data)
                os.fchmod(handle.fileno(), file.mode)
            temporary.replace(target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def _make_private(folder: Path) -> None:
    """Make a folder and its missing parents, each 0700."""
    missing: list[Path] = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)


def _remove(folders: Sequence[str]) -> None:
    for folder in folders:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)


def _same(target: Path, file: RemoteFile) -> bool:
    try:
        return target.stat().st_size == len(file.data) and target.read_bytes() == file.data
    except FileNotFoundError:
        return False


def _read_many(paths: Sequence[str], limit: int) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for path in paths:
        try:
            with Path(path).open("rb") as handle:
                size = handle.seek(0, os.SEEK_END)
                handle.seek(max(0, size - limit))
                found[path] = handle.read(limit)
        except (FileNotFoundError, NotADirectoryError):
            continue
    return found
