# SPDX-License-Identifier: Apache-2.0
"""The authenticated caller, as every identity provider delivers it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a principal may do besides using models."""

    USER = "user"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """What one principal may ask for per minute; None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who calls.

    `subject` is stable and unique within the installation ("key:<id>", "oidc:<issuer>#<sub>"); limits and fairness are
    kept per subject. `models` None means no restriction beyond the models' own access; names or aliases otherwise.
    `expires_at` is wall time (Unix seconds) and is compared at lookup, never afterwards.
    """

    subject: str
    name: str
    groups: frozenset[str] = frozenset()
    domain: str = ""
    project: str = ""
    roles: frozenset[Role] = frozenset({Role.USER})
    models: frozenset[str] | None = None
    limits: RateLimits = RateLimits()
    expires_at: float | None = None
