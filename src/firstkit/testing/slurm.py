# SPDX-License-Identifier: Apache-2.0
"""A real Slurm on this machine, for tests and demonstrations: real daemons, faked nodes and GPUs, gone when stopped.

All daemons, steps and jobs live below one supervisor in a pid namespace of its own; when that ends, or whoever started
it, everything has ended. Works as root and as any user (every daemon and every job is then that user). Any number of
clusters may run side by side. GPUs are a list of device files that exist: nothing computes on them.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

NEEDED = ("slurmctld", "slurmd", "sbatch", "squeue", "unshare")
"""Programs without which there is no Slurm here; Debian: slurm-wlm, util-linux."""
START_S = 60.0
_CONF = """\
ClusterName={name}
SlurmctldHost=localhost
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0,sched_min_interval=0
SlurmdTimeout=60
SlurmctldTimeout=10
KillWait=3
ReturnToService=2
SlurmdParameters=config_overrides
DefMemPerCPU=100
EnforcePartLimits=ALL
GresTypes=gpu
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobcomp.log
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={name}[1-{nodes}] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[{first}-{last}] \
CPUs=16 RealMemory=64000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=gpu Nodes=ALL Default=YES MaxTime=120 DefaultTime=10 State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=scav Nodes=ALL MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=4
"""


def missing_programs() -> list[str]:
    """Name what is needed and not installed."""
    return [name for name in NEEDED if shutil.which(name) is None]


class RealSlurm:
    """One cluster in a folder. Settings may be added to slurm.conf, or replaced, by `settings`."""

    def __init__(
        self, folder: Path, *, name: str = "c", nodes: int = 3, gpus: int = 8, settings: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.name = name
        self.nodes = tuple(f"{name}{number}" for number in range(1, nodes + 1))
        self._gpus = gpus
        self._settings = dict(settings or {})
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def conf(self) -> Path:
        """Its slurm.conf."""
        return self.folder / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs to reach it."""
        return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "SLURM_CONF": str(self.conf), "LC_ALL": "C"}

    # ------------------------------------------------------------------------------------------------ start to end
    def start(self) -> None:
        """Start every daemon, and return when all nodes are idle."""
        for part in ("state", "log", *(f"spool/{node}" for node in self.nodes)):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        self._port = _free_ports(1 + len(self.nodes))
        self._write_conf()
        user = [] if os.getuid() == 0 else ["--user", "--map-current-user"]
        # The supervisor starts what it reads; when nobody writes to it any more it ends, and the namespace with it.
        loop = 'while read -r line; do eval "$line" </dev/null >>"$0" 2>&1 & done'
        self._supervisor = subprocess.Popen(
            [
                _program("unshare"),
                *user,
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "sh",
                "-c",
                loop,
                "log/supervisor",
            ],
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**self.environment, "HOME": str(self.folder)},
            start_new_session=True,
        )
        self.start_controller()
        for node in self.nodes:
            self.start_node(node)
        self.until_idle()

    def stop(self) -> None:
        """End everything at once: daemons, steps and jobs."""
        if self._supervisor is None:
            return
        supervisor, self._supervisor = self._supervisor, None
        supervisor.kill()
        supervisor.wait(20)
        if supervisor.stdin is not None:
            with contextlib.suppress(OSError):
                supervisor.stdin.close()

    def until_idle(self, *, within_s: float = START_S) -> None:
        """Wait until every node is idle."""
        self._until(lambda: self._idle_nodes() == len(self.nodes), "not all nodes are idle", within_s)

    def until_up(self, *, within_s: float = START_S) -> None:
        """Wait until every node answers, busy or not."""
        working = {"idle", "mixed", "allocated", "completing"}
        self._until(lambda: all(one in working for one in self._states()), "not all nodes are up", within_s)

    def _idle_nodes(self) -> int:
        return sum(1 for one in self._states() if one == "idle")

    def _states(self) -> list[str]:
        """List the nodes' states; none where the controller does not answer."""
        return self.run("sinfo", "-h", "-N", "-p", "gpu", "-o", "%T").stdout.split() or ["unknown"]

    # ----------------------------------------------------------------------------------------------------- daemons
    def start_controller(self) -> None:
        """Start slurmctld, and return when it listens."""
        self._command(f"slurmctld -D -f {self.conf}")
        self._until(lambda: _listens(self._port), "slurmctld does not listen", START_S)

    def start_node(self, node: str) -> None:
        """Start a node's slurmd."""
        self._command(f"slurmd -D -f {self.conf} -N {node}")

    def controller_pid(self) -> int:
        """Find slurmctld among this machine's processes."""
        return self._pid("slurmctld")

    def node_pid(self, node: str) -> int:
        """Find a node's slurmd."""
        return self._pid("slurmd", node)

    def signal_controller(self, number: signal.Signals) -> None:
        """Send slurmctld a signal: STOP hangs it, CONT lets it go on, TERM and KILL end it.

        Killed, it has forgotten what it had not saved: it may start jobs again that are running.
        """
        os.kill(self.controller_pid(), number)
        if number in {signal.SIGKILL, signal.SIGTERM}:
            self._until(lambda: not _listens(self._port), "slurmctld still listens", START_S)

    def _pid(self, *words: str) -> int:
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                argv = entry.read_bytes().decode(errors="replace").split("\0")
                if str(self.conf) in argv and all(word in argv for word in words):
                    return int(entry.parent.name)
        raise LookupError(f"no process of {' '.join(words)} with {self.conf}")

    def _command(self, line: str) -> None:
        if self._supervisor is None or self._supervisor.stdin is None:
            raise RuntimeError("the cluster is not running")
        self._supervisor.stdin.write(line.encode() + b"\n")
        self._supervisor.stdin.flush()

    # ---------------------------------------------------------------------------------------------------- commands
    def run(self, *argv: str, within_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run one of Slurm's commands."""
        return subprocess.run(argv, env=self.environment, capture_output=True, text=True, timeout=within_s, check=False)

    def log(self) -> str:
        """Return the ends of all logs, for whoever wonders."""
        found = sorted(self.folder.glob("log/*"))
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in found)

    def _until(self, holds: Callable[[], bool], complaint: str, within_s: float) -> None:
        end = time.monotonic() + within_s
        while not holds():
            if time.monotonic() > end:
                raise TimeoutError(f"{complaint} after {within_s:g} s:\n{self.log()}")
            time.sleep(0.01)

    def _write_conf(self) -> None:
        text = _CONF.format(
            name=self.name,
            port=self._port,
            user=getpass.getuser(),
            folder=self.folder,
            nodes=len(self.nodes),
            first=self._port + 1,
            last=self._port + len(self.nodes),
            gpus=self._gpus,
        )
        kept = [line for line in text.splitlines() if line.partition("=")[0] not in self._settings]
        kept += [f"{key}={value}" for key, value in self._settings.items() if value]
        self.conf.write_text("\n".join(kept) + "\n")
        devices = f"/dev/tty[0-{self._gpus - 1}]"
        gres = f"AutoDetect=off\nNodeName={self.name}[1-{len(self.nodes)}] Name=gpu File={devices}\n"
        (self.folder / "gres.conf").write_text(gres)


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed")
    return found


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_ports(count: int) -> int:
    """Find the first of so many free ports in a row."""
    while True:
        with contextlib.ExitStack() as stack:
            try:
                probe = stack.enter_context(socket.socket())
                probe.bind(("127.0.0.1", 0))
                first = int(probe.getsockname()[1])
                for port in range(first + 1, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except (OSError, OverflowError):
                continue
            return first
