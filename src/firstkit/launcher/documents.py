# SPDX-License-Identifier: Apache-2.0
"""job.json: read once, checked whole, and turned into frozen values."""

from __future__ import annotations

import json
import re
from typing import Any, Dict, NamedTuple, Optional, Tuple, cast

from .fields import Fields, JobRefused

SCHEMA = 1
MAX_JOB_BYTES = 4 * 1024 * 1024
PLACEHOLDER = re.compile(r"\{(socket|port|dir|cache|tmp|key_file|python)\}")
ADDRESS = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}\Z")
_REASON = re.compile(r"[A-Z][A-Z_]*\Z")
RUNTIMES = ("apptainer", "podman", "podman-hpc", "enroot", "pyxis", "charliecloud")
_STOP_SIGNALS = ("TERM", "INT", "QUIT", "USR1", "USR2", "HUP", "KILL")


class Health(NamedTuple):
    """What tells that the engine is up."""

    path: str
    interval_s: float
    timeout_s: float


class Served(NamedTuple):
    """Where the engine lists its models, and the name that must be among them."""

    path: str
    name: str


class ProgressMark(NamedTuple):
    """A log line that moves the loading progress from `start` to `end`, by its group `percent` if it has one."""

    match: str
    start: float
    end: float
    text: str


class CauseMark(NamedTuple):
    """A log line that tells why the engine ended unasked."""

    match: str
    reason: str


class Needs(NamedTuple):
    """What the node must have for an engine: GPUs, the share of their memory that is free, and bytes of room."""

    gpus: int
    gpu_memory: float
    shm_bytes: int
    disk_bytes: int


class ContainerSpec(NamedTuple):
    """What the engine runs in, instead of on the node itself."""

    runtime: str
    image: str
    binds: Tuple[str, ...]
    gpus: bool


class EngineSpec(NamedTuple):
    """How one engine is started, watched and stopped."""

    kind: str
    argv: Tuple[str, ...]
    env: Dict[str, str]
    listen: str
    key: Optional[str]
    health: Health
    serves: Optional[Served]
    guarded: Tuple[str, ...]
    start_timeout_s: float
    stop_signal: str
    stop_grace_s: float
    progress: Tuple[ProgressMark, ...]
    causes: Tuple[CauseMark, ...]
    files: Tuple[str, ...]
    weights: Tuple[str, ...] = ()
    needs: Optional[Needs] = None
    container: Optional[ContainerSpec] = None


class InstanceSpec(NamedTuple):
    """One engine of the job under the name that firstkit gave it."""

    instance: str
    slot: int
    engine: EngineSpec


class DoorSpec(NamedTuple):
    """How bytes come in.

    `local`: nothing in between; `direct`: TLS with client certificates on one of `ports`; `reverse`: connections parked
    at each of `gateways` (host:port), `cert` and `key` in the instance's folder.
    """

    kind: str
    host: str = ""
    ports: Tuple[int, int] = (0, 0)
    cert: str = ""
    key: str = ""
    ca: str = ""
    peer: str = ""
    gateways: Tuple[str, ...] = ()


class ControlSpec(NamedTuple):
    """Where status is sent and desired comes from.

    With `peer`, at gateways' ports for doors: each shows a certificate of that name, and we one of our own.
    """

    urls: Tuple[str, ...]
    token_file: str
    hold_s: float
    ca_file: Optional[str]
    beat_s: float
    cert_file: Optional[str] = None
    key_file: Optional[str] = None
    peer: Optional[str] = None


class JobSpec(NamedTuple):
    """The whole of job.json."""

    job: str
    installation: str
    walltime_s: Optional[float]
    margin_s: float
    control: Optional[ControlSpec]
    door: DoorSpec
    fence_s: Optional[float]
    instances: Tuple[InstanceSpec, ...]


