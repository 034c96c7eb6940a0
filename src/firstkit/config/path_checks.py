# SPDX-License-Identifier: Apache-2.0
"""Checks of the paths that a file names, on this machine's disk where they are meant for it."""

from __future__ import annotations

from pathlib import Path as FilePath

from firstkit.config.catalog_sections import Container
from firstkit.config.disk import Disk
from firstkit.config.document import Path
from firstkit.config.drafts import Draft, DraftCluster, DraftDeployment
from firstkit.config.report import Report
from firstkit.config.runner_checks import check_ssh_files

OPTION_FILES = ("key_file",)
"""Options of engines that name a secret's file on the gateway's machine."""


def check_paths(report: Report, draft: Draft, *, disk: Disk, folder: FilePath, data_dir: FilePath) -> None:
    """Check every path that is meant for this machine; those of a cluster whose runner is elsewhere are not."""
    _check_tls(report, draft, disk, folder)
    if draft.store and draft.store.password_file:
        _check_secret(report, ("store", "password_file"), folder / draft.store.password_file, disk)
    for name, cluster in draft.clusters.items():
        _check_run_dir(report, name, cluster, disk=disk, folder=folder, data_dir=data_dir)
        check_ssh_files(report, name, cluster, disk=disk)
    for name, deployment in draft.deployments.items():
        _check_deployment(report, draft, name, deployment, disk=disk, folder=folder)


def _check_tls(report: Report, draft: Draft, disk: Disk, folder: FilePath) -> None:
    tls = draft.gateway.tls
    if tls is None:
        return
    base: Path = ("gateway", "tls")
    certificate, key = folder / tls.certificate, folder / tls.key
    fine = _check_file(report, (*base, "certificate"), certificate, disk)
    fine = _check_secret(report, (*base, "key"), key, disk) and fine
    if fine and (why := disk.why_no_certificate(certificate, key)):
        report.add((*base, "certificate"), why, expected="a certificate and its private key, both PEM")


def _check_file(report: Report, path: Path, file: FilePath, disk: Disk) -> bool:
    if not disk.exists(file):
        report.add(path, f"there is no file {file}", expected="a file that this user may read")
    elif disk.is_folder(file):
        report.add(path, f"{file} is a folder", expected="a file")
    elif not disk.readable(file):
        report.add(path, f"{file} cannot be read by this user", expected="a file that this user may read")
    else:
        return True
    return False


def _check_secret(report: Report, path: Path, file: FilePath, disk: Disk) -> bool:
    if not _check_file(report, path, file, disk):
        return False
    if disk.open_to_others(file):
        report.add(path, f"every user of this machine can read {file}", expected="mode 0600", hint=f"chmod 600 {file}")
        return False
    return True


def _check_absolute(report: Report, path: Path, text: str, folder: FilePath) -> bool:
    if text.startswith("/"):
        return True
    full = FilePath(text).expanduser() if text.startswith("~") else folder / text
    report.add(path, f"`{text}` is no absolute path", expected="a path from the root", hint=f"did you mean `{full}`?")
    return False


def _check_run_dir(
    report: Report,
    name: str,
    cluster: DraftCluster,
    *,
    disk: Disk,
    folder: FilePath,
    data_dir: FilePath,
) -> None:
    path: Path = ("clusters", name, "run_dir")
    if not cluster.run_dir or not cluster.known or not _check_absolute(report, path, cluster.run_dir, folder):
        return
    run_dir = FilePath(cluster.run_dir)
    if run_dir in {FilePath("/"), data_dir}:
        report.add(path, f"{run_dir} holds other things", expected="a folder for jobs alone")
    elif cluster.runner == "local" and (why := disk.why_not_writable(run_dir)):
        report.add(path, f"jobs cannot write there: {why}", expected="a folder that this user may make and write")
    elif cluster.runner == "local" and (why := disk.why_not_ours(run_dir)):
        report.add(
            path,
            f"{why}, who could change what jobs run",
            expected="a folder of this user's that nobody else may write",
            hint=f"chmod go-w {run_dir}, or name a folder that is not there yet",
        )


def _check_deployment(
    report: Report,
    draft: Draft,
    name: str,
    deployment: DraftDeployment,
    *,
    disk: Disk,
    folder: FilePath,
) -> None:
    engine = deployment.engine
    if engine is None:
        return
    base: Path = ("deployments", name, "engine")
    options = engine.model_extra or {}
    for key in OPTION_FILES:
        value = options.get(key)
        if not isinstance(value, str) or not value or report.has((*base, key)):
            continue
        if _check_absolute(report, (*base, key), value, folder):
            _check_secret(report, (*base, key), FilePath(value), disk)
    cluster = draft.clusters.get(deployment.cluster)
    if cluster is None or not cluster.known:
        return
    here = cluster.runner == "local"
    if engine.model.startswith(("./", "../", "~")) or (engine.model and disk.exists(folder / engine.model) and here):
        absolute = _check_absolute(report, (*base, "model"), engine.model, folder)
    else:
        absolute = engine.model.startswith("/")
    if here and absolute and not disk.exists(FilePath(engine.model)):
        _not_here(
            report,
            (*base, "model"),
            f"there is nothing at {engine.model} on this machine",
            expected="a path of weights",
            cluster=cluster,
        )
    venv = options.get("venv")
    if engine.container is not None:
        _check_container(
            report, (*base, "container"), engine.container, disk if here and cluster.scheduler == "local" else None
        )
        return  # a `venv` is the image's
    if here and isinstance(venv, str) and venv.startswith("/") and not disk.exists(FilePath(venv, "bin", "python")):
        _not_here(
            report,
            (*base, "venv"),
            f"there is no virtual environment at {venv}",
            expected="a folder with bin/python in it",
            cluster=cluster,
        )


NAMED_IMAGES = frozenset({"podman", "podman-hpc", "pyxis"})
"""Runtimes that know images by names as well; the others would fetch and convert one at every start."""


def _check_container(report: Report, path: Path, container: Container, disk: Disk | None) -> None:
    """Check an image and what is bound, on this machine's disk if that is where it runs."""
    image = container.image
    if not image.startswith("/"):
        if container.runtime not in NAMED_IMAGES:
            report.add(
                (*path, "image"),
                f"{container.runtime} runs an image that lies on the cluster, and `{image}` is no absolute path",
                expected="a path from the root, such as /eagle/images/vllm.sif",
            )
        return
    if disk is None:
        return
    if not disk.exists(FilePath(image)):
        report.add((*path, "image"), f"there is no image at {image} on this machine", expected="a path of an image")
    for number, bind in enumerate(container.binds):
        source = bind.partition(":")[0]
        if not disk.exists(FilePath(source)):
            report.add(
                (*path, "binds", number), f"there is nothing at {source} on this machine", expected="a path to bind"
            )


def _not_here(report: Report, path: Path, problem: str, *, expected: str, cluster: DraftCluster) -> None:
    """Tell of a file that a job needs: a mistake where jobs run on this machine, else perhaps only there."""
    if cluster.scheduler == "local":
        report.add(path, problem, expected=expected)
    else:
        report.warn(path, problem, hint="fine if it is there on the nodes that jobs run on")
