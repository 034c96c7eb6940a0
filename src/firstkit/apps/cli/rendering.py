# SPDX-License-Identifier: Apache-2.0
"""What would be submitted for a deployment, built by the controller's own code, with secrets masked."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from firstkit.adapters.engines.registry import load_engines
from firstkit.adapters.launcher_zip import build
from firstkit.apps.clusters import connections, runner_for, scheduler_for
from firstkit.config.environment import read_environment
from firstkit.config.loading import Loaded, load
from firstkit.core.catalog import Catalog, Cluster, Deployment
from firstkit.core.catalog_diff import spec_digest
from firstkit.core.errors import NotFound, SiteError
from firstkit.core.instance.record import Instance, InstanceState
from firstkit.core.job.record import Job, JobState
from firstkit.core.nearest import nearest, or_list
from firstkit.core.reasons import Reason
from firstkit.ports.engine import Engine
from firstkit.ports.rehearsal import Rehearsed, Rehearsing
from firstkit.ports.runner import Result
from firstkit.ports.scheduler import Scheduler, Submission
from firstkit.services.submission import Launcher, Prepared, Preparer
from firstkit.wire.control import JsonDocuments

MASK = "***"
DEADLINE_S = 60.0
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
JOB, INSTANCE, INSTALLATION = "j-" + "0" * 12, "i-" + "0" * 12, "0" * 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    certificate: bytes = b"(certificate)"
    key: bytes = MASK.encode()


class _NoAuthority:
    """Issues nothing: what a certificate holds is not shown."""

    certificate = b"(certificate authority)"

    def issue(self, *, name: str, valid_s: float, server: bool) -> _Pair:
        del name, valid_s, server
        return _Pair()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """What is submitted for one deployment of a file; `parts` as they are shown."""

    cluster: Cluster
    scheduler: Scheduler
    submission: Submission
    parts: dict[str, str]

    @property
    def script(self) -> bytes:
        """The script that is submitted."""
        return self.parts[self.submission.script].encode()


def render(name: str, *, config: Path, data: Path) -> Rendering:
    """Render a deployment of a file: what is submitted, and each file put beside it that people can read.

    The walltime is the whole one: before a maintenance the controller asks for what is left.
    """
    engines = load_engines()
    loaded = load(config, data_dir=data, environ=read_environment(), engines=engines)
    return rendered(loaded, deployment_of(loaded.catalog, name), engines)


def rendered(loaded: Loaded, deployment: Deployment, engines: Mapping[str, Engine]) -> Rendering:
    """Render one deployment of a file that has been read."""
    prepared, scheduler = prepare(loaded, deployment, engines, installation=INSTALLATION)
    parts = {"submitted with": shlex.join(scheduler.submit(prepared.submission).argv)}
    for file in reversed(prepared.files):  # the script first
        if file.path.endswith("job.json"):
            parts[file.path] = json.dumps(_masked(json.loads(file.data)), indent=2, ensure_ascii=False)
        elif file.path == prepared.submission.script:
            parts[file.path] = file.data.decode()
    others = [file.path for file in prepared.files if file.path not in parts]
    parts["put beside them"] = "\n".join(others)
    cluster = loaded.catalog.clusters[deployment.cluster or ""]
    return Rendering(cluster=cluster, scheduler=scheduler, submission=prepared.submission, parts=parts)


def rehearse(rendering: Rendering, *, data: Path) -> Rehearsed:
    """Ask the cluster's scheduler, which submits nothing; SiteError where it cannot be asked or does not answer."""
    scheduler, cluster = rendering.scheduler, rendering.cluster
    if not isinstance(scheduler, Rehearsing):
        raise SiteError(
            f"scheduler {cluster.scheduler.kind!r} of cluster {cluster.name} cannot be asked without submitting; "
            f"`first doctor {cluster.name}` submits a short test job",
            code="rehearsal_impossible",
        )
    commands = scheduler.rehearse(rendering.submission, script=rendering.script)

    async def ask() -> list[Result]:
        masters = connections(data)
        try:
            return await runner_for(cluster, masters=masters).run(commands, deadline_s=DEADLINE_S)
        finally:
            await masters.close()

    answer = scheduler.read_rehearsal(anyio.run(ask))
    if answer.accepted is None:
        raise SiteError(f"the scheduler of {cluster.name} gave no answer: {answer.detail}; try again")
    return answer


def prepare(
    loaded: Loaded, deployment: Deployment, engines: Mapping[str, Engine], *, installation: str
) -> tuple[Prepared, Scheduler]:
    """Prepare a job of a deployment as the controller would, without its secrets."""
    cluster = loaded.catalog.clusters[deployment.cluster or ""]
    archive = build()
    scheduler = scheduler_for(cluster, installation=installation)
    preparer = Preparer(
        installation=installation,
        launcher=Launcher(name=archive.name, data=archive.data),
        engines=engines,
        documents=JsonDocuments(),
        authority=_NoAuthority,
        control_urls=lambda: [f"unix:{Path(loaded.settings.data_dir) / 'run/api.sock'}"],
        fence_s=loaded.settings.controller.fence_s or None,
    )
    job, instance = _records(deployment, run_dir=f"{cluster.run_dir}/{JOB}", spec=spec_digest(deployment, cluster))
    prepared = preparer.prepare(
        job, [instance], deployment=deployment, cluster=cluster, scheduler=scheduler, token=MASK
    )
    return prepared, scheduler


def _masked(document: dict[str, Any]) -> dict[str, Any]:
    """Mask what an engine's environment may hold of secrets; keys and tokens were masked when they were made."""
    for item in document["instances"]:
        env: dict[str, str] = item["engine"]["env"]
        item["engine"]["env"] = {name: MASK if _SECRET.search(name) else value for name, value in env.items()}
    return document


def deployment_of(catalog: Catalog, name: str) -> Deployment:
    """Find a deployment that has jobs; NotFound with the nearest names."""
    found = catalog.deployments.get(name)
    if found is None:
        close = nearest(name, catalog.deployments) or tuple(catalog.deployments)[:5]
        raise NotFound(f"there is no deployment {name!r} in the file; did you mean {or_list(close)}?")
    if found.cluster is None:
        raise NotFound(f"{name} is an engine that runs already: nothing is submitted for it", code="nothing_to_render")
    return found


def _records(deployment: Deployment, *, run_dir: str, spec: str) -> tuple[Job, Instance]:
    """Make a job and an instance as the controller would plan them; their ids are noughts."""
    cluster = deployment.cluster or ""
    job = Job(
        id=JOB,
        cluster=cluster,
        deployment=deployment.name,
        revision=0,
        spec=spec,
        run_dir=run_dir,
        state=JobState.PLANNED,
        reason=Reason.DEMAND,
        state_at=0.0,
        created_at=0.0,
        walltime_s=deployment.resources.walltime_s if deployment.resources is not None else None,
    )
    instance = Instance(
        id=INSTANCE,
        deployment=deployment.name,
        model=deployment.model,
        cluster=cluster,
        job=JOB,
        slot=0,
        revision=0,
        spec=spec,
        state=InstanceState.PLANNED,
        reason=Reason.DEMAND,
        state_at=0.0,
        created_at=0.0,
        engine_key=MASK,
    )
    return job, instance
