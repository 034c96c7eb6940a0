# SPDX-License-Identifier: Apache-2.0
"""Who calls: the principal that the gateway hands on, and whether the call came in on the admin listener."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from firstkit.core.access import may_see, may_use
from firstkit.core.catalog import Model
from firstkit.core.errors import Forbidden, Unauthenticated
from firstkit.core.principal import Principal, Role
from firstkit.wire.caller import ADMIN, PRINCIPAL, decode_principal

_ADMIN_SOCKET = Principal(subject="admin", name="admin listener", roles=frozenset({Role.USER, Role.OPERATOR}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A principal and what it may do here."""

    principal: Principal
    operator: bool

    def may_use(self, model: Model) -> bool:
        """Tell whether the caller may send the model requests; operators see to all of them."""
        return self.operator or may_use(self.principal, model)

    def may_see(self, model: Model) -> bool:
        """Tell whether the model exists as far as the caller is concerned."""
        return self.operator or may_see(self.principal, model)


def caller_of(request: Request) -> Caller:
    """Read who calls from the gateway's headers; Unauthenticated without any."""
    header = request.headers.get(PRINCIPAL)
    admin = request.headers.get(ADMIN) == "1"
    if header:
        principal = decode_principal(header)
        return Caller(principal=principal, operator=admin or Role.OPERATOR in principal.roles)
    if admin:
        return Caller(principal=_ADMIN_SOCKET, operator=True)
    raise Unauthenticated(
        "no API key was sent; give one as `Authorization: Bearer fk-…` (operators make them: `first keys create`)",
        code="missing_api_key",
    )


def operator_of(request: Request) -> Caller:
    """Read who calls; Forbidden unless it is an operator."""
    caller = caller_of(request)
    if not caller.operator:
        raise Forbidden(
            "this is for operators; use the admin listener (on that machine: `first … --data DIR`) or a key made with "
            "`--role operator`",
            code="operator_only",
        )
    return caller


AnyCaller = Annotated[Caller, Depends(caller_of)]
Operator = Annotated[Caller, Depends(operator_of)]
