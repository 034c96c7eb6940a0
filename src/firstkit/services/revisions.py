# SPDX-License-Identifier: Apache-2.0
"""Which catalog holds: the newest revision that can be read, and what is left of earlier ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from firstkit.core.catalog import Catalog, Cluster, Deployment
from firstkit.core.errors import FirstError
from firstkit.ports.store import Revision
from firstkit.ports.telemetry import Journal
from firstkit.services.heritage import Heritage
from firstkit.services.world import World


class Revisions:
    """Keep the catalog. One that cannot be read is refused whole, and the old one stays.

    Right after a start the old one is the newest earlier revision that can be read: what runs is not to end because
    this version of firstkit does not understand the newest. While `known` is False nothing may be concluded from the
    catalog's being empty.
    """

    def __init__(
        self,
        *,
        read_catalog: Callable[[Revision], Catalog],
        spec_of: Callable[[Deployment, Cluster | None], str],
        list_all: Callable[[], Awaitable[list[Revision]]],
        journal: Journal,
    ) -> None:
        self._read_catalog = read_catalog
        self._list_all = list_all
        self._journal = journal
        self._number = -1
        self.heritage = Heritage(read_catalog=read_catalog, spec_of=spec_of)
        self.catalog = Catalog()
        self.known = False

    async def take(self, revision: Revision | None, world: World) -> None:
        """Take in the current revision, if it is another than the last time."""
        if revision is None or revision.number == self._number:
            return
        catalog = self._read(revision)
        older: list[Revision] = []
        if not self.known:
            older = [one for one in await self._list_all() if one.number < revision.number]
            if catalog is None:
                catalog = next((found for found in map(self._read, older) if found is not None), None)
        self._number = revision.number
        if catalog is None:
            return
        self.catalog, self.known = catalog, True
        self.heritage.take(catalog)
        if older and self.heritage.missing(world):
            self.heritage.read_older(older)
        self._journal("revision_applied", revision=catalog.revision, deployments=len(catalog.deployments))

    def _read(self, revision: Revision) -> Catalog | None:
        """Read a revision; None, said once, when it cannot be read."""
        try:
            return replace(self._read_catalog(revision), revision=revision.number)
        except FirstError as error:
            self._journal("revision_refused", revision=revision.number, detail=error.message)
            return None
