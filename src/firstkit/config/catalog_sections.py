# SPDX-License-Identifier: Apache-2.0
"""The sections that make up the catalog: clusters, models, deployments; and the whole file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from firstkit.config.door_values import DoorAddress, GatewayAddress
from firstkit.config.process_sections import Controller, Gateway, Identity, Section, Store, StoreField
from firstkit.config.runner_section import Runner
from firstkit.config.values import (
    Bind,
    Duration,
    DurationOrNever,
    EmptyForNothing,
    ModelName,
    Name,
    NoListForNothing,
    Ports,
    PositiveDuration,
    SiteOption,
    SiteWord,
    Size,
)
from firstkit.core.catalog import EngineSpec
from firstkit.core.catalog import Scaling as ScalingSpec

_S = ScalingSpec()
GpuRequestField = Literal["gres", "gpus-per-node", "select", "none"]
_GPU_REQUEST = (
    "how GPUs are asked for: `gres` (the usual way of `slurm`) or `gpus-per-node`, `select` (the usual way of `pbs`), "
    "`none` where a node comes with all it has"
)


def _optional(about: str, *, example: Any = None, default: Any = None, factory: Any = None, **bounds: Any) -> Any:
    bounds |= {"default": default} if factory is None else {"default_factory": factory}
    return Field(description=about, examples=None if example is None else [example], **bounds)


class Scheduler(Section):
    """Which scheduler runs a cluster's jobs, and what it is told about every one; a deployment's word goes first."""

    kind: Literal["local", "pbs", "slurm"] = Field(description="the scheduler's dialect", examples=["slurm"])
    python: str | None = _optional(
        "the Python (3.9 or later) that runs jobs here; default: our own (`local`), or `python3` of the job's PATH",
        example="/usr/bin/python3",
    )
    conf: SiteWord | None = _optional(
        "the scheduler's own configuration file, where its commands do not find it by themselves (`slurm`: SLURM_CONF; "
        "`pbs`: PBS_CONF_FILE)",
        example="/etc/slurm-b/slurm.conf",
    )
    partition: SiteWord | None = _optional("partition (`slurm`)", example="gpu")
    queue: SiteWord | None = _optional("queue (`pbs`)", example="by-node")
    account: SiteWord | None = _optional("account the jobs are charged to", example="myproject")
    qos: SiteWord | None = _optional("quality of service", example="premium")
    reservation: SiteWord | None = _optional("reservation to run in", example="first")
    constraint: SiteWord | None = _optional("features a node must have, in the site's words", example="gpu80")
    gpu_request: GpuRequestField | None = _optional(_GPU_REQUEST, example="gpus-per-node")
    exclusive: bool | None = _optional("whole nodes", example=True)
    extra: Annotated[list[SiteOption], NoListForNothing] = _optional(
        "further options for every job, as the site's manual writes them",
        factory=list,
        example=["-l filesystems=home:eagle"],
    )


class Link(Section):
    """How bytes reach an instance."""

    kind: Literal["local", "direct", "reverse"] = Field(
        description="`local`: over the engine's own Unix socket; `direct`: the gateway dials the job's door; "
        "`reverse`: the door dials the `gateways`, and nothing comes in at the site; both with certificates of our own",
        examples=["direct"],
    )
    ports: Ports | None = _optional("ports that doors may listen on, first and last (`direct`)", example="42000-42099")
    address: DoorAddress | None = _optional(
        "name or address that doors listen on and are reached at (`direct`); default: the node's own",
        example="127.0.0.1",
    )


class NodeHours(Section):
    """Node-hours by period."""

    day: float | None = _optional("most node-hours in 24 hours", example=240, gt=0)


class Limits(Section):
    """Hard bounds on what firstkit may hold on a cluster."""

    jobs: int | None = _optional("most jobs at a time", example=10, ge=0)
    nodes: int | None = _optional("most nodes at a time", example=20, ge=0)
    node_hours: Annotated[NodeHours, EmptyForNothing] = _optional("most node-hours", factory=NodeHours)
    submits_per_hour: int | None = _optional("most submissions in an hour", example=60, ge=0)


class Cluster(Section):
    """One batch-scheduler domain."""

    scheduler: Scheduler = Field(description="which scheduler, and what it is told about every job")
    runner: Runner = Field(description="where the scheduler's commands run")
    link: Link = Field(description="how bytes reach an instance")
    run_dir: str = Field(
        description="folder on the cluster for jobs, made with mode 0700; an absolute path",
        examples=["/eagle/first"],
        min_length=1,
    )
    limits: Annotated[Limits, EmptyForNothing] = _optional("hard bounds on what may be held here", factory=Limits)
    setup: str = _optional("shell lines before every engine on this cluster", default="", example="module load conda\n")
    control: Literal["both", "http", "files"] = _optional(
        "how jobs report and are told: over HTTP, by files in `run_dir`, or both",
        default="both",
        example="files",
    )
    gateways: Annotated[list[GatewayAddress], NoListForNothing] = _optional(
        "where this cluster's nodes reach the port `gateway.doors` of each gateway, host:port; jobs report there, and "
        "doors of the link `reverse` park there",
        factory=list,
        example=["gw.example.org:8443"],
    )


class Access(Section):
    """Who may use a model; both empty: everyone who is signed in."""

    groups: Annotated[list[str], NoListForNothing] = _optional(
        "groups whose members may", factory=list, example=["staff"]
    )
    domains: Annotated[list[str], NoListForNothing] = _optional(
        "domains of the callers' names that may", factory=list, example=["anl.gov"]
    )


class Model(Section):
    """A public name for weights."""

    aliases: Annotated[list[ModelName], NoListForNothing] = _optional(
        "further public names; where none of the names is without slash, the last part of the model's is added",
        factory=list,
        example=["llama-70b"],
    )
    access: Annotated[Access, EmptyForNothing] = _optional("who may use it", factory=Access)
    max_model_len: int | None = _optional(
        "context length shown to clients while no instance can tell", example=131072, ge=1
    )


class Container(Section):
    """What an engine runs in, instead of on the node itself."""

    runtime: Literal["apptainer", "podman", "podman-hpc", "enroot", "pyxis", "charliecloud"] = Field(
        description="the program that runs it, on the nodes' PATH", examples=["apptainer"]
    )
    image: str = Field(
        description="the image: an absolute path on the cluster; of podman and pyxis also a name",
        examples=["/eagle/images/vllm.sif"],
        min_length=1,
    )
    binds: Annotated[list[Bind], NoListForNothing] = _optional(
        "what the engine sees of the node besides its weights and its own folder: `/path`, `/path:/inside`; "
        "`:rw` behind it lets it write there",
        factory=list,
        example=["/eagle/adapters"],
    )


ArgValue = Any


class Engine(Section):
    """Which engine software, with which weights and arguments; each kind has further keys of its own."""

    model_config = ConfigDict(extra="allow")

    kind: str = Field(description="the engine's kind", examples=["vllm"], min_length=1)
    model: str = _optional(
        "the weights: a path on the cluster, or what the engine takes for a name",
        default="",
        example="/models/llama-3.3-70b",
    )
    args: Annotated[dict[str, ArgValue], EmptyForNothing] = _optional(
        "the engine's own command-line flags, without the hyphens before them; true for one that takes no value",
        factory=dict,
        example={"tensor-parallel-size": 8},
    )
    env: Annotated[dict[str, str], EmptyForNothing] = _optional(
        "environment variables for the engine; no secrets",
        factory=dict,
        example={"VLLM_LOGGING_LEVEL": "WARNING"},
    )
    setup: str = _optional(
        "shell lines before this engine, after the cluster's", default="", example="module load cuda\n"
    )
    container: Container | None = _optional("run it in a container")
    start_timeout: PositiveDuration = _optional(
        "how long the engine may take until it answers; never longer than the walltime",
        default=EngineSpec(kind="").start_timeout_s,
        example="45m",
    )
    preflight: bool = _optional(
        "whether weights, GPUs, shared memory and disk are looked at on the node before the engine starts",
        default=True,
        example=False,
    )


class Resources(Section):
    """What one instance's job asks the scheduler for."""

    nodes: int = _optional("nodes of one instance", default=1, example=2, ge=1)
    gpus: int = _optional("GPUs on each node", default=0, example=8, ge=0)
    cpus: int | None = _optional("processor cores on each node", example=16, ge=1)
    memory: Size | None = _optional("main memory on each node", example="64GB")
    walltime: DurationOrNever = _optional(
        "how long the job may run; `never` (no end) only with the scheduler `local`, where it is the default",
        example="12:00:00",
    )
    gpu_type: SiteWord | None = _optional("kind of GPU, in the site's words", example="a100")
    gpu_request: GpuRequestField | None = _optional(f"{_GPU_REQUEST}; instead of the cluster's", example="gres")
    constraint: SiteWord | None = _optional("features a node must have, instead of the cluster's", example="gpu80")
    exclusive: bool | None = _optional("whole nodes, instead of the cluster's", example=True)
    account: SiteWord | None = _optional("account the job is charged to, instead of the cluster's", example="myproject")
    qos: SiteWord | None = _optional("quality of service, instead of the cluster's", example="premium")
    partition: SiteWord | None = _optional("partition or queue, instead of the cluster's", example="gpu")
    reservation: SiteWord | None = _optional("reservation to run in, instead of the cluster's", example="maintenance")
    extra: Annotated[list[SiteOption], NoListForNothing] = _optional(
        "further options after the cluster's, as the site's manual writes them",
        factory=list,
        example=["-l filesystems=home:eagle"],
    )


