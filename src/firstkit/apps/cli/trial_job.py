# SPDX-License-Identifier: Apache-2.0
"""The doctor's test job: prepared by the controller's own code, with a program of ours where the engine would be."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

from firstkit.adapters.launcher_zip import build
from firstkit.core import ids
from firstkit.core.catalog import Cluster, Deployment, EngineSpec, Resources
from firstkit.core.instance.record import Instance, InstanceState
from firstkit.core.job.record import Job, JobState
from firstkit.core.reasons import Reason
from firstkit.ports.engine import Engine, EngineTraits, ExternalSpec, LaunchSpec, Mistake
from firstkit.ports.runner import RemoteFile
from firstkit.ports.scheduler import Scheduler
from firstkit.services.papers import DoorAuthority
from firstkit.services.submission import STATUS_FILE, Launcher, Prepared, Preparer
from firstkit.wire.control import JsonDocuments

WALLTIME_S = 180.0
ALONE_S = 60.0
"""The job ends itself after that time: a doctor that was killed leaves nothing running."""
KIND = "command"
PROGRAM, QUESTIONS, REPORT, MARK = "on_node.py", "questions.json", "report.json", "mark"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialJob:
    """One test job: what is put and submitted, and where it tells what it found."""

    id: str
    folder: str
    prepared: Prepared

    @property
    def status(self) -> str:
        """Name the launcher's status."""
        return f"{self.folder}/{STATUS_FILE}"

    @property
    def report(self) -> str:
        """Name what our program keeps, for when it cannot be asked."""
        return f"{self.folder}/{_instance_of(self.id)}/{REPORT}"


class Stand:
    """The engine adapter of a program that only looks around; needs of the node are those of the engine it stands for.

    `stood_for` None: no deployment uses the cluster yet.
    """

    traits = EngineTraits(kind=KIND, paths=frozenset())

    def __init__(self, stood_for: LaunchSpec | None, questions: Mapping[str, Any]) -> None:
        self._stood_for = stood_for
        self._questions = questions

    def check(self, deployment: Deployment) -> list[Mistake]:
        """Find nothing wrong: it is not configured."""
        del deployment
        return []

    def launch(self, deployment: Deployment) -> LaunchSpec:
        """Start the program with its questions."""
        theirs = self._stood_for
        return LaunchSpec(
            argv=("{python}", "-I", "-S", f"{{dir}}/{PROGRAM}", "{socket}", f"{{dir}}/{QUESTIONS}"),
            env={},
            listen="unix",
            health_path="/",
            serves_path=None,
            serves_name=None,
            start_timeout_s=deployment.engine.start_timeout_s,
            stop_grace_s=1.0,
            put={
                PROGRAM: files("firstkit.apps.cli.programs").joinpath(PROGRAM).read_bytes(),
                QUESTIONS: json.dumps(self._questions).encode(),
            },
            gpu_memory=0.0 if theirs is None else theirs.gpu_memory,
            shm_bytes=0 if theirs is None else theirs.shm_bytes,
            disk_bytes=0 if theirs is None else theirs.disk_bytes,
        )

    def external(self, deployment: Deployment) -> ExternalSpec | None:
        """Say that it runs nowhere else."""
        del deployment

    def served_name(self, deployment: Deployment) -> str:
        """Serve no model: whatever it is called."""
        return deployment.model

    def paths(self, deployment: Deployment) -> frozenset[str]:
        """Serve no inference path."""
        del deployment
        return frozenset()

    def retryable(self, status: int, body_start: bytes) -> bool:
        """Retry nothing."""
        del status, body_start
        return False

    def models_info(self, body: bytes, served_name: str) -> Mapping[str, Any]:
        """Know nothing of models."""
        del body, served_name
        return {}


def trial_job(
    cluster: Cluster,
    stood_for: Deployment | None,
    *,
    deployments: list[Deployment],
    engines: Mapping[str, Engine],
    scheduler: Scheduler,
    installation: str,
    authority: DoorAuthority,
    control_urls: list[str],
) -> TrialJob:
    """Build the test job: resources and setup of the deployment that it stands for, on one node, for minutes.

    `installation` must be the doctor's own, so that no controller takes the job for one of its.
    """
    job_id = ids.job_id(secrets.token_bytes(8))
    folder = f"{cluster.run_dir}/{job_id}"
    mark = RemoteFile(path=f"{folder}/{MARK}", data=secrets.token_hex(8).encode())
    questions = {
        "mark": {"path": mark.path, "text": mark.data.decode()},
        "engines": [_wanted(item, engines[item.engine.kind].launch(item)) for item in deployments],
        "control": control_urls,
    }
    launch = None if stood_for is None else engines[stood_for.engine.kind].launch(stood_for)
    preparer = Preparer(
        installation=installation,
        launcher=Launcher(name=(archive := build()).name, data=archive.data),
        engines={KIND: Stand(launch, questions)},
        documents=JsonDocuments(),
        authority=lambda: authority,
        control_urls=list,
        fence_s=ALONE_S,
    )
    deployment = _deployment(cluster, stood_for)
    job, instance = _records(job_id, deployment, cluster, folder=folder)
    prepared = preparer.prepare(
        job, [instance], deployment=deployment, cluster=cluster, scheduler=scheduler, token=secrets.token_hex(16)
    )
    return TrialJob(id=job_id, folder=folder, prepared=replace(prepared, files=(mark, *prepared.files)))


def _wanted(deployment: Deployment, launch: LaunchSpec) -> dict[str, Any]:
    """Say what has to be on the node for a deployment; of a container, the image alone: the program is in it."""
    container = deployment.engine.container
    program = launch.argv[0] if container is None and "{" not in launch.argv[0] else None
    paths = [*launch.files, *launch.weights, *([] if container is None else [container.image])]
    return {
        "name": deployment.name,
        "program": program,
        "files": sorted({path for path in paths if path.startswith("/") and "{" not in path}),
    }


def _deployment(cluster: Cluster, stood_for: Deployment | None) -> Deployment:
    if stood_for is None:
        engine = EngineSpec(kind=KIND, start_timeout_s=ALONE_S)
        return Deployment(name="doctor", model="doctor", engine=engine, cluster=cluster.name, resources=Resources())
    engine = EngineSpec(
        kind=KIND, setup=stood_for.engine.setup, start_timeout_s=ALONE_S, preflight=stood_for.engine.preflight
    )
    resources = replace(stood_for.resources or Resources(), nodes=1)
    return replace(stood_for, engine=engine, resources=resources)


def _instance_of(job_id: str) -> str:
    return "i-" + job_id.removeprefix("j-")


def _records(job_id: str, deployment: Deployment, cluster: Cluster, *, folder: str) -> tuple[Job, Instance]:
    job = Job(
        id=job_id,
        cluster=cluster.name,
        deployment=deployment.name,
        revision=0,
        spec="",
        run_dir=folder,
        state=JobState.PLANNED,
        reason=Reason.DEMAND,
        state_at=0.0,
        created_at=0.0,
        walltime_s=WALLTIME_S,
    )
    instance = Instance(
        id=_instance_of(job_id),
        deployment=deployment.name,
        model=deployment.model,
        cluster=cluster.name,
        job=job_id,
        slot=0,
        revision=0,
        spec="",
        state=InstanceState.PLANNED,
        reason=Reason.DEMAND,
        state_at=0.0,
        created_at=0.0,
    )
    return job, instance
