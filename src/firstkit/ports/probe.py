# SPDX-License-Identifier: Apache-2.0
"""Ask an already running engine whether it serves a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from firstkit.core.topology import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What the engine's model listing told; `ready` False: why in `detail`, one sentence."""

    ready: bool
    detail: str = ""
    body: bytes = b""


class Probe(Protocol):
    """Look at one engine; bounded by its own deadline, never raises for an engine that is away."""

    async def __call__(self, address: Address, *, authorization: str | None, path: str) -> Probed: ...
