# SPDX-License-Identifier: Apache-2.0
"""The checks behind `first doctor`: each looks at one thing and says what it found, and what to do if it is wrong."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio

from firstkit.adapters.engines.registry import load_engines
from firstkit.apps.cli.checks import Check, State, Tell, said
from firstkit.apps.cli.rendering import rendered
from firstkit.apps.cli.trial import Trial
from firstkit.apps.clusters import connections, runner_for, scheduler_for
from firstkit.config.environment import read_environment
from firstkit.config.loading import Loaded, load
from firstkit.core import ids
from firstkit.core.catalog import Catalog, Cluster, Deployment
from firstkit.core.errors import ConfigError, FirstError, NotFound
from firstkit.core.nearest import nearest, or_list
from firstkit.core.units import format_bytes, format_duration
from firstkit.ports.engine import Engine
from firstkit.ports.rehearsal import Rehearsing
from firstkit.ports.runner import Command, Done, RemoteFile, Result, Runner
from firstkit.ports.scheduler import Scheduler

DEADLINE_S = 30.0
SOCKET_LIMIT = 100
LOGIN_SHORT_S = 3600.0
LOW_DISK = 2_000_000_000
_VERSION = "import sys; print('%d.%d.%d' % sys.version_info[:3]); sys.exit(sys.version_info < (3, 9))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What to look at: one cluster or all, with a test job or without, for which deployment, how long to wait."""

    cluster: str | None = None
    with_job: bool = True
    deployment: str | None = None
    wait_s: float = 300.0


def examine(config: Path, *, data: Path, wish: Wish, tell: Tell, remark: Callable[[str], None]) -> None:
    """Check the file, the state folder and the cluster (all of them without a name), in the order of their needs.

    `remark` gets what is worth knowing while something takes its time.
    """
    engines = load_engines()
    try:
        loaded = load(config, data_dir=data, environ=read_environment(), engines=engines)
    except ConfigError as error:
        count = len(error.findings)
        tell(Check(name="file", state="fail", detail=f"{count} mistakes; `first config check {config}` lists them"))
        return
    tell(Check(name="file", state="ok", detail=f"{config} is right"))
    catalog = loaded.catalog
    wanted = _wanted(catalog, wish, config)
    for check in state_folder(loaded):
        tell(check)
    for cluster in wanted:
        visit = _Visit(
            cluster=cluster,
            deployments=[one for one in catalog.deployments.values() if one.cluster == cluster.name],
            engines=engines,
            loaded=loaded,
            wish=wish,
            tell_check=tell,
            remark=remark,
        )
        anyio.run(visit.run)


def _wanted(catalog: Catalog, wish: Wish, config: Path) -> list[Cluster]:
    """List the clusters to look at; a name that is not there is an error that names the nearest."""
    name = wish.cluster
    if wish.deployment is not None:
        deployment = catalog.deployments.get(wish.deployment)
        if deployment is None or deployment.cluster is None or name not in {None, deployment.cluster}:
            where = f"cluster {name}" if name else "a cluster"
            raise NotFound(f"there is no deployment {wish.deployment!r} at {where} in {config}")
        name = deployment.cluster
    if name is None:
        return list(catalog.clusters.values())
    if name not in catalog.clusters:
        close = nearest(name, catalog.clusters) or tuple(catalog.clusters)[:5]
        raise NotFound(f"there is no cluster {name!r} in {config}; did you mean {or_list(close)}?")
    return [catalog.clusters[name]]


def state_folder(loaded: Loaded) -> list[Check]:
    """Look at the state folder: who may enter, room, and whether sockets fit into its path."""
    folder = Path(loaded.settings.data_dir)
    if not folder.is_dir():
        return [Check(name="state folder", state="skip", detail=f"{folder} is made at the first start")]
    mode = stat.S_IMODE(folder.stat().st_mode)
    checks = [
        Check(name="state folder", state="ok", detail=f"{folder}")
        if not mode & 0o077
        else Check(name="state folder", state="fail", detail=f"others may enter {folder}; run chmod 700 {folder}")
    ]
    longest = len(os.fsencode(folder / "run" / "admin.sock"))
    if longest > SOCKET_LIMIT:
        detail = f"{folder}/run/admin.sock has {longest} bytes and may have {SOCKET_LIMIT}; choose a shorter `data`"
        checks.append(Check(name="socket path", state="fail", detail=detail))
    checks.append(_disk("disk of the state folder", folder))
    return checks


