# SPDX-License-Identifier: Apache-2.0
"""From the validated file to the frozen values that the rest of firstkit is handed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from firstkit.config import catalog_sections as sections
from firstkit.config import process_sections as process
from firstkit.config.naming import with_derived
from firstkit.core import catalog, settings

SCHEDULER_OPTIONS = (
    "gpu_type",
    "gpu_request",
    "constraint",
    "exclusive",
    "account",
    "qos",
    "partition",
    "reservation",
    "extra",
)
"""Keys of `resources` that only the scheduler's dialect understands; `core.ask` reads them."""


def build_settings(file: sections.File, *, data_dir: Path, folder: Path) -> settings.Settings:
    """Build the process settings; relative paths count from the file's folder, SQLite's from the state folder."""
    return settings.Settings(
        data_dir=str(data_dir),
        gateway=_gateway(file.gateway, data_dir=data_dir, folder=folder),
        store=settings.StoreSettings(
            url=absolute_sqlite(file.store.url, data_dir),
            password_file=str(folder / file.store.password_file) if file.store.password_file else "",
        ),
        controller=settings.ControllerSettings(**_by_name(file.controller, settings.ControllerSettings)),
        api_keys=file.identity.api_keys,
    )


def absolute_sqlite(url: str, data_dir: Path) -> str:
    """Make a relative SQLite file's path absolute: it lies in the state folder."""
    if not url.startswith("sqlite:///") or url.startswith("sqlite:////"):
        return url
    return f"sqlite:///{data_dir / url.removeprefix('sqlite:///')}"


def admin_socket(data_dir: Path) -> str:
    """Say where the operator's socket lies."""
    return str(data_dir / "run" / "admin.sock")


def _gateway(given: process.Gateway, *, data_dir: Path, folder: Path) -> settings.GatewaySettings:
    admin = given.admin
    if isinstance(admin, str):
        admin = settings.Listen(host="", port=0, path=admin_socket(data_dir)) if admin == "unix" else None
    tls = given.tls and settings.TlsFiles(
        certificate=str(folder / given.tls.certificate),
        key=str(folder / given.tls.key),
    )
    values: dict[str, Any] = {
        **_by_name(given, settings.GatewaySettings),
        "admin": admin,
        "tls": tls,
        "cors_origins": tuple(given.cors_origins),
        "uploads": str(data_dir / "uploads"),
    }
    return settings.GatewaySettings(**values)


def _by_name(given: process.Section, target: type[Any]) -> dict[str, Any]:
    """Take the fields that both sides have; durations end in `_s` on ours."""
    fields = {field.name for field in dataclasses.fields(target)}
    values = {name: getattr(given, name) for name in type(given).model_fields}
    return {
        (name if name in fields else f"{name}_s"): value
        for name, value in values.items()
        if {name, f"{name}_s"} & fields
    }


def build_catalog(file: sections.File, *, revision: int = 0) -> catalog.Catalog:
    """Build the catalog."""
    aliases = with_derived({name: model.aliases for name, model in file.models.items()})
    return catalog.Catalog(
        revision=revision,
        clusters={name: _cluster(name, given) for name, given in file.clusters.items()},
        models={
            name: catalog.Model(
                name=name,
                aliases=aliases[name],
                access=catalog.Access(
                    groups=frozenset(given.access.groups),
                    domains=frozenset(domain.lower() for domain in given.access.domains),
                ),
                max_model_len=given.max_model_len,
            )
            for name, given in file.models.items()
        },
        deployments={name: build_deployment(name, given) for name, given in file.deployments.items()},
    )


def _cluster(name: str, given: sections.Cluster) -> catalog.Cluster:
    return catalog.Cluster(
        name=name,
        scheduler=catalog.SchedulerSpec(kind=given.scheduler.kind, options=_scheduler_options(given.scheduler)),
        runner=catalog.RunnerSpec(kind=given.runner.kind, options=_options(given.runner)),
        link=catalog.LinkSpec(kind=given.link.kind, ports=given.link.ports, address=given.link.address or ""),
        run_dir=given.run_dir.rstrip("/") or "/",
        limits=catalog.ClusterLimits(
            jobs=given.limits.jobs,
            nodes=given.limits.nodes,
            node_hours_per_day=given.limits.node_hours.day,
            submits_per_hour=given.limits.submits_per_hour,
        ),
        setup=given.setup,
        control=_control(given),
        gateways=tuple(given.gateways),
    )


def _scheduler_options(given: sections.Scheduler) -> dict[str, Any]:
    """Take what is given; a queue is what is called a partition elsewhere."""
    options = {name: value for name, value in _options(given).items() if value != []}
    queue = options.pop("queue", None)
    return {**options, "partition": queue} if queue is not None else options


def _control(given: sections.Cluster) -> str:
    """Say how jobs report: by files from elsewhere, unless they reach a gateway or it is said otherwise."""
    http = given.runner.kind == "local" or given.gateways or "control" in given.model_fields_set
    return given.control if http else "files"


def _options(given: process.Section) -> dict[str, Any]:
    return given.model_dump(exclude={"kind"}, exclude_none=True)


def build_deployment(name: str, given: sections.Deployment) -> catalog.Deployment:
    """Build one deployment."""
    resources = None
    if given.cluster is not None:
        resources = _resources(given.resources or sections.Resources())
    scaling = given.scaling
    bounds = catalog.Scaling(
        min=scaling.min,
        max=scaling.max,
        in_flight=scaling.in_flight,
        idle_s=scaling.idle,
        linger_s=scaling.linger,
        handover=scaling.handover == "on",
    )
    if given.cluster is None:  # it runs already, wanted or not
        bounds = catalog.Scaling(min=1, max=1, in_flight=scaling.in_flight, idle_s=None)
    return catalog.Deployment(
        name=name,
        model=given.model,
        engine=build_engine(given.engine, walltime_s=resources.walltime_s if resources else None),
        cluster=given.cluster,
        resources=resources,
        scaling=bounds,
        update=catalog.UpdateStyle(given.update),
    )


def build_engine(given: sections.Engine, *, walltime_s: float | None) -> catalog.EngineSpec:
    """Build the engine's part; the default start timeout never reaches beyond the walltime."""
    start_timeout_s = given.start_timeout
    if walltime_s is not None and "start_timeout" not in given.model_fields_set:
        start_timeout_s = min(start_timeout_s, walltime_s)
    return catalog.EngineSpec(
        kind=given.kind,
        model=given.model,
        args=dict(given.args),
        env=dict(given.env),
        setup=given.setup,
        options=dict(given.model_extra or {}),
        start_timeout_s=start_timeout_s,
        preflight=given.preflight,
        container=None if given.container is None else _container(given.container),
    )


def _container(given: sections.Container) -> catalog.ContainerSpec:
    return catalog.ContainerSpec(runtime=given.runtime, image=given.image, binds=tuple(given.binds))


def _resources(given: sections.Resources) -> catalog.Resources:
    options = {name: value for name in SCHEDULER_OPTIONS if (value := getattr(given, name)) not in (None, [])}
    return catalog.Resources(
        nodes=given.nodes,
        gpus=given.gpus,
        cpus=given.cpus,
        memory_bytes=given.memory,
        walltime_s=given.walltime,
        options=options,
    )
