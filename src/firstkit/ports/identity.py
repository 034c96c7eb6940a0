# SPDX-License-Identifier: Apache-2.0
"""Who is behind a credential: at once if it is known, otherwise asynchronously."""

from __future__ import annotations

from typing import Protocol

from firstkit.core.principal import Principal


class Identity(Protocol):
    """Resolve credentials without ever keeping one: everything is keyed by the credential's SHA-256."""

    def lookup(self, digest: bytes) -> Principal | None:
        """Answer from memory in constant time; None when unknown (ask `resolve`). Expired ones are unknown."""
        ...

    async def resolve(self, credential: str) -> Principal | None:
        """Ask whoever knows (the store, an identity provider); None when nobody does. Bounded by its own deadline."""
        ...
