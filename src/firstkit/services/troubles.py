# SPDX-License-Identifier: Apache-2.0
"""What goes wrong around the controller, said once when it begins and once when it is over."""

from __future__ import annotations

from collections.abc import Mapping

from firstkit.core.errors import FirstError
from firstkit.ports.telemetry import Journal


class Troubles:
    """Remember what has been said of the store and of each cluster."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._store = ""
        self._clusters: dict[str, str] = {}

    def store(self, error: FirstError | None) -> None:
        """Say once that the store is away, and once that it is back."""
        trouble = error.message if error is not None else ""
        if trouble == self._store:
            return
        self._store = trouble
        if error is not None:
            self._journal("tick_failed", code=error.code, detail=error.message)
        else:
            self._journal("ticking_again")

    def clusters(self, troubles: Mapping[str, str]) -> None:
        """Say once what a cluster refuses or how it cannot be reached, and once that it does as it is asked again."""
        for name in self._clusters.keys() | troubles.keys():
            if self._clusters.get(name) == troubles.get(name):
                continue
            if name in troubles:
                self._journal("cluster_trouble", cluster=name, detail=troubles[name])
            else:
                self._journal("cluster_well", cluster=name)
        self._clusters = dict(troubles)
