# SPDX-License-Identifier: Apache-2.0
"""Which words each kind of scheduler understands, in `clusters.NAME.scheduler` and in `resources`."""

from __future__ import annotations

from collections.abc import Mapping

from firstkit.config.build import SCHEDULER_OPTIONS
from firstkit.config.catalog_sections import Resources, Scheduler
from firstkit.config.document import Path
from firstkit.config.drafts import DraftCluster
from firstkit.config.report import Report
from firstkit.core.nearest import or_list

LOCAL = "local"
_COMMON = frozenset({"conf", "account", "reservation", "constraint", "gpu_type", "gpu_request", "exclusive", "extra"})
UNDERSTOOD: Mapping[str, frozenset[str]] = {
    LOCAL: frozenset(),
    "pbs": _COMMON | {"queue"},
    "slurm": _COMMON | {"partition", "qos"},
}
"""By kind: the words for a site's own things that it understands, of those that another kind may have."""
GPU_REQUESTS: Mapping[str, tuple[str, ...]] = {
    "pbs": ("select", "none"),
    "slurm": ("gres", "gpus-per-node", "none"),
}
"""By kind: the ways in which it is asked for GPUs."""
_SLURM_OPTIONS = {
    "-a --array -W --wait --wrap -H --hold --test-only -M --clusters": "",
    "--parsable --export --export-file --get-user-env --requeue --no-requeue --open-mode --signal": "",
    "-J --job-name -D --chdir -o --output -e --error -i --input -d --dependency -n --ntasks --ntasks-per-node": "",
    "-t --time": "resources.walltime",
    "-N --nodes": "resources.nodes",
    "-p --partition": "partition",
    "-A --account": "account",
    "-q --qos": "qos",
    "-C --constraint": "constraint",
    "--reservation": "reservation",
    "--exclusive": "exclusive",
    "-c --cpus-per-task": "resources.cpus",
    "--mem": "resources.memory",
    "-G --gpus --gpus-per-node --gpus-per-task": "resources.gpus",
}
_PBS_OPTIONS = {
    "-N -o -e -j -k -r -V -I -X -J -h -z -f -m": "",
    "-q": "queue",
    "-A": "account",
}
OWN_OPTIONS: Mapping[str, Mapping[str, str]] = {
    kind: {option: instead for options, instead in given.items() for option in options.split()}
    for kind, given in (("pbs", _PBS_OPTIONS), ("slurm", _SLURM_OPTIONS))
}
"""By kind: options that `extra` cannot hold, since firstkit gives them, with the key to use instead ("" if none)."""
_SITE_WORDS = tuple(name for name in Scheduler.model_fields if name not in {"kind", "python"})


def check_scheduler(report: Report, name: str, cluster: DraftCluster) -> None:
    """See that a cluster's scheduler understands what it is told about every job."""
    path: Path = ("clusters", name, "scheduler")
    given = cluster.scheduler_words
    if given is None:
        return
    for key in _SITE_WORDS:
        if getattr(given, key) in (None, []) or key in UNDERSTOOD[given.kind]:
            continue
        hint = ""
        if {key, *UNDERSTOOD[given.kind]} >= {"queue", "partition"}:
            hint = f"did you mean `{'partition' if key == 'queue' else 'queue'}`?"
        _not_understood(report, (*path, key), kind=given.kind, hint=hint or "leave it out")
    _check_words(report, path, given)


def check_asks(report: Report, name: str, resources: Resources, *, kind: str) -> None:
    """See that a deployment asks nothing that its cluster's scheduler does not understand."""
    path: Path = ("deployments", name, "resources")
    if kind == LOCAL:
        if resources.nodes > 1:
            problem = f"{resources.nodes} nodes, while the scheduler `local` has one"
            report.add((*path, "nodes"), problem, expected="1")
        for key in SCHEDULER_OPTIONS:
            if getattr(resources, key):
                report.warn((*path, key), f"the scheduler `local` takes no notice of `{key}`")
        return
    understood = {"partition" if key == "queue" else key for key in UNDERSTOOD[kind]}
    for key in SCHEDULER_OPTIONS:
        if getattr(resources, key) not in (None, []) and key not in understood:
            _not_understood(report, (*path, key), kind=kind, hint="leave it out")
    if resources.walltime is None and not report.has((*path, "walltime")):
        given = report.node((*path, "walltime")) is not None
        report.add(
            (*path, "walltime") if given else path if report.node(path) is not None else path[:-1],
            f"the scheduler `{kind}` is told how long a job may run",
            expected="`resources.walltime`, such as 12:00:00",
            key=not given,
        )
    _check_words(report, path, resources, kind=kind)


def _check_words(report: Report, path: Path, given: Scheduler | Resources, *, kind: str = "") -> None:
    """See that GPUs are asked for in a way that this kind has, and that `extra` gives nothing twice."""
    kind = kind or (given.kind if isinstance(given, Scheduler) else "")
    ways = GPU_REQUESTS.get(kind, ())
    if given.gpu_request is not None and "gpu_request" in UNDERSTOOD[kind] and given.gpu_request not in ways:
        problem = f"the scheduler `{kind}` is not asked for GPUs with `{given.gpu_request}`"
        report.add((*path, "gpu_request"), problem, expected=or_list(f"`{way}`" for way in ways))
    for index, option in enumerate(given.extra):
        word = option.split()[0].partition("=")[0] if option.startswith("--") else option[:2]
        instead = OWN_OPTIONS.get(kind, {}).get(word)
        if instead is not None:
            expected = f"`{instead}`" if instead else "no such option"
            report.add((*path, "extra", index), f"firstkit gives `{word}` itself", expected=expected)


def _not_understood(report: Report, path: Path, *, kind: str, hint: str) -> None:
    report.add(path, f"the scheduler `{kind}` knows no {path[-1]}", hint=hint, key=True)
