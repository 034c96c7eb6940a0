# SPDX-License-Identifier: Apache-2.0
"""Callers and API keys, as people see them and ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import Field

from firstkit.core.principal import Principal
from firstkit.ports.store import KeyRow
from firstkit.wire.admin.shape import Sent, Shape, moment


class Whoami(Shape):
    """Who calls and what it may do. `models` are those the caller may use; limits None are no limit."""

    subject: str
    name: str
    roles: list[str]
    groups: list[str]
    project: str
    models: list[str]
    confined: bool
    requests_per_minute: int | None
    tokens_per_minute: int | None
    expires_at: datetime | None
    installation: str | None = None

    @staticmethod
    def of(principal: Principal, *, models: Sequence[str], operator: bool, installation: str | None) -> Whoami:
        roles = {role.value for role in principal.roles} | ({"operator"} if operator else set[str]())
        return Whoami(
            subject=principal.subject,
            name=principal.name,
            roles=sorted(roles),
            groups=sorted(principal.groups),
            project=principal.project,
            models=list(models),
            confined=principal.models is not None,
            requests_per_minute=principal.limits.requests_per_minute,
            tokens_per_minute=principal.limits.tokens_per_minute,
            expires_at=moment(principal.expires_at),
            installation=installation,
        )


class KeyView(Shape):
    """An API key, without the key."""

    id: str
    name: str
    prefix: str
    roles: list[str]
    groups: list[str]
    project: str
    models: list[str] | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    created_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    state: Literal["valid", "expired", "revoked"]

    @staticmethod
    def of(row: KeyRow, *, now: float) -> KeyView:
        expired = row.expires_at is not None and row.expires_at <= now
        return KeyView(
            id=row.id,
            name=row.name,
            prefix=row.prefix,
            roles=sorted(role.value for role in row.principal.roles),
            groups=sorted(row.principal.groups),
            project=row.principal.project,
            models=None if row.principal.models is None else sorted(row.principal.models),
            requests_per_minute=row.principal.limits.requests_per_minute,
            tokens_per_minute=row.principal.limits.tokens_per_minute,
            created_at=moment(row.created_at),
            expires_at=moment(row.expires_at),
            revoked_at=moment(row.revoked_at),
            last_used_at=moment(row.last_used_at),
            state="revoked" if row.revoked_at is not None else "expired" if expired else "valid",
        )


class KeyMade(Shape):
    """A new key: the only answer that ever holds it."""

    key: str
    about: KeyView


class KeyWanted(Sent):
    """What a new key is to be. Without `models` it may use every model its groups may; limits None are no limit."""

    name: str = Field(min_length=1, max_length=100, pattern=r"^\S(.*\S)?$")
    roles: tuple[Literal["user", "operator"], ...] = ("user",)
    groups: tuple[str, ...] = ()
    project: str = ""
    models: list[str] | None = None
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    expires_in_s: float | None = Field(default=None, gt=0)