def _disk(name: str, folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    state: State = "ok" if free >= LOW_DISK else "warn"
    return Check(name=name, state=state, detail=f"{format_bytes(free)} free at {folder}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Visit:
    """One cluster, from the login to the test job; what needs what has failed is not tried."""

    cluster: Cluster
    deployments: list[Deployment]
    engines: Mapping[str, Engine]
    loaded: Loaded
    wish: Wish
    tell_check: Tell
    remark: Callable[[str], None]

    async def run(self) -> None:
        """Look at everything, over one connection."""
        masters = connections(Path(self.loaded.settings.data_dir))
        installation = ids.installation_id(secrets.token_bytes(5))  # none that a controller would look after
        try:
            runner = runner_for(self.cluster, masters=masters)
            scheduler = scheduler_for(self.cluster, installation=installation)
            await self._look(runner, scheduler, installation)
        except FirstError as error:
            self._tell("adapters", "fail", error.message)
        finally:
            with anyio.CancelScope(shield=True):
                await masters.close()

    async def _look(self, runner: Runner, scheduler: Scheduler, installation: str) -> None:
        gated = bool(self.cluster.runner.options.get("gate"))
        if not await self._login(runner) or not (gated or await self._commands(runner, scheduler)):
            return
        if not await self._run_dir(runner, scheduler) or not await self._listing(runner, scheduler):
            return
        if gated:
            self._tell("engines", "skip", "the gate runs no commands but the scheduler's")
            self._tell("test job", "skip", "the gate submits no jobs but this installation's deployments")
            return
        for deployment in self.deployments:
            await self._rehearse(deployment, runner, scheduler)
        if self.wish.with_job:
            await self._trial(runner, scheduler, installation).run()
            return
        await self._python(runner)
        for deployment in self.deployments:
            await self._engine(deployment, runner)
        self._tell("test job", "skip", "not asked for")

    def _trial(self, runner: Runner, scheduler: Scheduler, installation: str) -> Trial:
        named = [one for one in self.deployments if self.wish.deployment in {None, one.name}]
        return Trial(
            cluster=self.cluster,
            deployments=self.deployments,
            stood_for=named[0] if named else None,
            engines=self.engines,
            runner=runner,
            scheduler=scheduler,
            installation=installation,
            control_urls=[f"unix:{Path(self.loaded.settings.data_dir) / 'run/api.sock'}"],
            wait_s=self.wish.wait_s,
            tell=self.tell_check,
            remark=self.remark,
        )

    async def _login(self, runner: Runner) -> bool:
        """See whether we are let in at all, and for how long yet."""
        if self.cluster.runner.kind == "local":
            self._tell("reach", "ok", "commands run on this machine")
            return True
        login = await runner.login()
        if not login.well:
            self._tell("reach", "fail", login.detail)
            return False
        left = "" if login.left_s is None else f"; its certificate is good for another {format_duration(login.left_s)}"
        state: State = "ok" if login.left_s is None or login.left_s > LOGIN_SHORT_S else "warn"
        self._tell("reach", state, f"{self.cluster.runner.kind} lets us in{left}")
        return True

    async def _commands(self, runner: Runner, scheduler: Scheduler) -> bool:
        """See the scheduler's commands, and which version they are of."""
        kind = self.cluster.scheduler.kind
        if not isinstance(scheduler, Rehearsing):
            return True
        (result,) = await runner.run([scheduler.version()], deadline_s=DEADLINE_S)
        if isinstance(result, Done) and result.code == 0:
            self._tell("commands", "ok", f"{kind}: {result.out.decode(errors='replace').strip()}")
            return True
        self._tell(
            "commands",
            "fail",
            f"{kind}'s commands do not run there: {said(result)}; install its client, or name the machine that has "
            "it with `runner`",
        )
        return False

    async def _run_dir(self, runner: Runner, scheduler: Scheduler) -> bool:
        """Write into the run directory what the scheduler needs there, read back, and look at its disk."""
        run_dir = self.cluster.run_dir
        probe = RemoteFile(path=f"{run_dir}/.doctor", data=secrets.token_bytes(8))
        files = [RemoteFile(path=f"{run_dir}/{name}", data=data) for name, data in scheduler.files().items()]
        result = await runner.put([probe, *files], deadline_s=DEADLINE_S)
        if not isinstance(result, Done) or result.code != 0:
            self._tell(
                "run_dir",
                "fail",
                f"{run_dir} cannot be written: {said(result)}; let `run_dir` name a folder of ours that nodes share",
            )
            return False
        read = await runner.read_many([probe.path], deadline_s=DEADLINE_S)
        clearing = Command(argv=("rm", "-f", probe.path))
        if not isinstance(read, Mapping) or read.get(probe.path) != probe.data:
            self._tell("run_dir", "fail", f"what is written to {run_dir} is not read back")
            return False
        long = len(f"{run_dir}/j-{'0' * 12}/i-{'0' * 12}/e.sock") > SOCKET_LIMIT
        note = "; its path is long, so engines' sockets lie in the jobs' temporary folder" if long else ""
        looking = Command(argv=("df", "-Pk", run_dir))
        _, room = await runner.run([clearing, looking], deadline_s=DEADLINE_S)  # a gate lets neither by
        free = _free_bytes(room)
        if free is not None:
            note = f", {format_bytes(free)} free{note}"
        state: State = "ok" if free is None or free >= LOW_DISK else "warn"
        self._tell("run_dir", state, f"{run_dir} can be written{note}")
        return True

    async def _listing(self, runner: Runner, scheduler: Scheduler) -> bool:
        """See whether the scheduler itself answers."""
        kind = self.cluster.scheduler.kind
        seen = scheduler.parse(await runner.run(scheduler.observe(), deadline_s=DEADLINE_S))
        if seen.complete:
            self._tell("scheduler", "ok", f"{kind} lists its jobs")
        else:
            self._tell("scheduler", "fail", f"{kind}: {seen.detail or 'it did not list its jobs'}")
        return seen.complete

    async def _rehearse(self, deployment: Deployment, runner: Runner, scheduler: Scheduler) -> None:
        """Ask whether the scheduler would take a deployment's job: its partition, account, walltime and resources."""
        name = f"{deployment.name} as a job"
        if not isinstance(scheduler, Rehearsing):
            self._tell(name, "skip", f"{self.cluster.scheduler.kind} has no dry run; the test job shows")
            return
        rendering = rendered(self.loaded, deployment, self.engines)
        commands = scheduler.rehearse(rendering.submission, script=rendering.script)
        answer = scheduler.read_rehearsal(await runner.run(commands, deadline_s=DEADLINE_S))
        state: State = "warn" if answer.accepted is None else "ok" if answer.accepted else "fail"
        advice = "" if answer.accepted in {None, True} else "; mend `resources` of the deployment or `scheduler`"
        self._tell(name, state, f"{answer}{advice}")

    async def _python(self, runner: Runner) -> None:
        """Look which Python would run the launcher, after the cluster's setup lines, here at least."""
        cluster = self.cluster
        local = cluster.scheduler.kind == "local"
        python = str(cluster.scheduler.options.get("python") or ("" if local else "python3"))
        if not python:
            self._tell("python", "ok", "firstkit's own runs the launcher")
            return
        script = f'{cluster.setup}\nexec {python} -I -c "{_VERSION}"\n'
        (result,) = await runner.run([Command(argv=("bash", "-l"), stdin=script.encode())], deadline_s=DEADLINE_S)
        if isinstance(result, Done) and result.code == 0:
            self._tell("python", "ok", f"{python} is {result.out.decode().strip()}")
            return
        self._tell(
            "python",
            "fail",
            f"{python} is missing or older than 3.9 ({said(result)}); let `setup` put a newer one first in PATH",
        )

    async def _engine(self, deployment: Deployment, runner: Runner) -> None:
        """Look whether the program that starts the engine and the files it reads are there."""
        launch = self.engines[deployment.engine.kind].launch(deployment)
        program = launch.argv[0]
        wanted = [("files", path) for path in launch.files]
        commands = [Command(argv=("test", "-r", path)) for _, path in wanted]
        if "{" not in program and deployment.engine.container is None:
            commands.append(Command(argv=("bash", "-c", 'command -v -- "$1"', "doctor", program)))
            wanted.append(("program", program))
        for (kind, what), result in zip(wanted, await runner.run(commands, deadline_s=DEADLINE_S), strict=True):
            if isinstance(result, Done) and result.code == 0:
                continue
            setup = " (perhaps `setup` would bring it; this check does not run it)" if kind == "program" else ""
            self._tell(
                deployment.name,
                "warn" if kind == "program" else "fail",
                f"{what} is not there or cannot be read{setup}",
            )
            return
        found = f"{deployment.engine.kind}: program and {len(launch.files)} files are there"
        self._tell(deployment.name, "ok", found)

    def _tell(self, name: str, state: State, detail: str) -> None:
        self.tell_check(Check(name=f"{self.cluster.name}: {name}", state=state, detail=detail))


def _free_bytes(result: Result) -> int | None:
    """Read the room from `df -Pk`; None when it does not tell."""
    lines = result.out.decode(errors="replace").splitlines() if isinstance(result, Done) and result.code == 0 else []
    fields = lines[-1].split() if lines else []
    return int(fields[3]) * 1024 if len(fields) > 3 and fields[3].isdigit() else None
