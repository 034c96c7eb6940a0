# SPDX-License-Identifier: Apache-2.0
"""Cross checks of clusters, models and deployments: what is fine alone may be wrong beside the others."""

from __future__ import annotations

from typing import Any

from firstkit.config.catalog_sections import Engine, Resources
from firstkit.config.document import ListNode, Path, ScalarNode
from firstkit.config.drafts import Draft, DraftCluster, DraftDeployment
from firstkit.config.naming import derived_alias
from firstkit.config.report import Report
from firstkit.config.runner_checks import check_runner
from firstkit.config.scheduler_checks import LOCAL, check_asks, check_scheduler
from firstkit.config.shape import near_names
from firstkit.config.values import write_duration
from firstkit.core.catalog import EXTERNAL


def check_catalog(report: Report, draft: Draft) -> None:
    """Run every cross check of the catalog."""
    _check_names(report, draft)
    for name in draft.models:
        _check_served(report, draft, name)
    for name, cluster in draft.clusters.items():
        if cluster.known:
            check_scheduler(report, name, cluster)
            _check_link(report, draft, name, cluster)
            _check_limits(report, draft, name, cluster)
            _check_room_for_successors(report, draft, name, cluster)
            check_runner(report, name, cluster)
    _check_clusters_together(report, draft)
    for name, deployment in draft.deployments.items():
        _check_references(report, draft, name, deployment)
        _check_place(report, draft, name, deployment)
        _check_scaling(report, name, deployment)
        _check_resources(report, draft, name, deployment)
        if deployment.engine is not None and deployment.resources is not None:
            _check_parallel(report, ("deployments", name), deployment.engine, deployment.resources)


# -------------------------------------------------------------------------------------------------------------- models


def _check_names(report: Report, draft: Draft) -> None:
    """Every public name means one model."""
    owners: dict[str, str] = {name: name for name in draft.models}
    for model, given in draft.models.items():
        node = report.node(("models", model, "aliases"))
        if not isinstance(node, ListNode):
            continue
        for index, item in enumerate(node.items):
            alias = item.value if isinstance(item, ScalarNode) else None
            if not isinstance(alias, str) or alias not in given.aliases:
                continue
            path: Path = ("models", model, "aliases", index)
            if alias not in owners:
                owners[alias] = model
            elif owners[alias] == model:
                what = "is the model's own name" if alias == model else "is given twice"
                report.add(path, f"the alias `{alias}` {what}", expected="further names only")
            else:
                what = "the name of a model" if owners[alias] == alias else f"an alias of {owners[alias]}"
                report.add(path, f"the alias `{alias}` is also {what}", expected="a name that nothing else has")
    for model, given in draft.models.items():
        alias = derived_alias(model, given.aliases)
        if alias is None:
            continue
        if alias in owners:
            report.add(
                ("models", model),
                f"has no name without slash, and `{alias}` is taken by {owners[alias]}",
                expected="an alias without slash under `aliases`",
                key=True,
            )
        else:
            owners[alias] = model


def _check_served(report: Report, draft: Draft, model: str) -> None:
    if not any(deployment.model == model for deployment in draft.deployments.values()):
        report.add(
            ("models", model),
            f"no deployment serves the model {model}",
            expected="a deployment with this `model`, or no such entry",
            key=True,
        )


# ------------------------------------------------------------------------------------------------------------ clusters


def _check_link(report: Report, draft: Draft, name: str, cluster: DraftCluster) -> None:
    path: Path = ("clusters", name, "link")
    link = cluster.link
    if link is None:
        return
    if link.kind == "direct" and link.ports is None and report.node((*path, "ports")) is None:
        report.add(
            path, "the link `direct` needs ports for its doors", expected="`ports`, such as 42000-42099", key=True
        )
    if link.kind == "reverse" and not cluster.gateways:
        report.add(
            path,
            "the link `reverse` needs to know where its doors reach the gateway",
            expected="`gateways` of the cluster, such as [gw.example.org:8443]",
            key=True,
        )
    if link.kind == "local" and cluster.scheduler != LOCAL:
        hint = "use `kind: direct` or `reverse` unless all its nodes are this machine"
        report.warn((*path, "kind"), "the link `local` reaches jobs on the gateway's own machine alone", hint=hint)
    if link.kind != "direct":
        for key in ("ports", "address"):
            if getattr(link, key) is not None:
                report.add(
                    (*path, key),
                    f"the link `{link.kind}` uses no {key}",
                    hint="leave it out, or use `kind: direct`",
                    key=True,
                )
    if link.ports is None or link.kind != "direct":
        return
    count = link.ports[1] - link.ports[0] + 1
    ports: Path = (*path, "ports")
    if cluster.limits.jobs is not None and count < cluster.limits.jobs:
        report.add(
            ports,
            f"{_ports(count)} are too few for limits.jobs: {cluster.limits.jobs}",
            expected="a port for each job that may run at a time",
        )
    listen = draft.gateway.listen
    admin = draft.gateway.admin
    for what, other in (("gateway.listen", listen), ("gateway.admin", admin), ("gateway.doors", draft.gateway.doors)):
        if (
            other is not None
            and not isinstance(other, str)
            and not other.path
            and link.ports[0] <= other.port <= link.ports[1]
        ):
            report.add(
                ports, f"the range holds the port {other.port} of {what}", expected="ports that nothing else uses"
            )
    wanted = sum(item.scaling.max for item in draft.deployments.values() if item.cluster == name)
    if wanted > count and cluster.limits.jobs is None:
        report.warn(ports, f"{_ports(count)}, while the deployments here may have {wanted} instances in all")


