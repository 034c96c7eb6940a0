# SPDX-License-Identifier: Apache-2.0
"""The doctor's test job from its submission to its end: seen to wait and run, reached, asked, cancelled, removed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from firstkit.adapters.links.authority import Authority
from firstkit.apps.cli.checks import Check, State, Tell, said
from firstkit.apps.cli.trial_job import WALLTIME_S, TrialJob, trial_job
from firstkit.apps.cli.trial_link import Asked, ask
from firstkit.core.catalog import Cluster, Deployment
from firstkit.core.control import ReportedInstance, ReportedState, Status
from firstkit.core.errors import FirstError
from firstkit.core.units import format_duration
from firstkit.ports.engine import Engine
from firstkit.ports.runner import Done, Runner
from firstkit.ports.scheduler import Accepted, JobPhase, Rejected, Scheduler, SeenJob
from firstkit.services.submission import OUTPUT_FILE, SETUP_FILE
from firstkit.wire.control import JsonDocuments

DEADLINE_S = 60.0
START_S = 90.0
"""How long a job that runs may take until our program answers; setup lines may load much."""
END_S = 120.0
SOON_S, LATER_S, GROWTH = 0.5, 10.0, 1.5
"""Between two looks: the first soon, later ones more rarely, since a scheduler has others to answer too."""
TAIL = 3


class Trial:
    """One test job on one cluster. Its installation is its own: what carries that tag is its job, and nobody else's."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        deployments: list[Deployment],
        stood_for: Deployment | None,
        engines: Mapping[str, Engine],
        runner: Runner,
        scheduler: Scheduler,
        installation: str,
        control_urls: list[str],
        wait_s: float,
        tell: Tell,
        remark: Callable[[str], None],
    ) -> None:
        self._cluster = cluster
        self._deployments = deployments
        self._stood_for = stood_for
        self._engines = engines
        self._runner = runner
        self._scheduler = scheduler
        self._installation = installation
        self._control_urls = control_urls
        self._wait_s = wait_s
        self._tell_check = tell
        self._remark = remark
        self._accepted: dict[str, str] = {}

    async def run(self) -> None:
        """Go through all of it; whatever happens on the way, the job is cancelled and its folder removed."""
        with tempfile.TemporaryDirectory(prefix="first-doctor-") as folder:
            authority = Authority(Path(folder))
            job = trial_job(
                self._cluster,
                self._stood_for,
                deployments=self._deployments,
                engines=self._engines,
                scheduler=self._scheduler,
                installation=self._installation,
                authority=authority,
                control_urls=[] if self._cluster.control == "files" else self._control_urls,
            )
            put = await self._runner.put(job.prepared.files, deadline_s=DEADLINE_S)
            if not isinstance(put, Done) or put.code != 0:
                self._tell("test job", "fail", f"its files cannot be written: {said(put)}")
                return
            gone = False
            try:
                await self._try(job, authority)
                gone = await self._end()
            finally:
                with anyio.CancelScope(shield=True):
                    if not gone:
                        await self._end()
                    await self._runner.remove([job.folder], deadline_s=DEADLINE_S)

    async def _try(self, job: TrialJob, authority: Authority) -> None:
        (result,) = await self._runner.run([self._scheduler.submit(job.prepared.submission)], deadline_s=DEADLINE_S)
        answer = self._scheduler.parse_submit(result)
        if isinstance(answer, Rejected):
            self._tell("test job", "fail", f"the scheduler did not take it: {answer.detail}")
            return
        if isinstance(answer, Accepted):
            self._accepted = {job.id: answer.scheduler_id}
            self._remark(f"job {answer.scheduler_id} is submitted; Ctrl-C cancels it")
        running = await self._until_running()
        if running is None:
            return
        ready = await self._until_ready(job, running)
        if ready is None:
            return
        status, instance = ready
        loaded = (
            "" if instance.load_s is None else f", and a program in an engine's place after {instance.load_s:.1f} s"
        )
        self._tell("launcher", "ok", f"it runs on {status.host}, with {self._cluster.scheduler.kind}'s job{loaded}")
        report = await self._reached(job, instance, authority)
        self._tell_report(report or await self._read_report(job), job, instance)

    # ----------------------------------------------------------------------------------------- waiting and starting

    async def _until_running(self) -> SeenJob | None:
        """Wait until it runs; None, with what was seen told, when it does not."""
        began, pause_s, last = anyio.current_time(), SOON_S, ""
        while True:
            job, words = await self._seen()
            waited = format_duration(anyio.current_time() - began)
            if job is not None and job.phase in {JobPhase.RUNNING, JobPhase.ENDING}:
                self._tell("job wait", "ok", f"job {job.scheduler_id} waited {waited}")
                return job
            if job is not None and job.phase is JobPhase.ENDED:
                return job  # it may have run between two looks: its files tell
            if job is not None and job.reason is not None:
                self._tell("job wait", "fail", f"job {job.scheduler_id} would wait for ever: {words}")
                return None
            if anyio.current_time() - began >= self._wait_s:
                advice = "cancelled; give it longer with --wait, or ask for less"
                self._tell(
                    "job wait", "warn", f"it did not start within {waited} ({words or 'no reason told'}); {advice}"
                )
                return None
            if words and words != last:
                last = words
                self._remark(f"it waits: {words}")
            await anyio.sleep(pause_s)
            pause_s = min(LATER_S, pause_s * GROWTH)

    async def _seen(self) -> tuple[SeenJob | None, str]:
        """Look at our one job; with what the scheduler says of it, or why it says nothing."""
        seen = self._scheduler.parse(await self._runner.run(self._scheduler.observe(), deadline_s=DEADLINE_S))
        if not seen.jobs and not (seen.complete and self._accepted):
            return None, "" if seen.complete else seen.detail
        job = seen.jobs[0] if seen.jobs else await self._gone()
        start = "" if job.starts_in_s is None else f", expected to start in {format_duration(job.starts_in_s)}"
        return job, f"{job.detail}{start}" if job.detail else start.removeprefix(", ")

    async def _gone(self) -> SeenJob:
        """Ask the second source what became of a job that a whole listing lacks: ended, if only it could say how."""
        commands = self._scheduler.recall(self._accepted)
        told = self._scheduler.parse_recalled(await self._runner.run(commands, deadline_s=DEADLINE_S))
        (number,) = self._accepted.values()
        gone = SeenJob(scheduler_id=number, tag="", phase=JobPhase.ENDED, detail="the scheduler lists it no more")
        return next(iter(told), gone)

    async def _until_ready(self, job: TrialJob, seen: SeenJob) -> tuple[Status, ReportedInstance] | None:
        """Wait until our program answers in the engine place; None, with the cause told, when it does not."""
        until = anyio.current_time() + START_S
        ended, looked_at = seen.phase is JobPhase.ENDED, anyio.current_time()
        while True:
            status = await self._status(job)
            instance = status.instances[0] if status is not None and status.instances else None
            if status is not None and instance is not None and instance.state is ReportedState.READY:
                return status, instance
            over = ended or (instance is not None and instance.state is ReportedState.ENDED)
            if over or anyio.current_time() >= until:
                self._tell("launcher", "fail", await self._why(job, seen, instance, over=over))
                return None
            if anyio.current_time() - looked_at >= LATER_S / 5:
                looked_at = anyio.current_time()
                now, _ = await self._seen()
                ended = now is not None and now.phase is JobPhase.ENDED
                seen = now or seen
            else:
                await anyio.sleep(SOON_S / 2)

    async def _status(self, job: TrialJob) -> Status | None:
        read = await self._runner.read_many([job.status], deadline_s=DEADLINE_S)
        try:
            return JsonDocuments().read_status(read[job.status]) if isinstance(read, Mapping) else None
        except (KeyError, FirstError):
            return None

    async def _why(self, job: TrialJob, seen: SeenJob, instance: ReportedInstance | None, *, over: bool) -> str:
        """Say why there is no answer: what setup lines, launcher and scheduler left word of."""
        if instance is not None and instance.reason is not None:
            return f"{instance.reason}: {instance.detail or 'no details'}"
        names = {
            name: f"{job.folder}/{name}" for name in (SETUP_FILE, OUTPUT_FILE, f"{self._cluster.scheduler.kind}.out")
        }
        read = await self._runner.read_many(list(names.values()), deadline_s=DEADLINE_S, limit=4096)
        left = {name: read.get(path, b"") for name, path in names.items()} if isinstance(read, Mapping) else {}
        for name, data in left.items():
            lines = [line for line in data.decode(errors="replace").splitlines() if line.strip()]
            if lines:
                kept = " / ".join(lines[: TAIL * 2] if name == SETUP_FILE else lines[-TAIL:])
                return f"a setup line failed: {kept}" if name == SETUP_FILE else f"it printed: {kept}"
        if over:
            words = seen.detail or (seen.reason.value if seen.reason else "the scheduler does not say why")
            return f"job {seen.scheduler_id} ended before the launcher wrote anything ({words}); {self._unshared()}"
        return f"the job runs, and nothing of it is seen in {job.folder} after {START_S:.0f} s; {self._unshared()}"

    def _unshared(self) -> str:
        return f"is {self._cluster.run_dir} on a file system that the compute nodes share, under the same path?"

    # ------------------------------------------------------------------------------------------------- what it tells

    async def _reached(self, job: TrialJob, instance: ReportedInstance, authority: Authority) -> dict[str, Any] | None:
        """Try the link as a gateway would, from this machine."""
        kind, address = self._cluster.link.kind, instance.address
        if kind not in {"local", "direct"} or address is None:
            self._tell("link", "skip", f"{kind} is not tried by a test job; the first instance will show")
            return None
        context = authority.gateway_context()

        def dial() -> Asked:
            return ask(address, cluster=self._cluster, job=job.id, context=context)

        asked = await anyio.to_thread.run_sync(dial, abandon_on_cancel=True)
        if asked.report is None:
            self._tell("link", "fail", asked.fault)
            return None
        door = "its Unix socket" if address.kind == "unix" else f"{address.host}:{address.port}, TLS both ways"
        self._tell("link", "ok", f"{kind}: an answer came from this machine over {door}")
        return asked.report

    async def _read_report(self, job: TrialJob) -> dict[str, Any]:
        """Read what our program keeps in its folder, where it could not be asked."""
        read = await self._runner.read_many([job.report], deadline_s=DEADLINE_S)
        data = read.get(job.report) if isinstance(read, Mapping) else None
        return {} if data is None else json.loads(data)

    def _tell_report(self, report: Mapping[str, Any], job: TrialJob, instance: ReportedInstance) -> None:
        """Tell what the program found on the node."""
        if not report:
            self._tell("node", "fail", f"the program on the node left no report in {job.folder}")
            return
        place = report["run_dir"]
        self._tell(
            "run_dir on the node",
            "ok" if place["shared"] else "fail",
            f"{self._cluster.run_dir} is the same there ({place['file_system']})"
            if place["shared"]
            else self._unshared(),
        )
        self._tell("python on the node", "ok", f"the launcher runs on Python {report['python']}")
        self._tell_gpus(report["gpus"])
        for name, missing in report["engines"].items():
            other = self._stood_for is not None and name != self._stood_for.name
            hint = f"; its own setup lines were not run (try --deployment {name})" if other else ""
            self._tell(
                name,
                ("warn" if other else "fail") if missing else "ok",
                f"not on the node: {', '.join(missing)}{hint}" if missing else "its program and files are on the node",
            )
        self._tell_sockets(report, instance)
        self._tell_control(report["control"])

    def _tell_gpus(self, gpus: Mapping[str, Any]) -> None:
        asked = 0 if self._stood_for is None or self._stood_for.resources is None else self._stood_for.resources.gpus
        variables = ", ".join(f"{name}={value}" for name, value in gpus["variables"].items())
        seen = "" if gpus["nvidia_smi"] is None else f"; nvidia-smi lists {gpus['nvidia_smi']}"
        if not asked and not variables:
            self._tell("gpus", "skip", "none were asked for")
        else:
            state: State = "ok" if variables or not asked else "warn"
            self._tell("gpus", state, f"{asked} asked for; {variables or 'no variable names any'}{seen}")

    def _tell_sockets(self, report: Mapping[str, Any], instance: ReportedInstance) -> None:
        door = {str(instance.address.port)} if instance.address is not None and instance.address.port else set[str]()
        strange = [port for port in report["ours"] if port not in door]
        count = f"on the node {len(report['before'])} TCP ports listened before and {len(report['after'])} after"
        if strange:
            self._tell("sockets", "fail", f"besides its door the job listens on port {', '.join(strange)}; {count}")
        else:
            own = (
                f"the job listens on its door's port {', '.join(door)} alone" if door else "the job listens on no port"
            )
            self._tell("sockets", "ok", f"{own}; {count}")

    def _tell_control(self, dialled: Mapping[str, str | None]) -> None:
        """Say how the launcher's reports would travel; that its status was read shows that files do."""
        if self._cluster.control == "files":
            self._tell("control", "ok", "by files in run_dir, as the configuration says; they were read")
            return
        reached = [url for url, fault in dialled.items() if fault is None]
        faults = "; ".join(f"{url}: {fault}" for url, fault in dialled.items() if fault is not None)
        if reached:
            self._tell("control", "ok", f"the node reaches {', '.join(reached)}")
        elif self._cluster.control == "http":
            self._tell("control", "fail", f"the node reaches no control ({faults}); set `control: both` or `files`")
        else:
            self._tell("control", "ok", f"by files in run_dir alone, which is slower by some seconds ({faults})")

    # -------------------------------------------------------------------------------------------------------- the end

    async def _end(self) -> bool:
        """Cancel whatever carries this trial's tag, and see it gone; tells how that went."""
        number, cancel_at = "", float("-inf")
        with anyio.move_on_after(END_S):
            while True:
                seen = self._scheduler.parse(await self._runner.run(self._scheduler.observe(), deadline_s=DEADLINE_S))
                live = [job.scheduler_id for job in seen.jobs if job.phase is not JobPhase.ENDED]
                if seen.complete and not live:
                    if number:
                        self._tell("test job", "ok", f"job {number} was cancelled and is gone")
                    return True
                if live and anyio.current_time() >= cancel_at:
                    number, cancel_at = live[0], anyio.current_time() + LATER_S
                    await self._runner.run(self._scheduler.cancel(live), deadline_s=DEADLINE_S)
                await anyio.sleep(SOON_S)
        left = f"job {number} is still there" if number else "the scheduler does not say whether its job is gone"
        ends = f"it ends by itself {WALLTIME_S / 60:.0f} minutes after its start at the latest"
        self._tell("test job", "fail", f"{left}; cancel it by hand ({ends})")
        return True

    def _tell(self, name: str, state: State, detail: str) -> None:
        self._tell_check(Check(name=f"{self._cluster.name}: {name}", state=state, detail=detail))
