# SPDX-License-Identifier: Apache-2.0
"""The gateway's certificates for doors, dialled or arriving: made when first needed, renewed long before their end."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

from firstkit.adapters.links.authority import Authority
from firstkit.adapters.telemetry.journal import Journal
from firstkit.core.errors import FirstError
from firstkit.core.topology import Route

RENEW_EVERY_S = 7 * 86400.0
"""The authority issues it for 400 days: longer than most gateways run, and this is for those that run longer."""
AGAIN_S = 60.0


class DoorPass:
    """Keeps good what `use` was given last, and what doors are shown that arrive (`doors`).

    `folder` is the authority's; `monotonic_s` need not stop for anything.
    """

    def __init__(
        self,
        folder: Path,
        *,
        use: Callable[[ssl.SSLContext], None],
        journal: Journal,
        monotonic_s: Callable[[], float],
        doors: ssl.SSLContext | None = None,
    ) -> None:
        self._folder = folder
        self._use = use
        self._journal = journal
        self._monotonic_s = monotonic_s
        self._doors = doors
        self._due = float("-inf")

    def check(self, routes: Sequence[Route]) -> None:
        """Renew them if that is due and they are needed, as by these routes; where that fails, the old ones stay."""
        now = self._monotonic_s()
        dials = any(route.address.mutual for route in routes)
        if now < self._due or not (dials or self._doors):
            return
        try:
            authority = Authority(self._folder)
            if self._doors is not None:
                authority.renew_doors(self._doors)
            context = authority.gateway_context()
        except (FirstError, OSError) as error:
            self._due = now + AGAIN_S
            self._journal("no_door_pass", detail=str(error))
            return
        self._due = now + RENEW_EVERY_S
        self._use(context)
