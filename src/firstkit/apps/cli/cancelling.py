# SPDX-License-Identifier: Apache-2.0
"""Cancel all jobs of an installation at a cluster's scheduler, asking no service; never another installation's."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import anyio

from firstkit.adapters.store import open_store
from firstkit.apps.clusters import connections, runner_for, scheduler_for
from firstkit.apps.naming import read_installation
from firstkit.config.environment import read_environment
from firstkit.config.loading import load
from firstkit.core.catalog import Cluster
from firstkit.core.errors import FirstError, NotFound, SiteError
from firstkit.core.nearest import nearest, or_list
from firstkit.core.settings import StoreSettings
from firstkit.ports.runner import Runner
from firstkit.ports.scheduler import JobPhase, Scheduler

DEADLINE_S = 60.0


def cancel_all(name: str, *, config: Path, data: Path, installation: str | None = None) -> list[str]:
    """Cancel every live job of one installation on a cluster; return the jobs' tags.

    `installation`: which one; without it, the one that the store or the state folder names. SiteError if neither does.
    """
    loaded = load(config, data_dir=data, environ=read_environment())
    cluster = loaded.catalog.clusters.get(name)
    if cluster is None:
        close = nearest(name, loaded.catalog.clusters) or tuple(loaded.catalog.clusters)[:5]
        raise NotFound(f"there is no cluster {name!r} in {config}; did you mean {or_list(close)}?")
    ours = installation or installation_of(loaded.settings.store, data)
    if ours is None:
        used = seen_installations(cluster) if cluster.runner.kind == "local" else []
        which = f"; {', '.join(used)} used {cluster.run_dir}" if used else ""
        raise SiteError(
            f"neither the store nor the state folder {data} tells which installation this is{which}: say which one's "
            "jobs to cancel with `--installation ID`",
            code="installation_unknown",
        )
    return anyio.run(_cancel, cluster, ours, data)


def installation_of(settings: StoreSettings, data: Path) -> str | None:
    """Say which installation this is, as the store or the state folder has it; None where neither can be asked."""
    return _from_store(settings, data) or read_installation(data)


def _from_store(settings: StoreSettings, data: Path) -> str | None:
    """Read the installation's id from the store; None when it cannot be asked. No store is made by looking for it."""
    path = settings.url.removeprefix("sqlite:///")
    if path != settings.url and not (data / path).exists():
        return None
    with contextlib.suppress(FirstError):
        store = open_store(settings, folder=data)
        try:
            return store.installation()
        finally:
            store.close()
    return None


async def _cancel(cluster: Cluster, installation: str, data: Path) -> list[str]:
    masters = connections(data)
    try:
        runner, scheduler = runner_for(cluster, masters=masters), scheduler_for(cluster, installation=installation)
        return await _cancel_with(runner, scheduler, cluster)
    finally:
        await masters.close()


async def _cancel_with(runner: Runner, scheduler: Scheduler, cluster: Cluster) -> list[str]:
    seen = scheduler.parse(await runner.run(scheduler.observe(), deadline_s=DEADLINE_S))
    if not seen.complete:
        raise SiteError(f"the scheduler of {cluster.name} did not list its jobs: {seen.detail}; try again")
    live = [job for job in seen.jobs if job.phase is not JobPhase.ENDED]
    commands = scheduler.cancel([job.scheduler_id for job in live])
    if said := scheduler.parse_cancel(await runner.run(commands, deadline_s=DEADLINE_S)):
        raise SiteError(f"cancelling at {cluster.name} failed: {said}; try again")
    return [job.tag for job in live]


def seen_installations(cluster: Cluster) -> list[str]:
    """Read from the job documents in the run directory which installations have used it."""
    found: set[str] = set()
    for path in Path(cluster.run_dir).glob("j-*/job.json"):
        try:
            found.add(str(json.loads(path.read_bytes())["installation"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return sorted(found)