def read_job(path: str) -> JobSpec:
    """Read and check job.json; raise `JobRefused` with one sentence if the launcher cannot follow it."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_JOB_BYTES + 1)
    except OSError as error:
        raise JobRefused(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > MAX_JOB_BYTES:
        raise JobRefused(f"{path} is longer than {MAX_JOB_BYTES} bytes.")
    return parse_job(data)


def parse_job(data: bytes) -> JobSpec:
    """Turn the bytes of job.json into values; unknown keys are ignored."""
    try:
        document = Fields(json.loads(data.decode("utf-8")), "")
    except (ValueError, RecursionError) as error:
        raise JobRefused(f"job.json is not JSON: {error}.") from error
    check_schema(document.raw("schema"))
    instances = tuple(_instance(fields) for fields in document.objects("instances"))
    if not instances:
        raise JobRefused("instances must name at least one instance.")
    if len({spec.instance for spec in instances}) != len(instances):
        raise JobRefused("instances must have different names.")
    return JobSpec(
        job=document.name("job"),
        installation=document.text("installation"),
        walltime_s=document.maybe_number("walltime_s"),
        margin_s=document.number("margin_s", 30.0),
        control=None if document.raw("control") is None else _control(document.object("control")),
        door=_door(document.object("door")),
        fence_s=document.maybe_number("fence_s"),
        instances=instances,
    )


def check_schema(schema: object) -> None:
    """Refuse a document that is newer than this launcher or older than the schema before its own."""
    if isinstance(schema, bool) or not isinstance(schema, int) or not SCHEMA - 1 <= schema <= SCHEMA:
        raise JobRefused(f"schema must be {SCHEMA - 1} or {SCHEMA} for this launcher, not {str(schema)[:80]!r}.")


def _control(fields: Fields) -> ControlSpec:
    urls = fields.texts("urls")
    for url in urls:
        if not url.startswith(("http://", "https://", "unix:/")):
            raise JobRefused(f"{fields.at('urls')} must hold http://, https:// or unix:/ addresses, not {url[:80]!r}.")
    if not urls:
        raise JobRefused(f"{fields.at('urls')} must name at least one address; without HTTP, control is null.")
    return ControlSpec(
        urls=urls,
        token_file=fields.text("token_file"),
        hold_s=fields.number("hold_s", 25.0),
        ca_file=fields.maybe_text("ca_file"),
        beat_s=fields.number("beat_s", 10.0, least=0.05),
        cert_file=fields.maybe_text("cert_file"),
        key_file=fields.maybe_text("key_file"),
        peer=fields.maybe_text("peer"),
    )


def _door(fields: Fields) -> DoorSpec:
    kind = fields.choice("kind", ("local", "direct", "reverse"))
    if kind == "local":
        return DoorSpec(kind)
    if kind == "reverse":
        gateways = fields.texts("gateways")
        if not gateways or not all(ADDRESS.match(address) for address in gateways):
            raise JobRefused(f"{fields.at('gateways')} must hold one or more addresses such as host:port.")
        cert, key, ca, peer = (fields.text(name) for name in ("cert", "key", "ca", "peer"))
        return DoorSpec(kind, cert=cert, key=key, ca=ca, peer=peer, gateways=gateways)
    ports = fields.items("ports")
    sound = len(ports) == 2 and all(isinstance(port, int) and not isinstance(port, bool) for port in ports)
    if not sound or not 0 < ports[0] <= ports[1] < 65536:
        raise JobRefused(f"{fields.at('ports')} must be the first and the last port of a range.")
    return DoorSpec(
        kind,
        host=fields.text("host"),
        ports=(ports[0], ports[1]),
        cert=fields.text("cert"),
        key=fields.text("key"),
        ca=fields.text("ca"),
        peer=fields.text("peer"),
    )


def _instance(fields: Fields) -> InstanceSpec:
    return InstanceSpec(
        instance=fields.name("instance"), slot=int(fields.number("slot", 0)), engine=_engine(fields.object("engine"))
    )


def _engine(fields: Fields) -> EngineSpec:
    argv = fields.texts("argv")
    if not argv or not argv[0]:
        raise JobRefused(f"{fields.at('argv')} must begin with the program to start.")
    listen = fields.choice("listen", ("unix", "loopback"))
    key = fields.maybe_text("key")
    if key is not None and (not key or not key.isascii() or not key.isprintable()):
        raise JobRefused(f"{fields.at('key')} must be printable ASCII, or null.")
    env = _env(fields)
    used = {name for text in (*argv, *env.values()) for name in PLACEHOLDER.findall(text)}
    for placeholder, there in (
        ("socket", listen == "unix"),
        ("port", listen == "loopback"),
        ("key_file", key is not None),
    ):
        if placeholder in used and not there:
            raise JobRefused(f"{fields.at('argv')} uses {{{placeholder}}}, which an engine like this does not have.")
    health = fields.object("health")
    serves = None if fields.raw("serves") is None else fields.object("serves")
    return EngineSpec(
        kind=fields.text("kind", ""),
        argv=argv,
        env=env,
        listen=listen,
        key=key,
        health=Health(
            health.path("path"),
            health.number("interval_s", 0.1, least=0.01),
            health.number("timeout_s", 5.0, least=0.01),
        ),
        serves=None if serves is None else Served(serves.path("path"), serves.text("name")),
        guarded=fields.paths("guarded"),
        start_timeout_s=fields.number("start_timeout_s", 600.0),
        stop_signal=fields.choice("stop_signal", _STOP_SIGNALS, "TERM"),
        stop_grace_s=fields.number("stop_grace_s", 20.0),
        progress=tuple(_progress(mark) for mark in fields.objects("progress")),
        causes=tuple(_cause(mark) for mark in fields.objects("causes")),
        files=fields.texts("files"),
        weights=fields.texts("weights"),
        needs=None if fields.raw("needs") is None else _needs(fields.object("needs")),
        container=None if fields.raw("container") is None else _container(fields.object("container")),
    )


def _needs(fields: Fields) -> Needs:
    return Needs(
        gpus=int(fields.number("gpus", 0)),
        gpu_memory=min(fields.number("gpu_memory", 0.0), 1.0),
        shm_bytes=int(fields.number("shm_bytes", 0)),
        disk_bytes=int(fields.number("disk_bytes", 0)),
    )


def _container(fields: Fields) -> ContainerSpec:
    return ContainerSpec(
        runtime=fields.choice("runtime", RUNTIMES),
        image=fields.text("image"),
        binds=fields.texts("binds"),
        gpus=fields.raw("gpus") is True,
    )


def _env(fields: Fields) -> Dict[str, str]:
    values = fields.raw("env")
    pairs: Dict[str, Any] = {} if values is None else cast("Dict[str, Any]", values)
    if not isinstance(values, (dict, type(None))):
        raise JobRefused(f"{fields.at('env')} must be an object.")
    for name, value in pairs.items():
        if not name or "=" in name or "\0" in name or not isinstance(value, str) or "\0" in value:
            raise JobRefused(f"{fields.at('env')} must map names to texts, and {name[:80]!r} does not.")
    return pairs


def _pattern(fields: Fields) -> str:
    match = fields.text("match")
    try:
        re.compile(match)
    except (re.error, OverflowError, RecursionError) as error:
        raise JobRefused(f"{fields.at('match')} is not a regular expression: {error}.") from error
    return match


def _progress(fields: Fields) -> ProgressMark:
    return ProgressMark(
        _pattern(fields),
        min(fields.number("from", 0.0), 1.0),
        min(fields.number("to", 0.0), 1.0),
        fields.text("text", ""),
    )


def _cause(fields: Fields) -> CauseMark:
    reason = fields.text("reason")
    if not _REASON.match(reason):
        raise JobRefused(f"{fields.at('reason')} must be a reason in capital letters.")
    return CauseMark(_pattern(fields), reason)
