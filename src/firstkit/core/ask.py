# SPDX-License-Identifier: Apache-2.0
"""What one job asks a batch scheduler for: the deployment's words, and the cluster's where it says none."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from firstkit.core.catalog import Cluster, Resources


class GpuRequest(StrEnum):
    """How GPUs are asked for. NONE: not at all, where a node comes with all it has."""

    GRES = "gres"
    GPUS_PER_NODE = "gpus-per-node"
    SELECT = "select"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One job's needs in neutral words; "" and None leave it to the site. `partition` is PBS's queue.

    `gpus`, `cpus` and `memory_bytes` are for each node. `extra` holds whole options in the site's words, the cluster's
    before the deployment's; `gpu_request` None is the scheduler's usual way.
    """

    nodes: int = 1
    gpus: int = 0
    cpus: int | None = None
    memory_bytes: int | None = None
    walltime_s: float | None = None
    partition: str = ""
    account: str = ""
    qos: str = ""
    reservation: str = ""
    constraint: str = ""
    gpu_type: str = ""
    gpu_request: GpuRequest | None = None
    exclusive: bool = False
    extra: tuple[str, ...] = ()


def ask_of(cluster: Cluster, resources: Resources) -> Ask:
    """Put together what a job of these resources asks on this cluster; `extra` of both, else the deployment's word."""
    ours, theirs = resources.options, cluster.scheduler.options

    def word(name: str) -> Any:
        return ours[name] if name in ours else theirs.get(name)

    request = word("gpu_request")
    return Ask(
        nodes=resources.nodes,
        gpus=resources.gpus,
        cpus=resources.cpus,
        memory_bytes=resources.memory_bytes,
        walltime_s=resources.walltime_s,
        partition=str(word("partition") or ""),
        account=str(word("account") or ""),
        qos=str(word("qos") or ""),
        reservation=str(word("reservation") or ""),
        constraint=str(word("constraint") or ""),
        gpu_type=str(word("gpu_type") or ""),
        gpu_request=GpuRequest(request) if request else None,
        exclusive=bool(word("exclusive")),
        extra=(*theirs.get("extra", ()), *ours.get("extra", ())),
    )
