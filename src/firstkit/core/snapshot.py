# SPDX-License-Identifier: Apache-2.0
"""Build what gateways act on: routes to serving instances and how each model is doing, from records alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from firstkit.core.catalog import Catalog, Deployment
from firstkit.core.instance.record import Contact, Instance, InstanceState
from firstkit.core.job.record import Job, JobState
from firstkit.core.reasons import Reason
from firstkit.core.scaling.diff import Changes
from firstkit.core.scaling.failures import Standing
from firstkit.core.scaling.forecast import Typical, to_hot_s
from firstkit.core.scaling.walltime import End
from firstkit.core.topology import Heat, ModelStatus, Route

_COMING = frozenset({InstanceState.PLANNED, InstanceState.LOADING})


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One deployment as the controller sees it at this moment.

    `used`: somebody uses it just now. `walltime_s` is what a job that is submitted now asks for; `notices` are what is
    announced for its cluster.
    """

    deployment: Deployment
    changes: Changes
    standing: Standing
    usual: Typical
    cordoned: bool = False
    used: bool = False
    walltime_s: float | None = None
    notices: tuple[str, ...] = ()


def ends_at(instance: Instance, ends: Mapping[str, End]) -> float | None:
    """Return the moment past which nothing may be routed to an instance; None is no end."""
    end = ends.get(instance.id)
    moments = [moment for moment in (instance.drain_by, end.at if end else None) if moment is not None]
    return min(moments) if moments else None


def routes(
    instances: Iterable[Instance],
    *,
    ends: Mapping[str, End],
    made_from: Callable[[Instance], Deployment | None],
    cordoned: frozenset[str],
    paths: Callable[[Deployment], frozenset[str]],
    served_name: Callable[[Deployment], str],
    now: float,
) -> tuple[Route, ...]:
    """List the routes to READY and DRAINING instances that are not lost; cordoned ones take no new requests.

    `made_from` gives the deployment that an instance was made from, which may not be in the catalog any more.
    """
    found: list[Route] = []
    for item in sorted(instances, key=lambda one: one.id):
        serving = item.state in {InstanceState.READY, InstanceState.DRAINING} and item.ready_at is not None
        if not serving or item.address is None or item.contact is Contact.LOST:
            continue
        deployment = made_from(item)
        if deployment is None:
            continue
        end = ends_at(item, ends)
        found.append(
            Route(
                instance=item.id,
                deployment=item.deployment,
                model=item.model,
                cluster=item.cluster,
                engine=deployment.engine.kind,
                address=item.address,
                cap=deployment.scaling.in_flight,
                draining=item.state is InstanceState.DRAINING or item.id in cordoned or item.deployment in cordoned,
                ends_in_s=max(0.0, end - now) if end is not None else None,
                served_name=served_name(deployment),
                authorization=f"Bearer {item.engine_key}" if item.engine_key else None,
                max_model_len=item.max_model_len,
                paths=paths(deployment),
            )
        )
    return tuple(found)


def statuses(
    views: Sequence[View],
    *,
    instances: Iterable[Instance],
    jobs: Mapping[str, Job],
    catalog: Catalog,
    paths: Callable[[Deployment], frozenset[str]],
    now: float,
) -> tuple[ModelStatus, ...]:
    """Say for every model of the catalog how it is doing: its best deployment decides."""
    of_deployment: dict[str, list[Instance]] = {}
    for item in instances:
        of_deployment.setdefault(item.deployment, []).append(item)
    of_model: dict[str, list[View]] = {}
    for view in views:
        of_model.setdefault(view.deployment.model, []).append(view)
    found: list[ModelStatus] = []
    for model in catalog.models.values():
        mine = of_model.get(model.name, [])
        each = [_status(view, of_deployment.get(view.deployment.name, []), jobs, now) for view in mine]
        best = min(each, key=_rank) if each else _no_deployment(model.name)
        own = (item for view in mine for item in of_deployment.get(view.deployment.name, []))
        lengths = [item.max_model_len for item in own if item.max_model_len]
        served = frozenset[str]().union(*(paths(view.deployment) for view in mine))
        clusters = tuple(dict.fromkeys(view.deployment.cluster or view.deployment.name for view in mine))
        found.append(
            ModelStatus(
                model=best.model,
                heat=best.heat,
                reason=best.reason,
                detail=best.detail,
                held=all(item.held for item in each or [best]),
                for_s=best.for_s,
                to_hot_s=best.to_hot_s,
                fraction=best.fraction,
                text=best.text,
                clusters=clusters,
                max_model_len=model.max_model_len or (max(lengths) if lengths else None),
                paths=served,
                relief=any(item.relief for item in each),
                relief_s=min((item.relief_s for item in each if item.relief_s is not None), default=None),
                notices=tuple(dict.fromkeys(notice for view in mine for notice in view.notices)),
            )
        )
    return tuple(found)