class Scaling(Section):
    """Bounds and manners of a deployment's size."""

    min: int = _optional("instances kept whether wanted or not", default=_S.min, example=1, ge=0)
    max: int = _optional("most serving instances, a successor not counted", default=_S.max, example=4, ge=1)
    in_flight: int = _optional("most requests sent to one instance at a time", default=_S.in_flight, example=32, ge=1)
    idle: DurationOrNever = _optional(
        "how long nobody must have wanted the model before an instance above `min` ends",
        default=_S.idle_s,
        example="30m",
    )
    linger: Duration | None = _optional(
        "how long a job that nobody wants any more keeps its place at the scheduler; default: as `idle`",
        example="1h",
    )
    handover: Literal["on", "off"] = _optional(
        "whether an instance whose job is about to end gets a successor before; `off`: only once it has ended",
        default="on",
        example="off",
    )


class Deployment(Section):
    """Desired state: a model on an engine at a cluster."""

    model: str = Field(description="a name from `models`", examples=["meta-llama/Llama-3.3-70B-Instruct"], min_length=1)
    cluster: str | None = _optional(
        "a name from `clusters`; none for an engine that already runs (`external`)", example="sophia", min_length=1
    )
    engine: Engine = Field(description="which engine, with which weights and arguments")
    resources: Annotated[Resources, EmptyForNothing] | None = _optional("what one instance's job asks for")
    scaling: Annotated[Scaling, EmptyForNothing] = _optional("bounds and manners of its size", factory=Scaling)
    update: Literal["roll", "drain-first"] = _optional(
        "how a change replaces instances: new ones first, or the old ones drained first",
        default="roll",
        example="drain-first",
    )


class File(Section):
    """The whole file."""

    gateway: Annotated[Gateway, EmptyForNothing] = _optional("the data plane", factory=Gateway)
    store: StoreField = _optional("the database", factory=Store)
    identity: Annotated[Identity, EmptyForNothing] = _optional("how callers prove who they are", factory=Identity)
    controller: Annotated[Controller, EmptyForNothing] = _optional("the decision loops", factory=Controller)
    clusters: Annotated[dict[Name, Cluster], EmptyForNothing] = _optional("clusters by name", factory=dict)
    models: Annotated[dict[ModelName, Annotated[Model, EmptyForNothing]], EmptyForNothing] = _optional(
        "models by public name", factory=dict
    )
    deployments: Annotated[dict[Name, Deployment], EmptyForNothing] = _optional("deployments by name", factory=dict)
