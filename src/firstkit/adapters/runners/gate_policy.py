# SPDX-License-Identifier: Apache-2.0
"""The policy that is installed beside the gate: made from the very commands that the scheduler's dialect builds."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from firstkit.core.catalog import Cluster, Resources
from firstkit.ports.runner import Command
from firstkit.ports.scheduler import Scheduler, Submission

_JOB, _ID, _WALLTIME_S = "j-000000000000", "4711000815", 86_399.0
"""What stands for a job, its number and its walltime in the commands that the patterns are made from."""
_WALLTIMES = ("86399", "23:59:59")
_JOB_PATTERN = "j-[0-9a-z]{12}"
_ID_PATTERN = r"[0-9]+(?:\.[A-Za-z0-9_.-]+)?"
_WHOSE: Mapping[str, Mapping[str, Any]] = {
    "local": {
        "argv": ("list",),
        "name": r'"id": "{id}", "name": "([^"]*)"',
        "absent": r'"end": true',
    },
    "slurm": {
        "argv": ("squeue", "--noheader", "--states=all", "--format=%j", "--jobs={id}"),
        "name": r"(?m)^(\S+)$",
        "absent": "Invalid job id specified",
    },
    "pbs": {
        "argv": ("qstat", "-f", "{id}"),
        "name": r"(?m)^\s*Job_Name = (\S+)$",
        "absent": "Unknown Job Id|Job has finished",
    },
}
"""How each kind of scheduler is asked for the name of one job, and how it says that there is none."""


def policy(
    cluster: Cluster,
    scheduler: Scheduler,
    *,
    installation: str,
    asks: Sequence[Resources],
    approvals: str = "",
    path: str = "",
) -> dict[str, Any]:
    """Write what a key may do on a cluster; with `approvals`, it submits only what that file lists.

    `asks`: what the cluster's deployments ask for. Where that is on the command line (`pbs`), a new deployment needs a
    new policy.
    """
    tag = f"first-{installation}-{_JOB}"
    folder = f"{cluster.run_dir}/{_JOB}"
    submissions = [
        Submission(tag=tag, run_dir=folder, script=f"{folder}/start.sh", resources=replace(ask, walltime_s=_WALLTIME_S))
        for ask in (*asks, Resources())
    ]
    cancel = scheduler.cancel([_ID])
    document: dict[str, Any] = {
        "run_dir": cluster.run_dir,
        "tag": re.escape(tag).replace(re.escape(_JOB), _JOB_PATTERN),
        "path": path,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in scheduler.files().items()},
        "commands": {
            "read": [
                *(_pattern(one, tag) for one in (*scheduler.observe(), *scheduler.windows())),
                *(_pattern(one, tag, several=True) for one in scheduler.recall({_JOB: _ID})),
            ],
            "submit": list(dict.fromkeys(_pattern(scheduler.submit(one), tag) for one in submissions)),
            "cancel": [_pattern(one, tag) for one in cancel],
        },
        "whose": {**_WHOSE[cluster.scheduler.kind], "argv": _asking(cluster, scheduler, cancel[0])},
    }
    return {**document, "approvals": approvals} if approvals else document


def _asking(cluster: Cluster, scheduler: Scheduler, cancel: Command) -> list[str]:
    """Write the question for a job's name as this dialect writes its commands: with its environment, in its folder."""
    if cluster.scheduler.kind == "local":
        return list(scheduler.observe()[0].argv)
    words = list(_WHOSE[cluster.scheduler.kind]["argv"])
    program = next(place for place, word in enumerate(cancel.argv) if word.rpartition("/")[2] in {"scancel", "qdel"})
    folder = cancel.argv[program].rpartition("/")
    return [*cancel.argv[:program], f"{folder[0]}{folder[1]}{words[0]}", *words[1:]]


def _pattern(command: Command, tag: str, *, several: bool = False) -> str:
    """Write one command line as a pattern: other jobs, numbers and walltimes, and nothing else that is different."""
    text = re.escape("\0".join(command.argv))
    if several:
        one = re.escape(tag).replace(re.escape(_JOB), _JOB_PATTERN)
        text = text.replace(re.escape(tag), f"{one}(?:,{one})*")
    first, found, rest = text.partition(re.escape(_JOB))
    if found:
        text = f"{first}(?P<job>{_JOB_PATTERN}){rest.replace(re.escape(_JOB), '(?P=job)')}"
    for walltime in _WALLTIMES:
        text = text.replace(re.escape(walltime), "[0-9][0-9:.e+]*")
    return text.replace(re.escape(_ID), rf"(?P<ids>{_ID_PATTERN}(?:\0{_ID_PATTERN})*)")
