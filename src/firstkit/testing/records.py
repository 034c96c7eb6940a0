# SPDX-License-Identifier: Apache-2.0
"""Jobs, instances, deployments and catalogs for tests: complete, unremarkable, each field to be set by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from firstkit.core.catalog import (
    Catalog,
    Cluster,
    Deployment,
    EngineSpec,
    LinkSpec,
    Model,
    Resources,
    RunnerSpec,
    SchedulerSpec,
)
from firstkit.core.instance.record import Instance, InstanceState
from firstkit.core.job.record import Job, JobState
from firstkit.core.reasons import Reason
from firstkit.core.request import AttemptRecord
from firstkit.ports.store import GatewayStore
from firstkit.services.spool import encode, read_row

T0 = 1_000_000.0
"""A moment of the store's clock at which tests begin."""


def make_job(**fields: Any) -> Job:
    """Make a planned job of the deployment `demo` on the cluster `local`."""
    usual = Job(
        id="j-000000000001",
        cluster="local",
        deployment="demo",
        revision=1,
        spec="spec-1",
        run_dir="/run/j-000000000001",
        state=JobState.PLANNED,
        reason=Reason.DEMAND,
        state_at=T0,
        created_at=T0,
    )
    return replace(usual, **fields)


def make_instance(**fields: Any) -> Instance:
    """Make a planned instance of the deployment `demo` in that job."""
    usual = Instance(
        id="i-000000000001",
        deployment="demo",
        model="demo-model",
        cluster="local",
        job="j-000000000001",
        slot=0,
        revision=1,
        spec="spec-1",
        state=InstanceState.PLANNED,
        reason=Reason.DEMAND,
        state_at=T0,
        created_at=T0,
    )
    return replace(usual, **fields)


def make_deployment(name: str = "demo", **fields: Any) -> Deployment:
    """Make a deployment of the model `demo-model` by a `command` engine on the cluster `local`."""
    usual = Deployment(
        name=name,
        model="demo-model",
        engine=EngineSpec(kind="command", options={"argv": ["serve"], "health": "/health"}),
        cluster="local",
        resources=Resources(),
    )
    return replace(usual, **fields)


def make_cluster(name: str = "local", **fields: Any) -> Cluster:
    """Make a local cluster."""
    usual = Cluster(
        name=name,
        scheduler=SchedulerSpec(kind="local"),
        runner=RunnerSpec(kind="local"),
        link=LinkSpec(kind="local"),
        run_dir=f"/run/{name}",
    )
    return replace(usual, **fields)


def make_catalog(deployments: Iterable[Deployment], *, clusters: Iterable[Cluster] = (), revision: int = 1) -> Catalog:
    """Make a catalog of these deployments, with their models, and the cluster `local` unless others are given."""
    items = list(deployments)
    places = list(clusters) or [make_cluster()]
    return Catalog(
        revision=revision,
        clusters={item.name: item for item in places},
        models={item.model: Model(name=item.model) for item in items},
        deployments={item.name: item for item in items},
    )


def settle(store: GatewayStore, records: Iterable[AttemptRecord]) -> int:
    """Put attempts into a store as a gateway does: by way of the lines of its spool."""
    return store.settle([read_row(encode(record)) for record in records])
