# SPDX-License-Identifier: Apache-2.0
"""What an installation offers: clusters, models, deployments and who may use them; one numbered revision at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

EXTERNAL = "external"
"""The engine kind that already runs somewhere: its deployments have no cluster and no job."""


class UpdateStyle(StrEnum):
    """How a changed deployment replaces its instances."""

    ROLL = "roll"
    DRAIN_FIRST = "drain-first"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may use a model; both empty means everyone who is signed in."""

    groups: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A public name for weights."""

    name: str
    aliases: tuple[str, ...] = ()
    access: Access = Access()
    max_model_len: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSpec:
    """Which scheduler dialect, and its site's options (partition, account, extra lines, …)."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerSpec:
    """Where the scheduler's commands run."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpec:
    """How bytes reach an instance.

    `ports` is inclusive on both ends; `address` is what the door listens on and is dialled at.
    """

    kind: str
    ports: tuple[int, int] | None = None
    address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterLimits:
    """Hard bounds on what firstkit may hold on a cluster at a time; None is no bound."""

    jobs: int | None = None
    nodes: int | None = None
    node_hours_per_day: float | None = None
    submits_per_hour: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """One batch-scheduler domain. `control` says how status travels: "http", "files" or "both".

    `gateways` are the addresses (host:port) of gateways' ports for doors, as this cluster's nodes reach them.
    """

    name: str
    scheduler: SchedulerSpec
    runner: RunnerSpec
    link: LinkSpec
    run_dir: str
    limits: ClusterLimits = ClusterLimits()
    setup: str = ""
    control: str = "both"
    gateways: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """What an engine runs in. `binds` are `SOURCE:TARGET:ro|rw`."""

    runtime: str
    image: str
    binds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """Which engine software with which weights and arguments; an adapter turns it into a command line.

    `options` holds what only some kinds know: `url`, `key_file` (external), `argv`, `health`, `serves`, `paths`
    (command),
    `venv`, `embeddings`, `slots`, … as each adapter's own option model defines.
    """

    kind: str
    model: str = ""
    args: Mapping[str, Any] = field(default_factory=dict[str, Any])
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    setup: str = ""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    start_timeout_s: float = 1800.0
    preflight: bool = True
    container: ContainerSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one instance's job asks the scheduler for; walltime None is unlimited (local only)."""

    nodes: int = 1
    gpus: int = 0
    cpus: int | None = None
    memory_bytes: int | None = None
    walltime_s: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Bounds and manners of a deployment's size. `in_flight` is the cap per instance; `idle_s` None never scales in.

    `handover`: an instance whose job is about to end is replaced before; without, only once it has ended.
    """

    min: int = 0
    max: int = 1
    in_flight: int = 64
    idle_s: float | None = 7200.0
    linger_s: float | None = None
    handover: bool = True

    @property
    def effective_linger_s(self) -> float | None:
        """Say how long a job nobody wants any more keeps its place (default: `idle`)."""
        return self.idle_s if self.linger_s is None else self.linger_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Desired state: a model on an engine at a cluster. `cluster` and `resources` are None for an external engine."""

    name: str
    model: str
    engine: EngineSpec
    cluster: str | None = None
    resources: Resources | None = None
    scaling: Scaling = Scaling()
    update: UpdateStyle = UpdateStyle.ROLL

    @property
    def external(self) -> bool:
        """Tell whether the engine is already running somewhere, so that there is no job to manage."""
        return self.cluster is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """One applied revision. Keys of the mappings are the names; the mappings are not changed after making."""

    revision: int = 0
    clusters: Mapping[str, Cluster] = field(default_factory=dict[str, Cluster])
    models: Mapping[str, Model] = field(default_factory=dict[str, Model])
    deployments: Mapping[str, Deployment] = field(default_factory=dict[str, Deployment])

    def deployments_of(self, model: str) -> tuple[Deployment, ...]:
        """List the deployments of a model (its name, not an alias) in the file's order."""
        return tuple(item for item in self.deployments.values() if item.model == model)