def _ports(count: int) -> str:
    return "1 port" if count == 1 else f"{count} ports"


def _check_limits(report: Report, draft: Draft, name: str, cluster: DraftCluster) -> None:
    """See that what is kept whether wanted or not fits within the hard bounds."""
    here = {key: item for key, item in draft.deployments.items() if item.cluster == name}
    kept = sum(item.scaling.min for item in here.values())
    path: Path = ("clusters", name, "limits")
    jobs, nodes = cluster.limits.jobs, cluster.limits.nodes
    if jobs is not None and kept > jobs:
        report.add(
            (*path, "jobs"),
            f"{jobs} is less than the {kept} instances that `scaling.min` keeps here",
            expected=f"{kept} or more",
        )
    kept_nodes = sum(item.scaling.min * (item.resources.nodes if item.resources else 1) for item in here.values())
    if nodes is None:
        return
    too_big = False
    for key, item in here.items():
        if item.resources and item.resources.nodes > nodes:
            too_big = True
            report.add(
                ("deployments", key, "resources", "nodes"),
                f"{item.resources.nodes} nodes are more than the {nodes} that limits.nodes allows on {name}",
                expected=f"{nodes} or fewer",
            )
    if kept_nodes > nodes and not too_big:
        report.add(
            (*path, "nodes"),
            f"{nodes} is less than the {kept_nodes} nodes that `scaling.min` keeps here",
            expected=f"{kept_nodes} or more",
        )


def _check_room_for_successors(report: Report, draft: Draft, name: str, cluster: DraftCluster) -> None:
    """See that the hard bounds leave a place for the successor of one whose walltime ends, beside those that serve."""
    here = [item for item in draft.deployments.values() if item.cluster == name and item.resources is not None]
    ends = [item for item in here if item.resources and item.resources.walltime is not None]
    ending = [item for item in ends if item.scaling.handover == "on"]
    if not ending:
        return
    path: Path = ("clusters", name, "limits")
    hint = "leave room for one more, or write `scaling.handover: off` where a gap at the end of a walltime is meant"
    jobs, nodes = cluster.limits.jobs, cluster.limits.nodes
    kept = max(1, sum(item.scaling.min for item in here))
    if jobs is not None and kept == jobs:
        text = f"{jobs} leaves no place for a successor beside {'what is' if kept > 1 else 'the one'} kept or served"
        report.warn((*path, "jobs"), text, hint=hint)
    if nodes is None:
        return
    largest = max(item.resources.nodes for item in ending if item.resources)
    kept_nodes = max(largest, sum(item.scaling.min * item.resources.nodes for item in here if item.resources))
    if kept_nodes <= nodes < kept_nodes + largest:
        text = f"{nodes} leaves no {largest} nodes for a successor beside the {kept_nodes} that are kept or served"
        report.warn((*path, "nodes"), text, hint=hint)


def _check_clusters_together(report: Report, draft: Draft) -> None:
    """Two clusters on one machine share neither folder nor ports."""
    names = [name for name, cluster in draft.clusters.items() if cluster.known and cluster.runner == "local"]
    for index, name in enumerate(names):
        for earlier in names[:index]:
            mine, other = draft.clusters[name], draft.clusters[earlier]
            if mine.run_dir and mine.run_dir.rstrip("/") == other.run_dir.rstrip("/"):
                report.add(
                    ("clusters", name, "run_dir"), f"is also the run_dir of {earlier}", expected="a folder of its own"
                )
            left, right = (side.link.ports if side.link else None for side in (mine, other))
            if left and right and left[0] <= right[1] and right[0] <= left[1]:
                report.add(
                    ("clusters", name, "link", "ports"),
                    f"overlap with the ports of {earlier}",
                    expected="a range of its own",
                )


# --------------------------------------------------------------------------------------------------------- deployments


def _check_references(report: Report, draft: Draft, name: str, deployment: DraftDeployment) -> None:
    path: Path = ("deployments", name)
    if deployment.model and deployment.model not in draft.models:
        for model, given in draft.models.items():
            if deployment.model in given.aliases or deployment.model == derived_alias(model, given.aliases):
                problem = f"`{deployment.model}` is an alias"
                report.add((*path, "model"), problem, expected="the model's own name", hint=f"did you mean `{model}`?")
                break
        else:
            expected, hint = near_names(deployment.model, list(draft.models), what="models")
            report.add((*path, "model"), f"there is no model `{deployment.model}`", expected=expected, hint=hint)
    if deployment.cluster and deployment.cluster not in draft.clusters:
        expected, hint = near_names(deployment.cluster, list(draft.clusters), what="clusters")
        report.add((*path, "cluster"), f"there is no cluster `{deployment.cluster}`", expected=expected, hint=hint)


