# SPDX-License-Identifier: Apache-2.0
"""`/api/v1/overrides`: an operator's temporary changes beside the catalog, with who, when, until and why."""

from __future__ import annotations

from enum import StrEnum

from fastapi import APIRouter

from firstkit.apps.api.callers import Operator
from firstkit.apps.api.memory import Memory
from firstkit.apps.api.parts import Nudges, StoreCalls
from firstkit.core.catalog import Catalog
from firstkit.core.errors import InvalidRequest, NotFound
from firstkit.core.nearest import nearest, or_list
from firstkit.ports.store import Override, Store
from firstkit.wire.admin.revisions import OverrideView, OverrideWanted
from firstkit.wire.admin.shape import Listing


class Kind(StrEnum):
    """What an override does."""

    SCALE = "scale"
    CORDON = "cordon"
    DRAIN = "drain"
    STOP = "stop"
    RELEASE = "release"
    MAINTENANCE = "maintenance"
    READMIT = "readmit"


def overrides_router(store: StoreCalls, memory: Memory, nudges: Nudges) -> APIRouter:
    """Make the routes."""
    router = APIRouter(prefix="/api/v1/overrides", tags=["overrides"])

    @router.get("", summary="List overrides (operator)")
    async def overrides(_: Operator) -> Listing[OverrideView]:  # pyright: ignore[reportUnusedFunction]
        rows = await store.call(lambda opened: opened.overrides())
        return Listing(data=[OverrideView.of(row) for row in rows])

    @router.put("/{kind}/{subject}", summary="Set an override (operator)")
    async def put(kind: Kind, subject: str, wanted: OverrideWanted, caller: Operator) -> OverrideView:  # pyright: ignore[reportUnusedFunction]
        catalog = memory.known().catalog
        value: dict[str, int] = {str(key): number for key, number in wanted.value.items()}
        if kind is Kind.SCALE:
            _check_scale(catalog, subject, value)
        elif kind is Kind.MAINTENANCE:
            _check_maintenance(value, for_s=wanted.for_s)
        elif value:
            raise InvalidRequest(f"a {kind} has no value", param="value")

        def set_it(opened: Store) -> Override:
            _check_subject(opened, catalog, kind, subject)
            now = opened.now()
            until, held = None if wanted.for_s is None else now + wanted.for_s, value
            if kind is Kind.MAINTENANCE:  # only durations travel: the moments are in the store's clock
                starts_at = int(now) + value["starts_in_s"]
                held = {"starts_at": starts_at, "ends_at": starts_at + value["lasts_s"]}
                until = float(held["ends_at"])
            return opened.set_override(
                kind=kind, subject=subject, value=held, by=caller.principal.name, until=until, note=wanted.note
            )

        row = await store.call(set_it)
        nudges.send("catalog")
        return OverrideView.of(row)

    @router.delete("/{kind}/{subject}", summary="Clear an override (operator)")
    async def clear(kind: Kind, subject: str, _: Operator) -> Listing[OverrideView]:  # pyright: ignore[reportUnusedFunction]
        there, rest = await store.call(
            lambda opened: (opened.clear_override(kind=kind, subject=subject), opened.overrides())
        )
        if not there:
            raise NotFound(f"{subject!r} has no {kind} to clear", code="override_not_found", param="subject")
        nudges.send("catalog")
        return Listing(data=[OverrideView.of(row) for row in rest])

    return router


def _check_scale(catalog: Catalog, subject: str, value: dict[str, int]) -> None:
    if not value or not value.keys() <= {"min", "max"}:
        raise InvalidRequest("say min, max or both", param="value")
    if any(number < 0 for number in value.values()):
        raise InvalidRequest("min and max are zero or more", param="value")
    deployment = catalog.deployments.get(subject)
    if deployment is not None:
        low = value.get("min", deployment.scaling.min)
        high = value.get("max", deployment.scaling.max)
        if low > high:
            raise InvalidRequest(f"min {low} is above max {high}; give both", param="value")


def _check_maintenance(value: dict[str, int], *, for_s: float | None) -> None:
    if value.keys() != {"starts_in_s", "lasts_s"}:
        raise InvalidRequest("say starts_in_s and lasts_s, in seconds", param="value")
    if value["starts_in_s"] < 0 or value["lasts_s"] <= 0:
        raise InvalidRequest("a maintenance starts now or later, and lasts for some time", param="value")
    if for_s is not None:
        raise InvalidRequest("a maintenance holds until it is over; lasts_s says when that is", param="for_s")


def _check_subject(store: Store, catalog: Catalog, kind: Kind, subject: str) -> None:
    """Refuse a name that nothing bears, with the nearest that something does."""
    if kind in {Kind.STOP, Kind.MAINTENANCE, Kind.READMIT}:
        what, names = "cluster", set(catalog.clusters)
    else:
        what, names = "deployment", set(catalog.deployments)
        if kind in {Kind.CORDON, Kind.DRAIN}:
            what, names = "deployment or instance", names | {item.id for item in store.instances()}
    if subject not in names:
        close = nearest(subject, names)
        hint = f"did you mean {or_list(close)}?" if close else f"there is {or_list(sorted(names)[:5]) or 'none'}"
        raise NotFound(f"there is no {what} {subject[:100]!r}; {hint}", code="subject_not_found", param="subject")