def _rank(status: ModelStatus) -> tuple[int, int, float]:
    """Order by what a user would rather hear of: hot, then nearest to it, held last."""
    heat = (Heat.HOT, Heat.WARM, Heat.QUEUED, Heat.COLD).index(status.heat)
    return int(status.held), heat, status.to_hot_s if status.to_hot_s is not None else float("inf")


def _no_deployment(model: str) -> ModelStatus:
    return ModelStatus(
        model=model, heat=Heat.COLD, reason=Reason.REMOVED, detail="no deployment serves this model", held=True
    )


def _status(view: View, instances: Sequence[Instance], jobs: Mapping[str, Job], now: float) -> ModelStatus:
    """Say how one deployment is doing."""
    model = view.deployment.model
    ready = [item for item in instances if item.state is InstanceState.READY and item.contact is not Contact.LOST]
    coming = (_coming(view, item, jobs.get(item.job or ""), now) for item in instances if item.state in _COMING)
    best = min(coming, key=_rank, default=None)
    if ready:
        since = min(item.ready_at or now for item in ready)
        status = ModelStatus(model=model, heat=Heat.HOT, reason=Reason.SERVING, for_s=now - since, to_hot_s=0.0)
        return replace(status, relief=best is not None, relief_s=best.to_hot_s if best is not None else None)
    if best is not None:
        return replace(best, relief=True, relief_s=best.to_hot_s)
    changes, standing = view.changes, view.standing
    eta = to_hot_s(view.usual, queued_for_s=None, booting_for_s=None, loading_for_s=None)
    if changes.verdict is Reason.BACKING_OFF and eta is not None:
        eta += standing.wait_s
    if changes.verdict is Reason.MAINTENANCE and eta is not None:
        eta += changes.barred_s
    held = standing.held or changes.verdict in {Reason.CLUSTER_STOPPED, Reason.CORDONED, Reason.REMOVED}
    return ModelStatus(
        model=model,
        heat=Heat.COLD,
        reason=(standing.reason or Reason.HELD) if standing.held else changes.verdict,
        detail=standing.detail if standing.held else changes.detail,
        held=held,
        to_hot_s=None if held else eta,
    )


def _coming(view: View, instance: Instance, job: Job | None, now: float) -> ModelStatus:
    """Say how far one instance is that does not serve yet."""
    since = now - instance.state_at
    if instance.state is InstanceState.LOADING:
        return ModelStatus(
            model=instance.model,
            heat=Heat.WARM,
            reason=Reason.LOADING if instance.job else Reason.UNREACHABLE,
            detail=instance.detail,
            for_s=since,
            to_hot_s=to_hot_s(view.usual, queued_for_s=None, booting_for_s=None, loading_for_s=since),
            fraction=instance.fraction,
            text=instance.progress,
        )
    state = job.state if job else JobState.PLANNED
    booting = state in {JobState.RUNNING, JobState.ENDING}
    spent = now - (job.state_at if job else instance.created_at)
    eta = to_hot_s(
        view.usual,
        queued_for_s=None if booting else spent,
        booting_for_s=spent if booting else None,
        loading_for_s=None,
    )
    return ModelStatus(
        model=instance.model,
        heat=Heat.WARM if booting else Heat.QUEUED,
        reason=Reason.BOOTING if booting else (job.reason if job else instance.reason),
        detail=job.detail if job else "",
        for_s=spent,
        to_hot_s=eta,
    )
