# SPDX-License-Identifier: Apache-2.0
"""firstkit itself, all features on: key, admission, leases, metering, metrics, request log."""

from __future__ import annotations

from benchmarks.contenders import Running, Site


class Firstkit:
    """`first up` with the imitated engines as external ones."""

    name = "firstkit"
    skips: frozenset[str] = frozenset()

    def missing(self) -> str:
        return "first up is not there yet"

    def start(self, site: Site) -> Running:
        raise NotImplementedError