def _check_place(report: Report, draft: Draft, name: str, deployment: DraftDeployment) -> None:
    """Say where an engine runs: on a cluster, or already and elsewhere."""
    path: Path = ("deployments", name)
    if deployment.engine is None:
        return
    if deployment.engine.kind != EXTERNAL:
        if report.node((*path, "cluster")) is None:
            expected, _ = near_names("", list(draft.clusters), what="clusters")
            report.add(
                path,
                f"an engine of the kind `{deployment.engine.kind}` needs a cluster to run on",
                expected=expected,
                key=True,
            )
        return
    for key in ("cluster", "resources", "update"):
        if report.node((*path, key)) is not None:
            report.add(
                (*path, key), f"an external engine runs already: it has no {key}", expected="no such key", key=True
            )
    for key in ("min", "max", "idle", "linger", "handover"):
        if report.node((*path, "scaling", key)) is not None:
            report.add(
                (*path, "scaling", key),
                f"an external engine is not started or ended here: `{key}` has no meaning",
                expected="`in_flight` alone",
                key=True,
            )


def _check_scaling(report: Report, name: str, deployment: DraftDeployment) -> None:
    scaling = deployment.scaling
    path: Path = ("deployments", name, "scaling")
    if scaling.max < scaling.min and deployment.engine and deployment.engine.kind != EXTERNAL:
        where = "max" if report.node((*path, "max")) is not None else "min"
        report.add(
            (*path, where),
            f"`max` ({scaling.max}) is less than `min` ({scaling.min})",
            expected="`max` at or above `min`",
        )
    if scaling.idle is None and scaling.linger is not None and report.node((*path, "linger")) is not None:
        report.warn((*path, "linger"), "with `idle: never` nothing is ever unwanted, so `linger` does nothing")


def _check_resources(report: Report, draft: Draft, name: str, deployment: DraftDeployment) -> None:
    resources, engine = deployment.resources, deployment.engine
    path: Path = ("deployments", name)
    cluster = draft.clusters.get(deployment.cluster)
    if engine is not None and engine.kind == EXTERNAL:
        return
    if cluster is not None and cluster.known:
        check_asks(report, name, resources or Resources(), kind=cluster.scheduler)
    if resources is None:
        return
    walltime = resources.walltime
    if engine is not None and walltime is not None:
        started = report.node((*path, "engine", "start_timeout")) is not None
        if started and walltime <= engine.start_timeout:
            report.add(
                (*path, "resources", "walltime"),
                f"{write_duration(walltime)} leaves no time to serve after the engine's start_timeout",
                expected=f"more than {write_duration(engine.start_timeout)}",
            )
    node = report.node((*path, "resources", "walltime"))
    if isinstance(node, ScalarNode) and isinstance(node.value, int) and node.value < 600 and walltime is not None:
        report.warn((*path, "resources", "walltime"), f"`{node.text}` is seconds", hint="write the unit, such as 12h")
    if resources.gpu_type and resources.gpus == 0:
        report.add((*path, "resources", "gpu_type"), "a kind of GPU for no GPUs", expected="`gpus` above 0")


_PARALLEL = ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size")
_SHORT = {"tp": _PARALLEL[0], "pp": _PARALLEL[1], "dp": _PARALLEL[2]}


def _check_parallel(report: Report, path: Path, engine: Engine, resources: Resources) -> None:
    """See that an engine that is split over GPUs gets as many as it is split into."""
    sizes: dict[str, tuple[str, int]] = {}
    for key, value in engine.args.items():
        flag = _flag(key)
        if flag in _PARALLEL and isinstance(value, int) and not isinstance(value, bool) and value > 0:
            sizes[flag] = (key, value)
    if not sizes:
        return
    wanted = 1
    for _, value in sizes.values():
        wanted *= value
    there = resources.gpus * resources.nodes
    place: Path = (*path, "engine", "args", next(iter(sizes.values()))[0])
    product = " × ".join(f"{flag} {value}" for flag, (_, value) in sizes.items())
    if wanted > 1 and there == 0:
        report.add(place, f"{product} without GPUs", expected=f"`resources.gpus` of {wanted}, or no splitting")
    elif wanted > there > 0:
        report.add(
            place,
            f"{product} makes {wanted} parts, while there are {_gpus(resources)}",
            expected=f"{there} parts, one for each GPU",
        )
    elif wanted < there:
        report.warn(place, f"{product} makes {wanted} parts: {there - wanted} of {_gpus(resources)} would be idle")


def _flag(key: Any) -> str:
    flag = str(key).lstrip("-").replace("_", "-")
    return _SHORT.get(flag, flag)


def _gpus(resources: Resources) -> str:
    gpus = f"{resources.gpus} GPU{'s' if resources.gpus != 1 else ''}"
    return gpus if resources.nodes == 1 else f"{gpus} on each of {resources.nodes} nodes"
