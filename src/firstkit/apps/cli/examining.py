# SPDX-License-Identifier: Apache-2.0
"""The checks behind `first doctor`: each looks at one thing and says what it found, and what to do if it is wrong."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import anyio

from firstkit.adapters.engines.registry import load_engines
from firstkit.apps.clusters import connections, runner_for, scheduler_for
from firstkit.config.environment import read_environment
from firstkit.config.loading import Loaded, load
from firstkit.core import ids
from firstkit.core.catalog import Cluster, Deployment, Resources
from firstkit.core.errors import ConfigError, FirstError, NotFound
from firstkit.core.nearest import nearest, or_list
from firstkit.core.units import format_bytes, format_duration
from firstkit.ports.engine import Engine
from firstkit.ports.runner import Command, Done, RemoteFile, Result, Runner
from firstkit.ports.scheduler import Accepted, JobPhase, Scheduler, SeenJob, Submission

DEADLINE_S = 30.0
JOB_S = 60.0
SOCKET_LIMIT = 100
LOGIN_SHORT_S = 3600.0
LOW_DISK = 2_000_000_000
_VERSION = "import sys; print('%d.%d.%d' % sys.version_info[:3]); sys.exit(sys.version_info < (3, 9))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What one look found; `skip` was not looked at, and says why."""

    name: str
    state: Literal["ok", "warn", "fail", "skip"]
    detail: str


Tell = Callable[[Check], None]


def examine(config: Path, *, data: Path, cluster: str | None, with_job: bool, tell: Tell) -> None:
    """Check the file, the state folder and the cluster (all of them without a name)."""
    engines = load_engines()
    try:
        loaded = load(config, data_dir=data, environ=read_environment(), engines=engines)
    except ConfigError as error:
        count = len(error.findings)
        tell(Check(name="file", state="fail", detail=f"{count} mistakes; `first config check {config}` lists them"))
        return
    tell(Check(name="file", state="ok", detail=f"{config} is right"))
    catalog = loaded.catalog
    if cluster is not None and cluster not in catalog.clusters:
        close = nearest(cluster, catalog.clusters) or tuple(catalog.clusters)[:5]
        raise NotFound(f"there is no cluster {cluster!r} in {config}; did you mean {or_list(close)}?")
    for check in state_folder(loaded):
        tell(check)
    for name, item in catalog.clusters.items():
        if cluster in {None, name}:
            deployments = [one for one in catalog.deployments.values() if one.cluster == name]
            look = partial(_cluster, item, deployments, engines, tell, with_job=with_job)
            anyio.run(partial(look, data=Path(loaded.settings.data_dir)))


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
    state: Literal["ok", "warn"] = "ok" if free >= LOW_DISK else "warn"
    return Check(name=name, state=state, detail=f"{format_bytes(free)} free at {folder}")


async def _cluster(
    cluster: Cluster,
    deployments: list[Deployment],
    engines: Mapping[str, Engine],
    tell: Tell,
    *,
    with_job: bool,
    data: Path,
) -> None:
    """Check one cluster, through its own runner."""
    masters = connections(data)
    try:
        await _reached(
            cluster, deployments, engines, tell, with_job=with_job, runner=runner_for(cluster, masters=masters)
        )
    except FirstError as error:
        tell(Check(name=f"{cluster.name}: adapters", state="fail", detail=error.message))
    finally:
        await masters.close()


async def _reached(
    cluster: Cluster,
    deployments: list[Deployment],
    engines: Mapping[str, Engine],
    tell: Tell,
    *,
    with_job: bool,
    runner: Runner,
) -> None:
    """Check a cluster from the login to the test job; what needs what has failed is not tried."""
    where = f"{cluster.name}: "
    installation = ids.installation_id(secrets.token_bytes(5))  # none that a controller would look after
    scheduler = scheduler_for(cluster, installation=installation)
    if not await _login(cluster, runner, where, tell):
        return
    folder = await _run_dir(cluster, runner, scheduler, where, tell)
    if cluster.runner.options.get("gate"):
        tell(Check(name=where + "engines", state="skip", detail="the gate runs no commands but the scheduler's"))
    else:
        await _python(cluster, runner, where, tell)
    for deployment in deployments if not cluster.runner.options.get("gate") else ():
        await _engine(deployment, engines[deployment.engine.kind], runner, where, tell)
    if not folder:
        return
    seen = scheduler.parse(await runner.run(scheduler.observe(), deadline_s=DEADLINE_S))
    listing = Check(name=where + "scheduler", state="ok", detail=f"{cluster.scheduler.kind} lists its jobs")
    if not seen.complete:
        said = seen.detail or "it did not list its jobs"
        listing = Check(name=where + "scheduler", state="fail", detail=f"{cluster.scheduler.kind}: {said}")
    tell(listing)
    if not with_job:
        tell(Check(name=where + "test job", state="skip", detail="not asked for"))
    elif seen.complete:
        tell(await _job(cluster, runner, scheduler, installation, where))


