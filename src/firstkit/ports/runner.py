# SPDX-License-Identifier: Apache-2.0
"""Where a cluster's commands run: on this machine, over ssh, or through a slow service that may never tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from firstkit.core.reasons import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command: argv, standard input, and nothing of our environment."""

    argv: tuple[str, ...]
    stdin: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """It ran and ended; output is whole (a sentinel was seen)."""

    code: int
    out: bytes
    err: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """It surely did not run, and why."""

    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """It may or may not have run: timed out, connection lost, output cut; with a reason of its own where it has one."""

    detail: str
    reason: Reason | None = None


Result = Done | Refused | Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerTraits:
    """What a runner can bear."""

    round_trip_s: float
    calls_per_minute: float | None = None
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file to be put on the cluster; renamed into place, whole or not at all."""

    path: str
    data: bytes
    mode: int = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """How it stands with being let in. `left_s`: how long yet, None where no end is known; `expired`: it was good."""

    well: bool
    left_s: float | None = None
    expired: bool = False
    detail: str = ""


class Runner(Protocol):
    """Run commands and move small files; every call bounded by its deadline."""

    traits: RunnerTraits

    async def run(self, commands: Sequence[Command], *, deadline_s: float) -> list[Result]:
        """Run the commands in order in one round trip; one result for each, in order."""
        ...

    async def put(self, files: Sequence[RemoteFile], *, deadline_s: float) -> Result:
        """Write files (folders made 0700, umask 077), each by rename; existing ones of the same content are left."""
        ...

    async def remove(self, folders: Sequence[str], *, deadline_s: float) -> Result:
        """Remove folders with all that is in them; one that is not there is no error."""
        ...

    async def read_many(
        self, paths: Sequence[str], *, deadline_s: float, limit: int = 262_144
    ) -> Mapping[str, bytes] | Unknown:
        """Read files, leaving out those that do not exist; the last `limit` bytes of longer ones."""
        ...

    async def login(self) -> Login:
        """Say whether commands would be let in, and how long yet."""
        ...
