# SPDX-License-Identifier: Apache-2.0
"""The daemon of one node of the simulated PBS: runs jobs in sessions of their own, tells how they end.

Killing it is losing the node: its jobs run on, and nobody tells the server.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstkit.testing.simulated_pbs.asking import clock

TICK_S = 0.02


@dataclass(slots=True, kw_only=True)
class Task:
    """One job that runs here."""

    id: str
    pid: int
    output: int
    walltime_s: float
    kill_delay_s: float
    began: float
    used_every_s: float
    kill_at: float | None = None
    over_walltime: bool = False
    told_used_at: float = 0.0
    ended: dict[str, Any] | None = None


def members(session: int) -> list[int]:
    """List the live processes of a session."""
    found: list[int] = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session and fields[0] not in "ZX":
                    found.append(int(entry))
    return found


def signal_all(session: int, number: int) -> None:
    """Send a signal to every process of a job, as PBS does: also to a login shell that is in the way."""
    for pid in members(session):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Mom:
    """One node."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._tasks: dict[str, Task] = {}
        self._socket: socket.socket | None = None
        self._received = b""

    def run(self) -> None:
        """Work as long as the process that started us lives; end all jobs then."""
        parent = os.getppid()
        self._connect()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while os.getppid() == parent:
            self._connect()
            self._listen()
            for task in list(self._tasks.values()):
                self._look_after(task)
        for task in self._tasks.values():
            signal_all(task.pid, signal.SIGKILL)

    # ----------------------------------------------------------------------------------------------------- the server
    def _connect(self) -> None:
        if self._socket is not None:
            return
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(self._folder / "server.sock"))
        except OSError:
            connection.close()
            return
        self._socket, self._received = connection, b""
        self._say({"mom": self._name, "jobs": list(self._tasks)})
        for task in self._tasks.values():
            self._say({"say": "started", "id": task.id, "session": task.pid})

    def _say(self, message: dict[str, Any]) -> bool:
        if self._socket is None:
            return False
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self._hang_up()
            return False
        return True

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _listen(self) -> None:
        if self._socket is None:
            time.sleep(TICK_S)
            return
        ready, _, _ = select.select([self._socket], [], [], TICK_S)
        if not ready:
            return
        try:
            data = self._socket.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._hang_up()
            return
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            self._do(json.loads(line))

    def _do(self, order: dict[str, Any]) -> None:
        task = self._tasks.get(order["id"])
        if order["do"] == "run":
            self._start(order["job"], order["settings"])
        elif task is None:
            return
        elif order["do"] == "signal":
            signal_all(task.pid, getattr(signal, order["signal"]))
        elif order["do"] == "walltime":
            task.walltime_s = order["walltime_s"]
        elif order["force"]:
            signal_all(task.pid, signal.SIGKILL)
        elif task.kill_at is None:
            self._terminate(task)

    # ----------------------------------------------------------------------------------------------------------- jobs
    def _start(self, job: dict[str, Any], settings: dict[str, Any]) -> None:
        output = os.open(job["output"] or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        nodes = self._folder / f"{job['id']}.nodes"
        nodes.write_text(f"{self._name}\n")
        variables = self._variables(job, settings, nodes)
        script = None
        if job["executable"] is None:
            script = self._folder / f"{job['id']}.SC"
            script.write_text(job["script"])
            script.chmod(0o700)
        pid = os.fork()
        if pid == 0:
            _become(job, variables, script=script, output=output)
        self._tasks[job["id"]] = Task(
            id=job["id"],
            pid=pid,
            output=output,
            walltime_s=job["walltime_s"],
            kill_delay_s=settings["kill_delay_s"],
            began=time.monotonic(),
            used_every_s=settings["used_every_s"],
        )
        (self._folder / f"{job['id']}.session").write_text(str(pid))  # whoever ends the simulation ends it as well
        self._say({"say": "started", "id": job["id"], "session": pid})

    def _variables(self, job: dict[str, Any], settings: dict[str, Any], nodes: Path) -> dict[str, str]:
        """Make a job's environment: what qsub took along, what PBS gives, nothing of ours."""
        home = job["variables"].get("PBS_O_HOME", "/")
        variables = {
            "HOME": home,
            "USER": job["owner"],
            "LOGNAME": job["owner"],
            "SHELL": "/bin/bash",
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "PBS_JOBID": job["id"],
            "PBS_JOBNAME": job["name"],
            "PBS_QUEUE": job["queue"],
            "PBS_NODEFILE": str(nodes),
            "PBS_ENVIRONMENT": "PBS_BATCH",
            "NCPUS": str(job["resources"]["ncpus"]),
            "OMP_NUM_THREADS": str(job["resources"]["ncpus"]),
            **job["variables"],
        }
        gpus = int(job["resources"].get("ngpus", 0))
        if settings["gpu_hook"] and gpus:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(f"GPU-{self._name}-{index}" for index in range(gpus))
        return variables

    def _terminate(self, task: Task) -> None:
        signal_all(task.pid, signal.SIGTERM)
        task.kill_at = time.monotonic() + task.kill_delay_s

    def _look_after(self, task: Task) -> None:
        now = time.monotonic()
        used_s = now - task.began
        if task.ended is not None:
            if self._say(task.ended):
                del self._tasks[task.id]
            return
        done, status = os.waitpid(task.pid, os.WNOHANG)
        if done:
            signal_all(task.pid, signal.SIGKILL)
            os.close(task.output)
            code = -29 if task.over_walltime else _exit_status(status)
            task.ended = {"say": "ended", "id": task.id, "status": code, "walltime": clock(used_s)}
            self._say({"say": "ending", "id": task.id})
            return
        if task.walltime_s and used_s > task.walltime_s and not task.over_walltime:
            task.over_walltime = True
            words = f"=>> PBS: job killed: walltime {int(used_s)} exceeded limit {int(task.walltime_s)}\n"
            os.write(task.output, words.encode())
            self._terminate(task)
        if task.kill_at is not None and now >= task.kill_at:
            signal_all(task.pid, signal.SIGKILL)
        if now - task.told_used_at >= task.used_every_s:
            task.told_used_at = now
            self._say({"say": "used", "id": task.id, "walltime": clock(used_s)})


def _become(job: dict[str, Any], variables: dict[str, str], *, script: Path | None, output: int) -> None:
    """Become the job, in a session of its own; never returns.

    An executable is the top process itself. A script's name is written to a login shell, which runs it below itself.
    """
    try:
        os.setsid()
        os.umask(job["umask"])
        os.chdir(variables["HOME"])
        read, write = os.pipe()
        if script is not None:
            os.write(write, f"{script}\n".encode())
        os.close(write)
        for source, target in ((read, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        os.closerange(3, 256)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if script is not None:
            os.execve("/bin/sh", ["-sh"], variables)
        os.execve(job["executable"][0], job["executable"], variables)
    except BaseException as error:  # noqa: BLE001 nothing may return from the child
        os.write(2, f"{job['executable'] or script}: {error}\n".encode())
    finally:
        os._exit(254)


def _exit_status(status: int) -> int:
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 256 + os.WTERMSIG(status)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Mom(Path(sys.argv[1]), sys.argv[2]).run()
