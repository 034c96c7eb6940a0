# SPDX-License-Identifier: Apache-2.0
"""The gateways that are measured, each behind the same few verbs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks.processes import Process
from benchmarks.target import Target

ENVIRONMENTS = Path(__file__).resolve().parent.parent / ".env"
LOCKS = Path(__file__).resolve().parent.parent / "locks"
KEY = "sk-bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a contender is given: a folder of its own, the engines' addresses, and a certificate for both sides."""

    folder: Path
    ports: tuple[int, ...]
    sockets: tuple[str, ...]
    tls_ports: tuple[int, ...]
    certificate: Path
    private_key: Path
    model: str

    def own(self, name: str) -> Path:
        """Make the contender's folder."""
        path = self.folder / name
        path.mkdir()
        return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A started contender. Its targets by kind: `tcp`, `unix` (both sides Unix sockets), `tls` (TLS on both sides)."""

    version: str
    processes: list[Process]
    targets: Mapping[str, Target]
    notes: str = ""
    ready_s: dict[str, float] = field(default_factory=dict[str, float])

    def stop(self) -> None:
        """End every process of it."""
        for process in reversed(self.processes):
            process.stop()


class Contender(Protocol):
    """Start a gateway in front of the imitated engines. `missing` says what is needed first, in a sentence.

    `skips` names phases that would take it out of all proportion.
    """

    name: str
    skips: frozenset[str]

    def missing(self) -> str: ...

    def start(self, site: Site) -> Running: ...
