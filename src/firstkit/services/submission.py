# SPDX-License-Identifier: Apache-2.0
"""Everything that is put on a cluster for one job: launcher, start.sh, job.json, keys; written by the runner."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from firstkit.core import control, ids
from firstkit.core.catalog import Cluster, Deployment, Resources
from firstkit.core.instance.record import Instance
from firstkit.core.job.record import Job
from firstkit.core.scaling.walltime import margin_s
from firstkit.ports.control import ControlDocuments
from firstkit.ports.engine import Engine, LaunchSpec
from firstkit.ports.runner import RemoteFile
from firstkit.ports.scheduler import Scheduler, Submission
from firstkit.services.papers import DoorAuthority, Papers

STATUS_FILE = "status.json"
"""The launcher's last status, for where HTTP does not reach."""
SETUP_FILE = "setup.failed"
"""start.sh writes it when a setup line failed: one sentence, then the last lines of its output."""
OUTPUT_FILE = "job.out"
"""What start.sh and the launcher printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launcher:
    """The zipapp that runs as the job, named after its content."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Files to put, and the submission that uses them."""

    files: tuple[RemoteFile, ...]
    submission: Submission


class Preparer:
    """Build the files of a job; pure but for the randomness and certificates it is given."""

    def __init__(
        self,
        *,
        installation: str,
        launcher: Launcher,
        engines: Mapping[str, Engine],
        documents: ControlDocuments,
        authority: Callable[[], DoorAuthority],
        control_urls: Callable[[], list[str]],
        fence_s: float | None,
    ) -> None:
        self._installation = installation
        self._launcher = launcher
        self._engines = engines
        self._documents = documents
        self._papers = Papers(authority, control_urls)
        self._fence_s = fence_s

    def prepare(
        self,
        job: Job,
        instances: list[Instance],
        *,
        deployment: Deployment,
        cluster: Cluster,
        scheduler: Scheduler,
        token: str,
        exclude: tuple[str, ...] = (),
    ) -> Prepared:
        """Build everything for one job. `token` is its control token, whose digest the job's row keeps.

        `exclude` are nodes to keep it off.
        """
        resources = replace(deployment.resources or Resources(), walltime_s=job.walltime_s)
        folder = job.run_dir
        launch = self._engines[deployment.engine.kind].launch(deployment)
        door, door_files = self._papers.door(cluster, job, instances, resources)
        reports, report_files = self._papers.control(cluster, job, resources)
        document = control.JobDocument(
            job=job.id,
            installation=self._installation,
            walltime_s=resources.walltime_s,
            margin_s=margin_s(resources.walltime_s),
            control=reports,
            door=door,
            fence_s=self._fence_s,
            instances=tuple(
                control.JobInstance(
                    instance=item.id, slot=item.slot, engine=engine_process(deployment, launch, key=item.engine_key)
                )
                for item in instances
            ),
        )
        launcher_path = f"{cluster.run_dir}/{self._launcher.name}"
        script_path = f"{folder}/start.sh"
        submission = Submission(
            tag=ids.tag(installation=self._installation, job=job.id),
            run_dir=folder,
            script=script_path,
            resources=resources,
            exclude=exclude,
        )
        setup = "\n".join(part.rstrip("\n") for part in (cluster.setup, deployment.engine.setup) if part.strip())
        script = scheduler.script(submission, setup=setup, launcher=launcher_path)
        files = [
            *(RemoteFile(path=f"{cluster.run_dir}/{name}", data=data) for name, data in scheduler.files().items()),
            RemoteFile(path=launcher_path, data=self._launcher.data),
            RemoteFile(path=f"{folder}/control.key", data=token.encode()),
            *(RemoteFile(path=f"{folder}/{name}", data=data) for name, data in (door_files | report_files).items()),
            *(
                RemoteFile(path=f"{folder}/{item.id}/{name}", data=data)
                for item in instances
                for name, data in (launch.put or {}).items()
            ),
            RemoteFile(path=f"{folder}/job.json", data=self._documents.write_job(document)),
            RemoteFile(path=script_path, data=script.encode(), mode=0o700),
        ]
        return Prepared(files=tuple(files), submission=submission)


def token_digest(token: str) -> str:
    """Turn a control token into what the store keeps."""
    return hashlib.sha256(token.encode()).hexdigest()


def engine_process(deployment: Deployment, launch: LaunchSpec, *, key: str | None) -> control.EngineProcess:
    """Turn an adapter's launch specification into what the launcher is told of one engine."""
    serves = None
    if launch.serves_path is not None and launch.serves_name is not None:
        serves = control.Serves(path=launch.serves_path, name=launch.serves_name)
    return control.EngineProcess(
        kind=deployment.engine.kind,
        argv=launch.argv,
        env=dict(launch.env),
        listen="loopback" if launch.listen == "loopback" else "unix",
        key=key if launch.needs_key else None,
        health=control.Health(path=launch.health_path),
        serves=serves,
        guarded=launch.guarded,
        start_timeout_s=launch.start_timeout_s,
        stop_signal=launch.stop_signal,
        stop_grace_s=launch.stop_grace_s,
        progress=tuple(
            control.Progress(match=mark.match, start=mark.start, end=mark.end, text=mark.text)
            for mark in launch.progress
        ),
        causes=tuple(control.Cause(match=mark.match, reason=mark.reason) for mark in launch.causes),
        files=launch.files,
        weights=launch.weights if deployment.engine.preflight else (),
        needs=_needs(deployment, launch) if deployment.engine.preflight else None,
        container=_container(deployment),
    )


def _container(deployment: Deployment) -> control.Container | None:
    """Describe what the engine runs in, if it does."""
    given = deployment.engine.container
    if given is None:
        return None
    gpus = deployment.resources is not None and deployment.resources.gpus > 0
    return control.Container(runtime=given.runtime, image=given.image, binds=given.binds, gpus=gpus)


def _needs(deployment: Deployment, launch: LaunchSpec) -> control.Needs:
    """Say what the node must have, by what was asked of the scheduler and what the engine's adapter knows."""
    return control.Needs(
        gpus=deployment.resources.gpus if deployment.resources is not None else 0,
        gpu_memory=launch.gpu_memory,
        shm_bytes=launch.shm_bytes,
        disk_bytes=launch.disk_bytes,
    )
