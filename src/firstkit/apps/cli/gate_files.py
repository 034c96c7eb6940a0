# SPDX-License-Identifier: Apache-2.0
"""What `first gate` writes: the gate, a policy from the cluster's own commands, and approvals of deployments."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from firstkit.adapters.engines.registry import load_engines
from firstkit.adapters.launcher_zip import build
from firstkit.adapters.runners.gate import fingerprint
from firstkit.adapters.runners.gate_policy import policy
from firstkit.apps.cli.cancelling import installation_of
from firstkit.apps.cli.rendering import JOB, deployment_of, prepare
from firstkit.apps.clusters import scheduler_for
from firstkit.config.environment import read_environment
from firstkit.config.loading import Loaded, load
from firstkit.core.catalog import Resources
from firstkit.core.errors import NotFound, SiteError
from firstkit.core.nearest import nearest, or_list


def policy_for(name: str, *, config: Path, data: Path, installation: str | None, approvals: str) -> dict[str, Any]:
    """Make the policy of a cluster."""
    loaded = load(config, data_dir=data, environ=read_environment(), engines=load_engines())
    cluster = loaded.catalog.clusters.get(name)
    if cluster is None:
        close = nearest(name, loaded.catalog.clusters) or tuple(loaded.catalog.clusters)[:5]
        raise NotFound(f"there is no cluster {name!r} in {config}; did you mean {or_list(close)}?")
    ours = _installation(loaded, data, installation)
    deployments = [one for one in loaded.catalog.deployments.values() if one.cluster == name]
    return policy(
        cluster,
        scheduler_for(cluster, installation=ours),
        installation=ours,
        asks=[one.resources or Resources() for one in deployments],
        approvals=approvals,
        path=str(cluster.runner.options.get("path", "")),
    )


def write_gate(folder: Path, document: dict[str, Any]) -> None:
    """Write both files; who may read them is no secret."""
    folder.mkdir(parents=True, exist_ok=True)
    gate = package_files("firstkit.adapters.runners").joinpath("gate.py").read_bytes()
    for name, content in (("gate.py", gate), ("gate.json", json.dumps(document, indent=2).encode() + b"\n")):
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o644)


def approval(name: str, *, config: Path, data: Path, installation: str | None) -> str:
    """Write the line that approves a deployment: the digest of what a job of it runs, its name, the day."""
    engines = load_engines()
    loaded = load(config, data_dir=data, environ=read_environment(), engines=engines)
    deployment = deployment_of(loaded.catalog, name)
    prepared, scheduler = prepare(loaded, deployment, engines, installation=_installation(loaded, data, installation))
    folder = prepared.submission.run_dir + "/"
    files = {file.path.removeprefix(folder): file.data for file in prepared.files if file.path.startswith(folder)}
    digest = fingerprint(JOB, files, build().data, scheduler.submit(prepared.submission).argv)
    return f"{digest}  {name}  {datetime.now(UTC).date().isoformat()}"


def _installation(loaded: Loaded, data: Path, given: str | None) -> str:
    ours = given or installation_of(loaded.settings.store, data)
    if ours is None:
        raise SiteError(
            f"neither the store nor the state folder {data} tells which installation this is: start firstkit once, or "
            "say it with `--installation ID`",
            code="installation_unknown",
        )
    return ours
