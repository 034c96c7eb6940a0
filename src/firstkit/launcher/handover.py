# SPDX-License-Identifier: Apache-2.0
"""What the start, before there is an event loop, hands over to the supervision on it."""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Sequence

from .claim import Identity
from .documents import InstanceSpec, JobSpec
from .folders import Places
from .guard import Guard
from .records import LauncherLog
from .signals import Signals


class Started(NamedTuple):
    """What the start made of one instance; without a pid it failed for the reason given.

    `mark` is in the environment of all that the engine starts, `output` is the pipe of its log.
    """

    spec: InstanceSpec
    mark: str
    places: Optional[Places]
    port: Optional[int]
    pid: Optional[int]
    output: int
    reason: Optional[str] = None
    detail: Optional[str] = None
    unseen: Optional[str] = None


class Handover(NamedTuple):
    """The job as it stands when its engines have been started; `began` is on the monotonic clock."""

    spec: JobSpec
    run_dir: str
    identity: Identity
    version: str
    began: float
    started: List[Started]
    guard: Guard
    log: LauncherLog
    secrets: Sequence[str]
    signals: Signals
