# SPDX-License-Identifier: Apache-2.0
"""Configurations whose jobs run on a real Slurm, and what that Slurm says of them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from installation import Installation, free_port
from paced import config, local_cluster

from firstkit.testing.slurm import RealSlurm


def slurm_cluster(slurm: RealSlurm, run_dir: str = "$DATA/clusters/here", **more: Any) -> dict[str, Any]:
    """Write a cluster for this Slurm, reached over the jobs' doors."""
    first = free_port()
    link = {"kind": "direct", "ports": f"{first}-{first + 20}", "address": "127.0.0.1"}
    scheduler = {"kind": "slurm", "partition": "gpu", "conf": str(slurm.conf)}
    return local_cluster(scheduler=scheduler, link=link, run_dir=run_dir) | more


def on_slurm(deployment: dict[str, Any], **asked: Any) -> dict[str, Any]:
    """Let a deployment ask for a job's resources."""
    return deployment | {"resources": {"walltime": "30m", "memory": "500MB", "gpus": 1} | asked}


def slurm_config(slurm: RealSlurm, deployments: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Write a whole configuration with one cluster, looked at often; heads wait until an instance is known."""
    more = {"gateway": {"hold_head": "2m"}} | more
    controller = {"observe_idle": "1s"} | more.pop("controller", {})
    clusters = {"here": slurm_cluster(slurm)}
    return config(deployments=deployments, clusters=clusters, controller=controller, **more)


def job_of(running: Installation, instance: str) -> dict[str, Any]:
    """Find the job of an instance, ended ones included."""
    name = next(one["job"] for one in running.instances(ended=True) if one["id"] == instance)
    return next(one for one in running.jobs() if one["id"] == name)


def shown(slurm: RealSlurm, number: str) -> dict[str, str]:
    """Read what scontrol shows of a job; empty once Slurm has forgotten it."""
    said = slurm.run("scontrol", "show", "job", "-o", number)
    if said.returncode != 0:
        return {}
    return dict(word.split("=", 1) for word in said.stdout.split() if "=" in word)


def ended(running: Installation, instance: str) -> tuple[str, str]:
    """Wait until an instance has ended; return its state and reason."""

    def found() -> tuple[str, str] | None:
        one = next(item for item in running.instances(ended=True) if item["id"] == instance)
        return (one["state"], one["reason"]) if one["state"] == "ENDED" else None

    return running.until(found)


def stored_script(slurm: RealSlurm, number: str, folder: Path) -> str:
    """Read the script that Slurm has stored."""
    target = folder / f"script-{number}"
    subprocess.run(
        ["scontrol", "write", "batch_script", number, str(target)],
        env=slurm.environment,
        check=True,
        capture_output=True,
    )
    return target.read_text()