async def _login(cluster: Cluster, runner: Runner, where: str, tell: Tell) -> bool:
    """See whether we are let in at all, and for how long yet."""
    if cluster.runner.kind == "local":
        return True
    login = await runner.login()
    if not login.well:
        tell(Check(name=where + "login", state="fail", detail=login.detail))
        return False
    left = "" if login.left_s is None else f"; its certificate is good for another {format_duration(login.left_s)}"
    state: Literal["ok", "warn"] = "ok" if login.left_s is None or login.left_s > LOGIN_SHORT_S else "warn"
    tell(Check(name=where + "login", state=state, detail=f"{cluster.runner.kind} lets us in{left}"))
    return True


async def _run_dir(cluster: Cluster, runner: Runner, scheduler: Scheduler, where: str, tell: Tell) -> bool:
    """Write into the run directory what the scheduler needs there, and look at its disk."""
    probe = RemoteFile(path=f"{cluster.run_dir}/.doctor", data=secrets.token_bytes(8))
    files = [RemoteFile(path=f"{cluster.run_dir}/{name}", data=data) for name, data in scheduler.files().items()]
    result = await runner.put([probe, *files], deadline_s=DEADLINE_S)
    if not isinstance(result, Done) or result.code != 0:
        tell(
            Check(name=where + "run_dir", state="fail", detail=f"{cluster.run_dir} cannot be written: {_said(result)}")
        )
        return False
    read = await runner.read_many([probe.path], deadline_s=DEADLINE_S)
    same = isinstance(read, Mapping) and read.get(probe.path) == probe.data
    if not same:
        tell(
            Check(name=where + "run_dir", state="fail", detail=f"what is written to {cluster.run_dir} is not read back")
        )
        return False
    socket = f"{cluster.run_dir}/j-{'0' * 12}/i-{'0' * 12}/e.sock"
    note = (
        ""
        if len(socket) <= SOCKET_LIMIT
        else "; its path is long, so engines' sockets lie in the jobs' temporary folder"
    )
    tell(Check(name=where + "run_dir", state="ok", detail=f"{cluster.run_dir} can be written{note}"))
    if cluster.runner.kind == "local":
        tell(_disk(where + "disk", Path(cluster.run_dir)))
    return True


async def _python(cluster: Cluster, runner: Runner, where: str, tell: Tell) -> None:
    """Look which Python would run the launcher, after the cluster's setup lines."""
    python = str(cluster.scheduler.options.get("python") or ("" if cluster.scheduler.kind == "local" else "python3"))
    if not python:
        tell(Check(name=where + "python", state="ok", detail="firstkit's own runs the launcher"))
        return
    script = f'{cluster.setup}\nexec {python} -I -c "{_VERSION}"\n'
    result = (await runner.run([Command(argv=("bash", "-l"), stdin=script.encode())], deadline_s=DEADLINE_S))[0]
    if isinstance(result, Done) and result.code == 0:
        tell(Check(name=where + "python", state="ok", detail=f"{python} is {result.out.decode().strip()}"))
        return
    detail = f"{python} is missing or older than 3.9 ({_said(result)}); let `setup` put a newer one first in PATH"
    tell(Check(name=where + "python", state="fail", detail=detail))


