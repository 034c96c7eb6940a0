# SPDX-License-Identifier: Apache-2.0
"""`/api/v1/revisions`: apply a catalog, compare one with what is applied, and the overrides beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request

from firstkit.apps.api.callers import Operator
from firstkit.apps.api.control import bounded_body
from firstkit.apps.api.memory import Memory
from firstkit.apps.api.parts import Checked, Nudges, StoreCalls
from firstkit.core.catalog import Catalog
from firstkit.core.catalog_diff import diff
from firstkit.core.errors import ConfigError, InvalidRequest, NotFound
from firstkit.ports.store import Revision, Store
from firstkit.wire.admin.revisions import (
    Applied,
    ChangeView,
    Difference,
    FindingView,
    OverrideView,
    RevisionView,
)
from firstkit.wire.admin.shape import Listing

DOCUMENT_LIMIT = 1_000_000
Check = Callable[[str, str], Checked]
YAML_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A configuration file as it is, up to 1 MB.",
        "content": {"application/yaml": {"schema": {"type": "string"}}},
    }
}
Name = Annotated[str, Query(max_length=500, description="The file's name, for the places of mistakes.")]


def revisions_router(store: StoreCalls) -> APIRouter:
    """Make the routes that show what was applied."""
    router = APIRouter(prefix="/api/v1", tags=["catalog"])

    @router.get("/revisions", summary="List applied catalogs, newest first (operator)")
    async def revisions(  # pyright: ignore[reportUnusedFunction]
        _: Operator, limit: Annotated[int, Query(ge=1, le=500)] = 50
    ) -> Listing[RevisionView]:
        rows = await store.call(lambda opened: opened.revisions(limit=limit))
        return Listing(data=[RevisionView.of(row, whole=False) for row in rows])

    @router.get(
        "/revisions/{number}", summary="One applied catalog with its document; `current` is the newest (operator)"
    )
    async def revision(  # pyright: ignore[reportUnusedFunction]
        number: Annotated[str, Path(pattern=r"^(current|\d{1,9})$")], _: Operator
    ) -> RevisionView:
        def find(opened: Store) -> Revision | None:
            if number == "current":
                return opened.current_revision()
            return opened.revision(int(number))

        row = await store.call(find)
        if row is None:
            raise NotFound(f"there is no revision {number}; `GET /api/v1/revisions` lists them", param="number")
        return RevisionView.of(row, whole=True)

    return router


def applying_router(store: StoreCalls, memory: Memory, nudges: Nudges, *, check: Check) -> APIRouter:
    """Make the routes; `check` reads a document with all its mistakes (blocking: it looks at paths)."""
    router = APIRouter(prefix="/api/v1", tags=["catalog"])

    async def sent(request: Request, name: str) -> Checked:
        body = await bounded_body(request, limit=DOCUMENT_LIMIT)
        try:
            text = body.decode()
        except UnicodeDecodeError:
            raise InvalidRequest("the file is not UTF-8; save it as UTF-8", code="invalid_config") from None
        return await to_thread.run_sync(check, text, name)

    async def settings(before: Revision | None, after: Checked) -> list[str]:
        """Say which process settings differ; the old file may not pass today's checks, and then nobody can say."""
        if before is None:
            return []
        try:
            old = await to_thread.run_sync(check, before.document, f"revision {before.number}")
        except ConfigError:
            return []
        return after.settings_against(old)

    @router.post("/revisions", openapi_extra=YAML_BODY, summary="Apply a catalog, whole or not at all (operator)")
    async def apply(request: Request, caller: Operator, name: Name = "first.yaml") -> Applied:  # pyright: ignore[reportUnusedFunction]
        checked = await sent(request, name)
        before = await store.call(lambda opened: opened.current_revision())
        old = memory.known().catalog
        by = f"{caller.principal.name} ({name})"
        row = await store.call(lambda opened: opened.add_revision(document=checked.document, by=by))
        nudges.send("catalog")
        await memory.refresh()
        return Applied(
            revision=RevisionView.of(row, whole=False),
            changed=before is None or row.number != before.number,
            changes=_changes(old, checked.catalog),
            settings=await settings(before, checked),
            warnings=[FindingView.of(item) for item in checked.warnings],
        )

    @router.post("/diff", openapi_extra=YAML_BODY, summary="Say what an apply would change (operator)")
    async def compare(request: Request, _: Operator, name: Name = "first.yaml") -> Difference:  # pyright: ignore[reportUnusedFunction]
        checked = await sent(request, name)
        before, overrides = await store.call(lambda opened: (opened.current_revision(), opened.overrides()))
        return Difference(
            against=before.number if before else 0,
            changes=_changes(memory.known().catalog, checked.catalog),
            settings=await settings(before, checked),
            warnings=[FindingView.of(item) for item in checked.warnings],
            overrides=[OverrideView.of(item) for item in overrides],
        )

    return router


def _changes(old: Catalog, new: Catalog) -> list[ChangeView]:
    return [ChangeView.of(change) for change in diff(old, new).changes]
