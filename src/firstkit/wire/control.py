# SPDX-License-Identifier: Apache-2.0
"""The three documents between controller and launcher: job.json, status, desired (schema 1).

Only durations travel, in seconds, never a wall time: two clocks are never compared. A reader takes this schema and the
one before it, since a running job carries last month's launcher. Unknown keys are ignored.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from firstkit.core.errors import InvalidRequest

SCHEMA = 1


class Document(BaseModel):
    """What the three have in common."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    schema_: int = Field(default=SCHEMA, alias="schema", ge=max(1, SCHEMA - 1), le=SCHEMA)


class Part(BaseModel):
    """An object inside a document."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)


# ------------------------------------------------------------------------------------------------------------ job.json
class Control(Part):
    """Where the launcher reports over HTTP; `urls` are tried in turn (`unix:/path` for a socket)."""

    urls: list[str]
    token_file: str = "control.key"  # noqa: S105 — a file's name
    hold_s: float = 25.0
    beat_s: float = 10.0
    ca_file: str | None = None


class LocalDoor(Part):
    """No door: the gateway opens the engine's socket itself."""

    kind: Literal["local"] = "local"


class DirectDoor(Part):
    """A TLS door on a port of the range that admits only the gateway's certificate (its name is `peer`)."""

    kind: Literal["direct"] = "direct"
    host: str
    ports: tuple[int, int]
    cert: str = "door.crt"
    key: str = "door.key"
    ca: str = "ca.crt"
    peer: str = "gateway.firstkit"


class Health(Part):
    """The path that answers 200 when the engine is ready."""

    path: str
    interval_s: float = 0.1
    timeout_s: float = 5.0


class Serves(Part):
    """The listing that must contain the served name."""

    path: str
    name: str


class Progress(Part):
    """A log line that tells how far loading has come."""

    match: str
    from_: float = Field(alias="from")
    to: float
    text: str


class Cause(Part):
    """A log line that tells why an engine ended."""

    match: str
    reason: str


class Engine(Part):
    """How one engine is started, watched and stopped."""

    kind: str
    argv: list[str]
    env: dict[str, str] = {}
    listen: Literal["unix", "loopback"] = "unix"
    key: str | None = None
    health: Health
    serves: Serves | None = None
    guarded: list[str] = []
    start_timeout_s: float = 1800.0
    stop_signal: str = "TERM"
    stop_grace_s: float = 20.0
    progress: list[Progress] = []
    causes: list[Cause] = []
    files: list[str] = []


class JobInstance(Part):
    """One instance of a job."""

    instance: str
    slot: int = 0
    engine: Engine


class JobDocument(Document):
    """What the launcher is told when its job starts; lies in the run directory, mode 0600."""

    job: str
    installation: str
    walltime_s: float | None = None
    margin_s: float = 30.0
    control: Control | None = None
    door: Annotated[LocalDoor | DirectDoor, Field(discriminator="kind")] = LocalDoor()
    fence_s: float | None = None
    instances: list[JobInstance]


# -------------------------------------------------------------------------------------------------------------- status
class ReportedState(StrEnum):
    """An instance as its launcher sees it."""

    LOADING = "LOADING"
    READY = "READY"
    DRAINING = "DRAINING"
    ENDED = "ENDED"


class ReportedAddress(Part):
    """Where an instance answers, as the launcher bound it."""

    kind: Literal["unix", "tcp", "tls"]
    path: str = ""
    host: str = ""
    port: int = 0


class ReportedProgress(Part):
    """How far loading has come; fraction from 0 to 1, or unknown."""

    fraction: float | None = None
    text: str = ""


class ReportedExit(Part):
    """How an engine ended."""

    code: int | None = None
    signal: int | str | None = None
    log_tail: list[str] = []


class ReportedInstance(Part):
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


class Status(Document):
    """What a launcher says of its job; `seq` grows with every one it makes."""

    job: str
    seq: int
    uptime_s: float
    scheduler_id: str = ""
    host: str = ""
    pid: int = 0
    launcher: str = ""
    state: Literal["RUNNING", "ENDING", "ENDED"]
    reason: str | None = None
    detail: str | None = None
    time_left_s: float | None = None
    instances: list[ReportedInstance] = []


# ------------------------------------------------------------------------------------------------------------- desired
class Want(StrEnum):
    """What is wanted of an instance."""

    SERVE = "serve"
    DRAIN = "drain"
    STOP = "stop"


class DesiredInstance(Part):
    """What is wanted of one instance, and within how many seconds."""

    want: Want
    within_s: float | None = None


class Desired(Document):
    """What the controller asks of a launcher; `version` grows with every change."""

    job: str
    version: int
    instances: dict[str, DesiredInstance] = {}
    stop_job: bool = False
    gateways: list[str] = []


def encode(document: Document) -> bytes:
    """Write a document as one line of JSON."""
    return document.model_dump_json(by_alias=True).encode() + b"\n"


def decode_status(data: bytes) -> Status:
    """Read a status; raises InvalidRequest with a sentence that names the first thing wrong, never its content."""
    try:
        return Status.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise InvalidRequest(f"status: {where}: {first['msg']}", code="invalid_status") from None
