# SPDX-License-Identifier: Apache-2.0
"""`/api/v1/keys`: make, list and revoke API keys. Operators alone, in this version."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Path

from firstkit.adapters.identity.api_keys import new_key
from firstkit.apps.api.callers import Operator
from firstkit.apps.api.memory import Memory
from firstkit.apps.api.parts import Nudges, StoreCalls
from firstkit.core.errors import InvalidRequest, NotFound
from firstkit.core.nearest import nearest, or_list
from firstkit.core.principal import Principal, RateLimits, Role
from firstkit.ports.store import KeyRow, Store
from firstkit.wire.admin.people import KeyMade, KeyView, KeyWanted
from firstkit.wire.admin.shape import Listing


def keys_router(store: StoreCalls, memory: Memory, nudges: Nudges) -> APIRouter:
    """Make the routes."""
    router = APIRouter(prefix="/api/v1/keys", tags=["keys"])

    @router.get("", summary="List all keys, without the keys themselves (operator)")
    async def keys(_: Operator) -> Listing[KeyView]:  # pyright: ignore[reportUnusedFunction]
        now, rows = await store.call(lambda opened: (opened.now(), opened.key_list()))
        return Listing(data=[KeyView.of(row, now=now) for row in rows])

    @router.post("", status_code=201, summary="Make a key; this answer alone shows it (operator)")
    async def create(wanted: KeyWanted, _: Operator) -> KeyMade:  # pyright: ignore[reportUnusedFunction]
        for name in wanted.models or ():
            known = memory.known().directory.by_name
            if name not in known:
                close = nearest(name, known)
                hint = f"; did you mean {or_list(close)}?" if close else ""
                raise InvalidRequest(f"there is no model {name!r}{hint}", code="model_not_found", param="models")
        made = new_key()

        def add(opened: Store) -> KeyRow:
            # The principal's end is compared by gateways with their own wall clock; the row's with the store's.
            ends_at = None if wanted.expires_in_s is None else time.time() + wanted.expires_in_s
            principal = Principal(
                subject=f"key:{made.id}",
                name=wanted.name,
                groups=frozenset(wanted.groups),
                project=wanted.project,
                roles=frozenset(Role(role) for role in wanted.roles),
                models=None if wanted.models is None else frozenset(wanted.models),
                limits=RateLimits(
                    requests_per_minute=wanted.requests_per_minute, tokens_per_minute=wanted.tokens_per_minute
                ),
                expires_at=ends_at,
            )
            expires_at = None if wanted.expires_in_s is None else opened.now() + wanted.expires_in_s
            return opened.key_add(
                name=wanted.name, digest=made.digest, prefix=made.prefix, principal=principal, expires_at=expires_at
            )

        row = await store.call(add)
        nudges.send("keys")
        return KeyMade(key=made.key, about=KeyView.of(row, now=row.created_at))

    @router.delete("/{id_or_name}", summary="Revoke a key; it stops within a second (operator)")
    async def revoke(  # pyright: ignore[reportUnusedFunction]
        id_or_name: Annotated[str, Path(min_length=1, max_length=200)], _: Operator
    ) -> KeyView:
        row = await store.call(lambda opened: opened.key_revoke(id_or_name))
        if row is None:
            raise NotFound(f"there is no valid key {id_or_name[:100]!r}; `first keys list` shows them", param="key")
        nudges.send("keys")
        return KeyView.of(row, now=row.revoked_at or row.created_at)

    return router
