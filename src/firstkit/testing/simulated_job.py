# SPDX-License-Identifier: Apache-2.0
"""One job of the simulated cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio

from firstkit.testing.simulated_launcher import SimulatedLauncher


@dataclass(slots=True)
class SimulatedJob:
    """One job as the simulated scheduler has it. `script` is start.sh's text."""

    number: str
    tag: str
    walltime_s: float
    run_dir: str
    script: str
    state: str = "PENDING"
    why: str = ""
    code: int = 0
    exclude: Sequence[str] = ()
    submitted_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    node: str = ""
    cancelled_as: str = "CANCELLED"
    launcher: SimulatedLauncher | None = None
    cancelled: anyio.Event = field(default_factory=anyio.Event)
    killed: anyio.Event = field(default_factory=anyio.Event)
