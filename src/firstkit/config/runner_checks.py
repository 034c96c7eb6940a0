# SPDX-License-Identifier: Apache-2.0
"""Cross checks of where a cluster's commands run: what each kind of runner is told, and the files that ssh reads."""

from __future__ import annotations

from pathlib import Path as FilePath

from firstkit.config.disk import Disk
from firstkit.config.document import Path
from firstkit.config.drafts import DraftCluster
from firstkit.config.report import Report
from firstkit.config.runner_section import Runner

_SSH = tuple(name for name in Runner.model_fields if name != "kind")
_WITH_A_PERSON = ("key", "certificate", "renew", "jump")


def check_runner(report: Report, name: str, cluster: DraftCluster) -> None:
    """See that a runner is told what its kind needs, and nothing that means nothing to it."""
    path: Path = ("clusters", name, "runner")
    given = cluster.runner_words
    if given is None:
        return
    if cluster.runner == "local":
        for key in _SSH:
            if report.node((*path, key)) is not None:
                hint = "leave it out, or use `kind: ssh`"
                report.add((*path, key), f"the runner `local` uses no {key}", hint=hint, key=True)
        return
    if given.host is None and report.node((*path, "host")) is None:
        report.add(path, "the runner `ssh` needs a host", expected="`host`, such as login1.example.org", key=True)
    if given.control_path is not None:
        for key in _WITH_A_PERSON:
            if getattr(given, key) is not None:
                report.add(
                    (*path, key),
                    f"a person opens the connection at `control_path`, so `{key}` has no meaning",
                    hint="leave one of the two out",
                    key=True,
                )
    if cluster.link is not None and cluster.link.kind == "local":
        report.add(
            ("clusters", name, "link", "kind"),
            "the link `local` reaches engines on this machine, and the runner `ssh` has jobs run elsewhere",
            expected="`direct`",
        )


def check_ssh_files(report: Report, name: str, cluster: DraftCluster, *, disk: Disk) -> None:
    """See that the files which ssh reads are there, and that nobody else can read the key."""
    given = cluster.runner_words
    if given is None or cluster.runner != "ssh":
        return
    for key in ("key", "certificate", "known_hosts", "ssh_config"):
        text = getattr(given, key)
        path: Path = ("clusters", name, "runner", key)
        if text is None or text == "none" or report.has(path):
            continue
        file = FilePath(text).expanduser()
        if not disk.exists(file) or disk.is_folder(file) or not disk.readable(file):
            report.add(path, f"there is no file {file} that can be read", expected="a file that this user may read")
        elif key == "key" and disk.open_to_others(file):
            problem = f"every user of this machine can read {file}"
            report.add(path, problem, expected="mode 0600", hint=f"chmod 600 {file}")