async def _engine(deployment: Deployment, engine: Engine, runner: Runner, where: str, tell: Tell) -> None:
    """Look whether the program that starts the engine and the files it reads are there."""
    name = f"{where}{deployment.name}"
    launch = engine.launch(deployment)
    program = launch.argv[0]
    wanted = [("files", path) for path in launch.files]
    commands = [Command(argv=("test", "-r", path)) for _, path in wanted]
    if "{" not in program:
        commands.append(Command(argv=("bash", "-c", 'command -v -- "$1"', "doctor", program)))
        wanted.append(("program", program))
    for (kind, what), result in zip(wanted, await runner.run(commands, deadline_s=DEADLINE_S), strict=True):
        if isinstance(result, Done) and result.code == 0:
            continue
        setup = " (perhaps `setup` would bring it; this check does not run it)" if kind == "program" else ""
        detail = f"{what} is not there or cannot be read{setup}"
        tell(Check(name=name, state="warn" if kind == "program" else "fail", detail=detail))
        return
    tell(
        Check(
            name=name, state="ok", detail=f"{deployment.engine.kind}: program and {len(launch.files)} files are there"
        )
    )


async def _job(cluster: Cluster, runner: Runner, scheduler: Scheduler, installation: str, where: str) -> Check:
    """Submit a job that sleeps, see it run, cancel it, and see it gone."""
    name = where + "test job"
    job = ids.job_id(secrets.token_bytes(8))
    folder = f"{cluster.run_dir}/{job}"
    submission = Submission(
        tag=ids.tag(installation=installation, job=job),
        run_dir=folder,
        script=f"{folder}/start.sh",
        resources=Resources(walltime_s=300.0),
    )
    script = RemoteFile(path=submission.script, data=b"#!/bin/sh\nexec sleep 240\n", mode=0o700)
    put = await runner.put([script], deadline_s=DEADLINE_S)
    if not isinstance(put, Done) or put.code != 0:
        return Check(name=name, state="fail", detail=f"its script cannot be written: {_said(put)}")
    try:
        answer = scheduler.parse_submit((await runner.run([scheduler.submit(submission)], deadline_s=DEADLINE_S))[0])
        if not isinstance(answer, Accepted):
            return Check(name=name, state="fail", detail=f"the scheduler did not take it: {answer.detail}")
        looked = {job: answer.scheduler_id}
        running = await _until(runner, scheduler, looked, {JobPhase.RUNNING, JobPhase.ENDED})
        await runner.run(scheduler.cancel([answer.scheduler_id]), deadline_s=DEADLINE_S)
        ended = await _until(runner, scheduler, looked, {JobPhase.ENDED})
    finally:
        with anyio.CancelScope(shield=True):
            await runner.remove([folder], deadline_s=DEADLINE_S)
    if ended is None:
        return Check(
            name=name,
            state="fail",
            detail=f"job {answer.scheduler_id} was cancelled and is still there; cancel it by hand",
        )
    if running is None:
        return Check(name=name, state="warn", detail=f"it waited for {JOB_S:.0f} s without starting and was cancelled")
    if running.phase is JobPhase.ENDED:
        return Check(name=name, state="fail", detail=f"it ended at once: {running.detail or running.reason}")
    return Check(name=name, state="ok", detail=f"job {answer.scheduler_id} ran, was cancelled, and is gone")


async def _until(
    runner: Runner, scheduler: Scheduler, looked: Mapping[str, str], phases: set[JobPhase]
) -> SeenJob | None:
    """Look until the job (our id to the scheduler's) is in one of these phases; None when the time is over.

    One that a whole listing lacks has ended, if only a second source could say how.
    """
    (scheduler_id,) = looked.values()
    with anyio.move_on_after(JOB_S):
        while True:
            seen = scheduler.parse(await runner.run(scheduler.observe(), deadline_s=DEADLINE_S))
            found = next((job for job in seen.jobs if job.scheduler_id == scheduler_id), None)
            if found is None and seen.complete:
                told = scheduler.parse_recalled(await runner.run(scheduler.recall(looked), deadline_s=DEADLINE_S))
                gone = SeenJob(scheduler_id=scheduler_id, tag="", phase=JobPhase.ENDED, detail="it is not listed")
                found = next(iter(told), gone)
            if found is not None and found.phase in phases:
                return found
            await anyio.sleep(0.2)
    return None


def _said(result: Result) -> str:
    if isinstance(result, Done):
        words = (result.err or result.out).decode(errors="replace").strip()
        return words.splitlines()[-1] if words else f"exit code {result.code}"
    return result.detail
