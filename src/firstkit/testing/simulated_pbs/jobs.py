# SPDX-License-Identifier: Apache-2.0
"""What the simulated PBS server knows of a job, and how `qstat -f` shows it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?")


@dataclass(slots=True, kw_only=True)
class Job:
    """One job. Moments are seconds since the epoch, on the server's clock."""

    id: str
    name: str
    owner: str
    host: str
    queue: str
    resources: dict[str, Any]
    variables: dict[str, str]
    arguments: list[str]
    executable: list[str] | None = None
    script: str = ""
    output: str = ""
    umask: int = 0o077
    account: str = ""
    project: str = "_pbs_project_default"
    rerunable: bool = True
    state: str = "Q"
    substate: int = 10
    hold: str = "n"
    depend: str = ""
    comment: str = ""
    ctime: int = 0
    mtime: int = 0
    stime: int | None = None
    ended_at: int | None = None
    node: str = ""
    session: int | None = None
    used: dict[str, Any] = field(default_factory=dict[str, Any])
    exit_status: int | None = None
    run_count: int = 0
    deleted_by: str = ""
    estimated: int | None = None

    @property
    def owner_at_host(self) -> str:
        return f"{self.owner}@{self.host}"

    def chunks(self) -> int:
        """Count the chunks of its select."""
        head = str(self.resources.get("select", "1")).split(":")[0]
        return int(head) if head.isdigit() else 1

    def amount(self, resource: str) -> int:
        """Say how much of a countable resource it asks for in all."""
        return int(self.resources.get(resource, 0))

    def attributes(self, server: str) -> dict[str, Any]:
        """Show it as `qstat -f` does. Moments stay numbers: the client writes them, in its own zone."""
        shown: dict[str, Any] = {"Job_Name": self.name, "Job_Owner": self.owner_at_host}
        if self.used:
            shown["resources_used"] = dict(self.used)
        shown |= {"job_state": self.state, "queue": self.queue, "server": server}
        if self.account:
            shown["Account_Name"] = self.account
        shown |= {"Checkpoint": "u", "ctime": self.ctime}
        if self.depend:
            shown["depend"] = self.depend
        shown |= {"Error_Path": f"{self.host}:{self.output}"}
        if self.node:
            shown |= {"exec_host": f"{self.node}/0*{self.amount('ncpus')}", "exec_vnode": self.vnodes()}
        shown |= {"Hold_Types": self.hold, "Join_Path": "oe", "Keep_Files": "doe", "Mail_Points": "n"}
        shown |= {"mtime": self.mtime, "Output_Path": f"{self.host}:{self.output}", "Priority": 0, "qtime": self.ctime}
        shown |= {"Rerunable": str(self.rerunable), "Resource_List": dict(self.resources)}
        if self.stime is not None:
            shown["stime"] = self.stime
        if self.session is not None:
            shown |= {"session_id": self.session, "jobdir": self.variables.get("PBS_O_HOME", "/")}
        shown |= {"substate": self.substate}
        shown["Variable_List"] = {name: _loosened(value) for name, value in self.variables.items()}
        if self.comment:
            shown["comment"] = self.comment
        shown |= {"etime": self.ctime, "umask": f"{self.umask:o}"}
        if self.run_count:
            shown["run_count"] = self.run_count
        if self.exit_status is not None:
            shown["Exit_status"] = self.exit_status
        shown["Submit_arguments"] = " ".join(self.arguments)
        if self.executable is not None:
            shown["executable"] = f"<jsdl-hpcpa:Executable>{self.executable[0]}</jsdl-hpcpa:Executable>"
        if self.ended_at is not None:
            shown["history_timestamp"] = self.ended_at
        if self.estimated is not None:
            shown["estimated"] = {"start_time": self.estimated}
        return shown | {"project": self.project, "Submit_Host": self.host}

    def vnodes(self) -> str:
        """Show where it runs."""
        parts = [f"{name}={self.resources[name]}" for name in ("ncpus", "ngpus", "mem") if name in self.resources]
        return f"({':'.join([self.node, *parts])})"


def _loosened(value: str) -> Any:
    """Let a variable lose its quotes, and its form, where it looks like a number or a boolean."""
    if _NUMBER.fullmatch(value):
        number = float(value)
        return int(number) if number.is_integer() else number
    return {"true": True, "false": False}.get(value, value)
