# SPDX-License-Identifier: Apache-2.0
"""The certificate by which doors admit a gateway: made when a route first leads to one, renewed long before its end."""

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
    """Keeps what `use` was given last good. `folder` is the authority's; `monotonic_s` need not stop for anything."""

    def __init__(
        self,
        folder: Path,
        *,
        use: Callable[[ssl.SSLContext], None],
        journal: Journal,
        monotonic_s: Callable[[], float],
    ) -> None:
        self._folder = folder
        self._use = use
        self._journal = journal
        self._monotonic_s = monotonic_s
        self._due = float("-inf")

    def check(self, routes: Sequence[Route]) -> None:
        """Renew it if that is due and any of these routes leads to a door; where that fails, the old one stays."""
        now = self._monotonic_s()
        if now < self._due or not any(route.address.mutual for route in routes):
            return
        try:
            context = Authority(self._folder).gateway_context()
        except (FirstError, OSError) as error:
            self._due = now + AGAIN_S
            self._journal("no_door_pass", detail=str(error))
            return
        self._due = now + RENEW_EVERY_S
        self._use(context)
