# SPDX-License-Identifier: Apache-2.0
"""A whole simulated PBS site to be used by tests: started, hung, killed, its nodes lost, and ended without a trace."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from firstkit.testing.simulated_pbs import commands

SETTINGS: Mapping[str, Any] = {
    "default_queue": "gpu",
    "history": True,
    "history_s": 1_209_600,
    "json_prints_one": True,  # OpenPBS's issue 2672
    "kill_delay_s": 10.0,
    "used_every_s": 1.0,
    "node_fail_requeue_s": 310.0,
    "gpu_hook": True,
    "resources": [],
}
QUEUES: Mapping[str, Mapping[str, Any]] = {"gpu": {"enabled": True, "started": True}}
NODES: Mapping[str, Mapping[str, Any]] = {"pbs1": {"ncpus": 64, "ngpus": 8, "mem": "24684096kb"}}


class SimulatedPbs:
    """One site. `folder` holds all of it, `commands` its commands."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.commands = folder / "bin"
        self._nodes: dict[str, dict[str, Any]] = {name: dict(node) for name, node in NODES.items()}
        document: dict[str, Any] = {
            "name": commands.SERVER,
            "settings": {**SETTINGS, **settings},
            "queues": {name: dict(queue) for name, queue in QUEUES.items()},
            "nodes": self._nodes,
            "reservations": {},
            "jobs": [],
            "next": 1,
        }
        (folder / "server.json").write_text(json.dumps(document))
        self.commands.mkdir()
        for name in commands.COMMANDS:
            program = self.commands / name
            words = [sys.executable, "-I", "-S", commands.__file__, name, str(folder)]
            program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
            program.chmod(0o755)
        keeper = [sys.executable, "-m", "firstkit.testing.simulated_pbs.keeper", str(folder)]
        self._keeper = subprocess.Popen(keeper, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    # ------------------------------------------------------------------------------------------- what may happen to it
    def _order(self, words: str) -> None:
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.write(f"{words}\n".encode())
        self._keeper.stdin.flush()
        assert self._keeper.stdout.readline() == b"done\n", f"the simulated PBS did not {words}"

    def start_server(self) -> None:
        """Start the server, or start it again: it knows what it knew."""
        self._order("start server")

    def kill_server(self) -> None:
        """Kill the server: every command is refused a connection, jobs go on."""
        self._order("kill server")

    @contextlib.contextmanager
    def hung(self) -> Generator[None]:
        """Let the server hang: every command blocks without end, and what was asked meanwhile is done afterwards."""
        self._order("stop server")
        try:
            yield
        finally:
            self._order("continue server")

    def start_node(self, name: str = "pbs1") -> None:
        """Start a node's daemon, or start it again: it knows nothing of the jobs it had."""
        self._order(f"start node {name}")

    def lose_node(self, name: str = "pbs1") -> None:
        """Lose a node: its daemon is gone, its processes run on."""
        self._order(f"kill node {name}")

    def control(self, **groups: Any) -> None:
        """Change what the site's administrators may: settings, queues, nodes, reservations, jobs, forget."""
        commands.ask(str(self.folder), {"verb": "control", **groups})

    # ----------------------------------------------------------------------------------------------------- its commands
    @property
    def path(self) -> str:
        """Say on which PATH its commands are found, and all others as here."""
        return f"{self.commands}:{os.environ.get('PATH', '/usr/bin:/bin')}"

    def run(self, *argv: str, stdin: str = "", timeout_s: float = 20.0) -> subprocess.CompletedProcess[str]:
        """Run one of its commands as a person would."""
        return subprocess.run(
            [self.commands / argv[0], *argv[1:]],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "TZ": "America/Chicago"},
        )

    def job(self, scheduler_id: str) -> dict[str, Any]:
        """Show one job, history included; {} for one that is not known."""
        answer = json.loads(self.run("qstat", "-x", "-f", "-F", "json", scheduler_id).stdout)
        return answer.get("Jobs", {}).get(scheduler_id, {})

    def close(self) -> None:
        """End everything: jobs of lost nodes included."""
        for stream in (self._keeper.stdin, self._keeper.stdout):
            if stream is not None:
                stream.close()
        self._keeper.wait()


@contextlib.contextmanager
def simulated_pbs(**settings: Any) -> Generator[SimulatedPbs]:
    """Run a site with one node; its folder has a short name, since sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="pbs-"))
    site = SimulatedPbs(folder, **settings)
    try:
        site.start_server()
        site.start_node()
        yield site
    finally:
        site.close()
        shutil.rmtree(folder)
