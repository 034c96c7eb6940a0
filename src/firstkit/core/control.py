# SPDX-License-Identifier: Apache-2.0
"""What controller and launcher tell one another: the job, its status, what is desired; as values (JSON is `wire`'s).

Only durations travel, in seconds, never a wall time: two clocks are never compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

GATEWAY_NAME = "gateway.firstkit"
"""What gateways are called in the certificates that they show doors and jobs."""


# ------------------------------------------------------------------------------------------------------------- the job
@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """Where the launcher reports over HTTP; `urls` are tried in turn (`unix:/path` for a socket).

    With `peer`, they are gateways' ports for doors, which show a certificate of that name and ask for the job's.
    """

    urls: tuple[str, ...]
    token_file: str = "control.key"  # noqa: S105 — a file's name
    hold_s: float = 25.0
    beat_s: float = 10.0
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    peer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalDoor:
    """No door: the gateway opens the engine's socket itself."""

    kind: Literal["local"] = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectDoor:
    """A TLS door on a port of the range that admits only the gateway's certificate (its name is `peer`)."""

    host: str
    ports: tuple[int, int]
    kind: Literal["direct"] = "direct"
    cert: str = "door.crt"
    key: str = "door.key"
    ca: str = "ca.crt"
    peer: str = GATEWAY_NAME


@dataclass(frozen=True, slots=True, kw_only=True)
class ReverseDoor:
    """Connections parked at each of the gateways (host:port); certificate and key lie in each instance's folder."""

    gateways: tuple[str, ...]
    kind: Literal["reverse"] = "reverse"
    cert: str = "door.crt"
    key: str = "door.key"
    ca: str = "ca.crt"
    peer: str = GATEWAY_NAME


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The path that answers 200 when the engine is ready."""

    path: str
    interval_s: float = 0.1
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Serves:
    """The listing that must contain the served name."""

    path: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A log line that tells how far loading has come; a group `percent` moves between `start` and `end`."""

    match: str
    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """A log line that tells why an engine ended."""

    match: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What the node is looked at for before the engine starts; `gpu_memory` is the share of each GPU's that is free."""

    gpus: int = 0
    gpu_memory: float = 0.0
    shm_bytes: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What the engine runs in; `gpus`: whether it is to see any."""

    runtime: str
    image: str
    binds: tuple[str, ...] = ()
    gpus: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProcess:
    """How one engine is started, watched and stopped."""

    kind: str
    argv: tuple[str, ...]
    health: Health
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    listen: Literal["unix", "loopback"] = "unix"
    key: str | None = None
    serves: Serves | None = None
    guarded: tuple[str, ...] = ()
    start_timeout_s: float = 1800.0
    stop_signal: str = "TERM"
    stop_grace_s: float = 20.0
    progress: tuple[Progress, ...] = ()
    causes: tuple[Cause, ...] = ()
    files: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    needs: Needs | None = None
    container: Container | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInstance:
    """One instance of a job."""

    instance: str
    engine: EngineProcess
    slot: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDocument:
    """What the launcher is told when its job starts; lies in the run directory, mode 0600."""

    job: str
    installation: str
    instances: tuple[JobInstance, ...]
    walltime_s: float | None = None
    margin_s: float = 30.0
    control: Control | None = None
    door: LocalDoor | DirectDoor | ReverseDoor = LocalDoor()
    fence_s: float | None = None


# ---------------------------------------------------------------------------------------------------------- its status
class ReportedState(StrEnum):
    """An instance as its launcher sees it."""

    LOADING = "LOADING"
    READY = "READY"
    DRAINING = "DRAINING"
    ENDED = "ENDED"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedAddress:
    """Where an instance answers, as the launcher bound it."""

    kind: Literal["unix", "tcp", "tls", "parked"]
    path: str = ""
    host: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedProgress:
    """How far loading has come; fraction from 0 to 1, or unknown."""

    fraction: float | None = None
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedExit:
    """How an engine ended."""

    code: int | None = None
    signal: int | str | None = None
    log_tail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedInstance:
    """One instance in a status."""

    instance: str
    state: ReportedState
    reason: str | None = None
    detail: str | None = None
    progress: ReportedProgress = ReportedProgress()
    state_for_s: float = 0.0
    load_s: float | None = None
    address: ReportedAddress | None = None
    connections: int | None = None
    exit: ReportedExit | None = None
    image: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What a launcher says of its job; `seq` grows with each. `node` is the scheduler's name of the host."""

    job: str
    seq: int
    uptime_s: float
    state: Literal["RUNNING", "ENDING", "ENDED"]
    scheduler_id: str = ""
    host: str = ""
    node: str = ""
    pid: int = 0
    launcher: str = ""
    reason: str | None = None
    detail: str | None = None
    time_left_s: float | None = None
    instances: tuple[ReportedInstance, ...] = ()


# ------------------------------------------------------------------------------------------------------ what is wanted
class Want(StrEnum):
    """What is wanted of an instance."""

    SERVE = "serve"
    DRAIN = "drain"
    STOP = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredInstance:
    """What is wanted of one instance, and within how many seconds."""

    want: Want
    within_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What the controller asks of a launcher; `version` grows with every change.

    `gateways` (host:port) are where to report and to park; none: where no gateway is to be reached by itself.
    """

    job: str
    version: int
    instances: Mapping[str, DesiredInstance] = field(default_factory=dict[str, DesiredInstance])
    stop_job: bool = False
    gateways: tuple[str, ...] = ()
