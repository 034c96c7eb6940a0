# SPDX-License-Identifier: Apache-2.0
"""`/api/v1`, what there is: who I am, models, clusters, deployments, instances, jobs, usage, health."""

from __future__ import annotations

import math
import time
from typing import Annotated, Any

from fastapi import APIRouter, Query

from firstkit import __version__
from firstkit.apps.api.callers import AnyCaller, Operator
from firstkit.apps.api.desired_feed import DesiredFeed
from firstkit.apps.api.fleet import read_fleet
from firstkit.apps.api.memory import Memory
from firstkit.apps.api.models import find_model, model_document
from firstkit.apps.api.parts import StoreCalls
from firstkit.core.errors import FirstError
from firstkit.core.health.nodes import REMEMBERED_S
from firstkit.ports.store import GatewayRow, Store
from firstkit.wire.admin.fleet import ClusterView, DeploymentView, GatewayView, Health, InstanceView, JobView
from firstkit.wire.admin.people import Whoami
from firstkit.wire.admin.requests import UsageView
from firstkit.wire.admin.shape import Listing

DAY_S = 86400.0
Ended = Annotated[bool, Query(description="Those too that ended within `within_s`.")]
Within = Annotated[float, Query(gt=0, le=90 * DAY_S, description="Seconds to look back.")]


def own_router(store: StoreCalls, memory: Memory) -> APIRouter:
    """Make the routes about the caller and what it may use."""
    router = APIRouter(prefix="/api/v1")

    @router.get("/whoami", tags=["you"], summary="Who you are and what you may use")
    async def whoami(caller: AnyCaller) -> Whoami:  # pyright: ignore[reportUnusedFunction]
        models = [model.name for model in memory.known().catalog.models.values() if caller.may_use(model)]
        installation = await store.call(lambda opened: opened.installation()) if caller.operator else None
        return Whoami.of(caller.principal, models=models, operator=caller.operator, installation=installation)

    @router.get("/models", tags=["models"], summary="The same as /v1/models")
    async def models(caller: AnyCaller) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        known, age_s = memory.offered(), memory.age_s()
        usable = [model for model in known.catalog.models.values() if caller.may_use(model)]
        return {"data": [model_document(known, model, caller, age_s=age_s) for model in usable]}

    @router.get("/usage", tags=["you"], summary="Requests and tokens by model: your own, or with all=true everybody's")
    async def usage(  # pyright: ignore[reportUnusedFunction]
        caller: AnyCaller,
        *,
        everybody: Annotated[bool, Query(alias="all", description="Everybody's (operator).")] = False,
        within_s: Within = DAY_S,
    ) -> Listing[UsageView]:
        subject = None if everybody and caller.operator else caller.principal.subject
        since = time.time() - within_s
        rows = await store.call(lambda opened: opened.usage_since(subject=subject, since=since))
        return Listing(
            data=[
                UsageView(model=model, requests=requests, input_tokens=tokens_in, output_tokens=tokens_out)
                for model, requests, tokens_in, tokens_out in rows
            ]
        )

    @router.get("/models/{model:path}", tags=["models"], summary="The same as /v1/models/{id}")
    async def model(model: str, caller: AnyCaller) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        known = memory.offered()
        return model_document(known, find_model(known, caller, model), caller, age_s=memory.age_s())

    return router


def fleet_router(store: StoreCalls, memory: Memory) -> APIRouter:
    """Make the routes about what runs where."""
    router = APIRouter(prefix="/api/v1")

    @router.get("/clusters", tags=["fleet"], summary="Clusters, what they serve, and whether they are stopped")
    async def clusters(caller: AnyCaller) -> Listing[ClusterView]:  # pyright: ignore[reportUnusedFunction]
        fleet = await store.call(lambda opened: read_fleet(opened, ended_within_s=REMEMBERED_S))
        return Listing(data=fleet.cluster_views(memory.known(), caller))

    @router.get("/deployments", tags=["fleet"], summary="Deployments with their bounds and overrides (operator)")
    async def deployments(_: Operator) -> Listing[DeploymentView]:  # pyright: ignore[reportUnusedFunction]
        fleet = await store.call(read_fleet)
        return Listing(data=fleet.deployment_views(memory.known()))

    @router.get("/instances", tags=["fleet"], summary="Instances of the models you may use")
    async def instances(  # pyright: ignore[reportUnusedFunction]
        caller: AnyCaller, *, ended: Ended = False, within_s: Within = DAY_S
    ) -> Listing[InstanceView]:
        fleet = await store.call(lambda opened: read_fleet(opened, ended_within_s=within_s if ended else None))
        return Listing(data=fleet.instance_views(memory.known(), caller))

    @router.get("/jobs", tags=["fleet"], summary="Scheduler jobs (operator)")
    async def jobs(  # pyright: ignore[reportUnusedFunction]
        _: Operator, *, ended: Ended = False, within_s: Within = DAY_S
    ) -> Listing[JobView]:
        fleet = await store.call(lambda opened: read_fleet(opened, ended_within_s=within_s if ended else None))
        return Listing(data=fleet.job_views())

    return router


def health_router(store: StoreCalls, memory: Memory, feed: DesiredFeed) -> APIRouter:
    """Make the route that tells how the parts are doing."""
    router = APIRouter(prefix="/api/v1")

    @router.get("/health", tags=["fleet"], summary="How store, controller and gateways are doing (operator)")
    async def health(_: Operator) -> Health:  # pyright: ignore[reportUnusedFunction]
        def look(opened: Store) -> tuple[str, list[GatewayRow]]:
            return opened.installation(), opened.gateways(within_s=60.0)

        await memory.refresh()
        try:
            installation, gateways = await store.call(look)
        except FirstError:
            installation, gateways = None, list[GatewayRow]()
        known = memory.known()
        silent_s = memory.controller_silent_s
        return Health(
            version=__version__,
            installation=installation,
            store="away" if memory.away else "ok",
            store_detail=memory.away,
            revision=known.catalog.revision,
            snapshot=known.snapshot.version,
            controller_silent_s=round(silent_s, 3) if math.isfinite(silent_s) else None,
            gateways=[GatewayView.of(row) for row in gateways],
            launchers_held=feed.waiting,
        )

    return router
