# SPDX-License-Identifier: Apache-2.0
"""`/api/v1`, the questions: where a request went, why a model is as it is, what happened, what an engine wrote."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query

from firstkit.apps.api.callers import AnyCaller, Operator
from firstkit.apps.api.fleet import Fleet, read_fleet
from firstkit.apps.api.logs import tail
from firstkit.apps.api.memory import Memory
from firstkit.apps.api.models import find_model, shown_status
from firstkit.apps.api.parts import StoreCalls
from firstkit.apps.api.sentences import explain, left_out, why
from firstkit.core.catalog import Catalog
from firstkit.core.errors import NotFound, SiteError
from firstkit.core.health.nodes import REMEMBERED_S
from firstkit.core.instance.record import Instance
from firstkit.core.job.record import Job
from firstkit.ports.store import EventRow, Store
from firstkit.wire.admin.fleet import EventView, LogTail
from firstkit.wire.admin.requests import AttemptView, Explained, Why
from firstkit.wire.admin.shape import Listing

_EVENTS = 20


def asking_router(store: StoreCalls, memory: Memory) -> APIRouter:
    """Make the routes."""
    router = APIRouter(prefix="/api/v1")

    @router.get("/requests/{request}", tags=["you"], summary="Where a request went, and why")
    async def explained(request: str, caller: AnyCaller) -> Explained:  # pyright: ignore[reportUnusedFunction]
        attempts = await store.call(lambda opened: opened.attempts(request))
        if not attempts or not (caller.operator or attempts[0].subject == caller.principal.subject):
            raise NotFound(
                f"there is no finished request {request[:100]!r} of yours; its id is in the answer's x-request-id, and "
                "it is found a few seconds after its end",
                code="request_not_found",
            )
        return Explained(
            request=request, sentences=explain(attempts), attempts=[AttemptView.of(record) for record in attempts]
        )

    @router.get("/why/{model:path}", tags=["models"], summary="Why a model is as it is, in one sentence")
    async def why_model(model: str, caller: AnyCaller) -> Why:  # pyright: ignore[reportUnusedFunction]
        known = memory.known()
        found = find_model(known, caller, model)
        status = shown_status(known, found, caller)
        events: list[EventRow] = []
        fleet: Fleet | None = None
        if caller.operator:
            events = await store.call(lambda opened: _events_of(opened, known.catalog, found.name))
            fleet = await store.call(lambda opened: read_fleet(opened, ended_within_s=REMEMBERED_S))
        return Why(
            model=found.name,
            state=status.heat,
            sentence=" ".join([why(status, age_s=memory.age_s()), *_left_out(fleet, known.catalog, found.name)]),
            events=[EventView.of(row) for row in events],
        )

    @router.get(
        "/history/{subject}", tags=["fleet"], summary="What happened to a job, instance or deployment (operator)"
    )
    async def history(  # pyright: ignore[reportUnusedFunction]
        subject: str, _: Operator, limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> Listing[EventView]:
        rows = await store.call(lambda opened: opened.events(subject=subject, limit=limit))
        return Listing(data=[EventView.of(row) for row in rows])

    return router


def logs_router(store: StoreCalls, memory: Memory) -> APIRouter:
    """Make the route to an engine's log."""
    router = APIRouter(prefix="/api/v1")

    @router.get("/instances/{instance}/log", tags=["fleet"], summary="The last lines of an engine's log (operator)")
    async def log(  # pyright: ignore[reportUnusedFunction]
        instance: str, _: Operator, lines: Annotated[int, Query(ge=1, le=10_000)] = 100
    ) -> LogTail:
        found, job = await store.call(lambda opened: _instance_of(opened, instance))
        cluster = memory.known().catalog.clusters.get(found.cluster)
        if job is not None and (cluster is None or cluster.runner.kind == "local"):
            path = f"{job.run_dir}/{found.id}/engine.log"
            read = await to_thread.run_sync(tail, path, lines)
            if read is not None:
                return LogTail(instance=found.id, source=path, lines=read)
        if found.exit_tail:
            return LogTail(instance=found.id, source="exit report", lines=list(found.exit_tail)[-lines:])
        if job is None:
            raise NotFound(f"{found.id} was not started by firstkit: its engine keeps its own log", code="no_log")
        raise SiteError(
            f"the log lies at {found.cluster} in {job.run_dir}/{found.id}/engine.log; read it there",
            code="log_elsewhere",
        )

    return router


def _instance_of(store: Store, name: str) -> tuple[Instance, Job | None]:
    instances = store.instances(ended_since=0.0)
    found = next((item for item in instances if item.id == name), None)
    if found is None:
        raise NotFound(
            f"there is no instance {name[:100]!r}; `first instances --ended` lists them", code="instance_not_found"
        )
    jobs = store.jobs(ended_since=0.0) if found.job else []
    return found, next((job for job in jobs if job.id == found.job), None)


def _left_out(fleet: Fleet | None, catalog: Catalog, model: str) -> list[str]:
    """Say which nodes new jobs of the model are kept off; operators alone are told of machines."""
    if fleet is None:
        return []
    clusters = dict.fromkeys(item.cluster for item in catalog.deployments_of(model) if item.cluster is not None)
    return [left_out(cluster, one, now=fleet.now) for cluster in clusters for one in fleet.excluded(cluster)]


def _events_of(store: Store, catalog: Catalog, model: str) -> list[EventRow]:
    """Gather the newest events of the model's deployments and of their instances and jobs."""
    deployments = {item.name for item in catalog.deployments_of(model)}
    instances = [item for item in store.instances(ended_since=store.now() - 3600) if item.deployment in deployments]
    newest = sorted(instances, key=lambda item: item.created_at)[-5:]
    subjects = [*deployments, *(item.id for item in newest), *(item.job for item in newest if item.job)]
    rows = [row for subject in subjects for row in store.events(subject=subject, limit=_EVENTS)]
    return sorted(rows, key=lambda row: row.at)[-_EVENTS:]
