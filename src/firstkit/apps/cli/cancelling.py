# SPDX-License-Identifier: Apache-2.0
"""Cancel all jobs of an installation at a cluster's scheduler, knowing nothing but the configuration file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import anyio

from firstkit.apps.clusters import runner_for, scheduler_for
from firstkit.config.environment import read_environment
from firstkit.config.loading import load
from firstkit.core.catalog import Cluster
from firstkit.core.errors import NotFound, SiteError
from firstkit.core.nearest import nearest, or_list
from firstkit.ports.runner import Done
from firstkit.ports.scheduler import JobPhase

DEADLINE_S = 60.0


def cancel_all(name: str, *, config: Path, data: Path) -> list[str]:
    """Cancel every live job of the installations that have used this run directory; return the jobs' tags."""
    catalog = load(config, data_dir=data, environ=read_environment()).catalog
    cluster = catalog.clusters.get(name)
    if cluster is None:
        close = nearest(name, catalog.clusters) or tuple(catalog.clusters)[:5]
        raise NotFound(f"there is no cluster {name!r} in {config}; did you mean {or_list(close)}?")
    return anyio.run(_cancel, cluster)


async def _cancel(cluster: Cluster) -> list[str]:
    runner = runner_for(cluster)
    cancelled: list[str] = []
    for installation in sorted(installations(cluster)):
        scheduler = scheduler_for(cluster, installation=installation)
        seen = scheduler.parse(await runner.run(scheduler.observe(), deadline_s=DEADLINE_S))
        if not seen.complete:
            raise SiteError(f"the scheduler of {cluster.name} did not list its jobs: {seen.detail}; try again")
        live = [job for job in seen.jobs if job.phase is not JobPhase.ENDED]
        for result in await runner.run(scheduler.cancel([job.scheduler_id for job in live]), deadline_s=DEADLINE_S):
            if not isinstance(result, Done) or result.code != 0:
                said = result.err.decode(errors="replace").strip() if isinstance(result, Done) else result.detail
                raise SiteError(f"cancelling at {cluster.name} failed: {said}; try again")
        cancelled += [job.tag for job in live]
    return cancelled


def installations(cluster: Cluster) -> Iterator[str]:
    """Read from the job documents in the run directory which installations have used it."""
    found: set[str] = set()
    for path in Path(cluster.run_dir).glob("j-*/job.json"):
        try:
            found.add(str(json.loads(path.read_bytes())["installation"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return iter(found)
