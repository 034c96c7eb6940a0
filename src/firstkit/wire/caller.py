# SPDX-License-Identifier: Apache-2.0
"""The caller as the gateway tells the api: one header with base64url of a small JSON object."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, cast

from firstkit.core.errors import InternalError
from firstkit.core.principal import Principal, RateLimits, Role

PRINCIPAL = "x-first-principal"
ADMIN = "x-first-admin"
"""Set to 1 by the gateway on its admin listener alone; the gateway strips what clients send under both names."""


def encode_principal(principal: Principal) -> str:
    """Write the header's value; sets are sorted, so that equal principals give equal headers."""
    document: dict[str, Any] = {
        "subject": principal.subject,
        "name": principal.name,
        "groups": sorted(principal.groups),
        "domain": principal.domain,
        "project": principal.project,
        "roles": sorted(principal.roles),
        "models": None if principal.models is None else sorted(principal.models),
        "requests_per_minute": principal.limits.requests_per_minute,
        "tokens_per_minute": principal.limits.tokens_per_minute,
        "expires_at": principal.expires_at,
    }
    return base64.urlsafe_b64encode(json.dumps(document, separators=(",", ":")).encode()).decode()


def decode_principal(header: str) -> Principal:
    """Read it; InternalError when it is not what a gateway writes, since nobody else can have sent it."""
    try:
        padded = header + "=" * (-len(header) % 4)
        document = cast("dict[str, Any]", json.loads(base64.urlsafe_b64decode(padded)))
        models = document.get("models")
        known = {role.value for role in Role}
        return Principal(
            subject=document["subject"],
            name=document.get("name") or document["subject"],
            groups=frozenset(document.get("groups") or ()),
            domain=document.get("domain") or "",
            project=document.get("project") or "",
            roles=frozenset(Role(role) for role in document.get("roles") or () if role in known),
            models=None if models is None else frozenset(models),
            limits=RateLimits(
                requests_per_minute=document.get("requests_per_minute"),
                tokens_per_minute=document.get("tokens_per_minute"),
            ),
            expires_at=document.get("expires_at"),
        )
    except (binascii.Error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InternalError("the gateway handed on a caller that the api cannot read", code="bad_principal") from error
