# SPDX-License-Identifier: Apache-2.0
"""The server of the simulated PBS: takes jobs, starts them on nodes, remembers how they ended."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from firstkit.testing.simulated_pbs.asking import (
    BAD_STATE,
    COUNTED,
    FINISHED,
    NO_HISTORY,
    NO_MOM,
    NOT_ENABLED,
    NOT_YOURS,
    OVER_LIMITS,
    TOO_MANY,
    UNKNOWN_JOB,
    UNKNOWN_QUEUE,
    Refusal,
    clock,
    read_resources,
    seconds,
)
from firstkit.testing.simulated_pbs.jobs import Job

ENDED, LIVE = frozenset({"F", "M"}), frozenset({"R", "E", "S"})


class Server:
    """All of it; every method is called under `lock`, and `save` after what has changed."""

    def __init__(self, folder: Path) -> None:
        self.lock = threading.RLock()
        self._path = folder / "server.json"
        saved = json.loads(self._path.read_text())
        self.name: str = saved["name"]
        self.settings: dict[str, Any] = saved["settings"]
        self.queues: dict[str, dict[str, Any]] = saved["queues"]
        self.nodes: dict[str, dict[str, Any]] = saved["nodes"]
        self.reservations: dict[str, dict[str, Any]] = saved["reservations"]
        self.jobs = {item["id"]: Job(**item) for item in saved["jobs"]}
        self._next: int = saved["next"]
        self._moms: dict[str, Callable[[dict[str, Any]], None]] = {}
        self._lost: dict[str, float] = dict.fromkeys(self.nodes, time.monotonic())

    def save(self) -> None:
        """Write everything down: a killed server knows all of it when it comes back."""
        document = {
            "name": self.name,
            "settings": self.settings,
            "queues": self.queues,
            "nodes": self.nodes,
            "reservations": self.reservations,
            "jobs": [asdict(job) for job in self.jobs.values()],
            "next": self._next,
        }
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(document))
        new.replace(self._path)

    # --------------------------------------------------------------------------------------------------- from clients
    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Serve one request of a command, or of a test's control."""
        verbs: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "submit": self._submit,
            "status": self._status,
            "delete": self._delete,
            "signal": self._signal,
            "alter": self._alter,
            "select": self._select,
            "nodes": lambda _: {"nodes": {name: self._show_node(name) for name in self.nodes}},
            "reservations": lambda _: {"reservations": self.reservations},
            "control": self._control,
        }
        try:
            return verbs[request["verb"]](request)
        except Refusal as refusal:
            return {"error": refusal.number, "text": refusal.text}

    def _submit(self, request: dict[str, Any]) -> dict[str, Any]:
        queue_name = request["queue"] or self.settings["default_queue"]
        resources = read_resources(request["resources"], of_the_site=self.settings["resources"])
        reserved = next((one for one in self.reservations.values() if one["queue"] == queue_name), None)
        queue = self.queues.get(queue_name) or ({"enabled": True} if reserved is not None else None)
        if queue is None:
            raise Refusal(UNKNOWN_QUEUE, "Unknown queue")
        if not queue["enabled"]:
            raise Refusal(NOT_ENABLED, "Queue is not enabled")
        longest = queue.get("max_walltime_s")
        if longest is not None and seconds(resources.get("walltime", "0")) > longest:
            raise Refusal(OVER_LIMITS, "Job violates queue and/or server resource limits")
        waiting = sum(1 for job in self.jobs.values() if job.queue == queue_name and job.state not in ENDED)
        if queue.get("max_queued") is not None and waiting >= queue["max_queued"]:  # the text is made up
            raise Refusal(TOO_MANY, f"would exceed queue {queue_name}'s per-user limit")
        now = int(time.time())
        job = Job(
            id=f"{self._next}.{self.name}",
            name=request["name"],
            owner=request["user"],
            host=request["host"],
            queue=queue_name,
            resources=resources,
            variables={**request["variables"], "PBS_O_QUEUE": queue_name},
            arguments=request["arguments"],
            executable=request["executable"],
            script=request["script"],
            output=request["output"],
            umask=request["umask"],
            account=request["account"],
            project=request["project"] or "_pbs_project_default",
            rerunable=request["rerunable"],
            ctime=now,
            mtime=now,
        )
        self._next += 1
        self.jobs[job.id] = job
        if request["hold"]:
            job.state, job.substate, job.hold = "H", 20, "u"
        if request["depend"]:
            kind, _, other = request["depend"].partition(":")
            job.depend = f"{kind}:{other}@{self.name}"
            job.state, job.substate = ("H", 22) if other in self.jobs else ("F", 92)
        self.cycle()
        self.save()
        return {"id": job.id}

    def _status(self, request: dict[str, Any]) -> dict[str, Any]:
        """Show jobs: all that live, or those named; ended ones only where history is asked for and kept."""
        history, asked = request["history"], request["ids"]
        if history and not self.settings["history"]:
            text = "PBS is not configured to maintain job history"
            return {"jobs": {}, "errors": [[NO_HISTORY, f"{text} {name}"] for name in asked or [""]]}
        jobs: dict[str, dict[str, Any]] = {}
        errors: list[list[Any]] = []
        for name in asked or list(self.jobs):
            job = self.jobs.get(name if "." in name else f"{name}.{self.name}")
            if job is None:
                errors.append([UNKNOWN_JOB, f"Unknown Job Id {name}"])
            elif job.state in ENDED and not history:
                if asked:
                    hint = "Job has finished, use -x or -H to obtain historical job information"
                    errors.append([FINISHED, f"{job.id} {hint}"])
            else:
                jobs[job.id] = job.attributes(self.name)
        return {"jobs": jobs, "errors": errors, "prints_one": self.settings["json_prints_one"]}

    def _named(self, name: str, user: str, command: str) -> Job:
        """Find a job that lives and belongs to this user."""
        job = self.jobs.get(name if "." in name else f"{name}.{self.name}")
        if job is None:
            raise Refusal(UNKNOWN_JOB, f"Unknown Job Id {name}")
        if job.state in ENDED:
            raise Refusal(FINISHED, f"Job has finished {job.id}")
        if job.owner != user:
            raise Refusal(NOT_YOURS, f"Unauthorized Request  {job.id}")
        if command == "signal" and job.state != "R":
            raise Refusal(BAD_STATE, f"Request invalid for state of job {job.id}")
        return job

    def _delete(self, request: dict[str, Any]) -> dict[str, Any]:
        job = self._named(request["id"], request["user"], "delete")
        if job.state not in LIVE:
            job.deleted_by = f"{request['user']}@{request['host']}"
            self._finish(job, None)
        elif job.node in self._moms:
            job.deleted_by = f"{request['user']}@{request['host']}"
            self._moms[job.node]({"do": "delete", "id": job.id, "force": request["force"]})
        elif request["force"]:
            job.deleted_by = f"{request['user']}@{request['host']}"
            self._finish(job, 265)
        else:
            raise Refusal(NO_MOM, f"Server could not connect to MOM {job.id}")
        self.save()
        return {}

    def _signal(self, request: dict[str, Any]) -> dict[str, Any]:
        job = self._named(request["id"], request["user"], "signal")
        if job.node not in self._moms:
            raise Refusal(NO_MOM, f"Server could not connect to MOM {job.id}")
        self._moms[job.node]({"do": "signal", "id": job.id, "signal": request["signal"]})
        return {}

    def _alter(self, request: dict[str, Any]) -> dict[str, Any]:
        job = self._named(request["id"], request["user"], "alter")
        if request["name"]:
            job.name = request["name"]
        if request["walltime"]:
            wanted = seconds(request["walltime"])
            if job.state in LIVE and wanted > seconds(job.resources.get("walltime", "0")):
                raise Refusal(NOT_YOURS, f"Unauthorized Request  {job.id}")
            job.resources["walltime"] = clock(wanted)
            if job.node in self._moms:
                self._moms[job.node]({"do": "walltime", "id": job.id, "walltime_s": wanted})
        self.save()
        return {}

    def _select(self, request: dict[str, Any]) -> dict[str, Any]:
        found = [
            job.id
            for job in self.jobs.values()
            if (job.state not in ENDED or request["history"])
            and (not request["user"] or job.owner == request["user"])
            and (not request["name"] or job.name == request["name"])
        ]
        return {"ids": found}

    def _show_node(self, name: str) -> dict[str, Any]:
        node = self.nodes[name]
        here = [job for job in self.jobs.values() if job.node == name and job.state in LIVE]
        shown = {
            "Mom": name,
            "ntype": "PBS",
            "state": "free" if name in self._moms else "down",
            "pcpus": node["ncpus"],
            "jobs": [job.id for job in here],
            "resources_available": {"arch": "linux", "host": name, "vnode": name, **node},
            "resources_assigned": {"ncpus": sum(job.amount("ncpus") for job in here)},
        }
        return shown if name in self._moms else shown | {"comment": "node down: communication closed"}

    def _control(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a test asks of the site's administrators."""
        for group in ("settings", "queues", "nodes", "reservations"):
            for name, value in request.get(group, {}).items():
                known: dict[str, Any] = getattr(self, group)
                known[name] = {**known.get(name, {}), **value} if isinstance(value, dict) else value
        for item in request.get("jobs", []):
            job = Job(**item)
            self.jobs[job.id] = job
        for name in request.get("forget", []):
            self.jobs.pop(name, None)
        self.cycle()
        self.save()
        return {}

    # ------------------------------------------------------------------------------------------------------ scheduler
    def cycle(self) -> None:
        """Start what can start, and say of the rest why it waits."""
        for job in self.jobs.values():
            if job.state == "Q":
                why, node = self._place(job)
                if node:
                    self._run(job, node)
                elif job.comment != why:
                    job.comment = why

    def _place(self, job: Job) -> tuple[str, str]:
        """Find a node for a job, or the scheduler's words for why there is none."""
        queue = self.queues.get(job.queue, {"started": True})
        if not queue["started"]:
            return "Not Running: Queue not started.", ""
        for name in COUNTED:
            total = sum(int(node.get(name, 0)) for node in self.nodes.values())
            if job.amount(name) > total:
                amounts = f"(R: {job.amount(name)} A: {total} T: {total})"
                return f"Can Never Run: Insufficient amount of resource: {name} {amounts}", ""
        running = sum(1 for one in self.jobs.values() if one.queue == job.queue and one.state in LIVE)
        if queue.get("max_run") is not None and running >= queue["max_run"]:
            return f"Not Running: User has reached queue {job.queue} running job limit.", ""
        ends_at = time.time() + seconds(job.resources.get("walltime", "0"))
        for one in self.reservations.values():
            if one["queue"] != job.queue and one["start"] < ends_at and time.time() < one["end"]:
                return "Not Running: Job would conflict with reservation or top job", ""
        fitting = [name for name in self._moms if all(self._free(name, item) >= _each(job, item) for item in COUNTED)]
        if len(fitting) < (job.chunks() if "scatter" in job.resources["place"] else 1):
            return "Not Running: Not enough free nodes available", ""
        return "", fitting[0]

    def _free(self, node: str, resource: str) -> int:
        here = [job for job in self.jobs.values() if job.node == node and job.state in LIVE]
        if any("excl" in job.resources["place"] for job in here):
            return 0
        return int(self.nodes[node].get(resource, 0)) - sum(_each(job, resource) for job in here)

    def _run(self, job: Job, node: str) -> None:
        now = time.time()
        job.state, job.substate, job.node, job.stime, job.mtime = "R", 42, node, int(now), int(now)
        job.run_count += 1
        job.exit_status = None
        job.comment = f"Job run at {time.strftime('%a %b %d at %H:%M', time.localtime(now))} on {job.vnodes()}"
        task = asdict(job) | {"walltime_s": seconds(job.resources.get("walltime", "0"))}
        self._moms[node]({"do": "run", "id": job.id, "job": task, "settings": self.settings})

    # ------------------------------------------------------------------------------------------------------ from nodes
    def mom_came(self, node: str, send: Callable[[dict[str, Any]], None], jobs: list[str]) -> None:
        """Take in a node's daemon, which may have jobs that went on while one of us was away."""
        self._moms[node] = send
        self._lost.pop(node, None)
        for job in self.jobs.values():
            if job.node == node and job.state in LIVE and job.id not in jobs:
                self._requeue(job)  # the daemon was started anew and knows nothing of it
        self.cycle()
        self.save()

    def mom_went(self, node: str, send: Callable[[dict[str, Any]], None]) -> None:
        """Note that a node's daemon is gone; its jobs stay as they are for `node_fail_requeue_s`."""
        if self._moms.get(node) == send:
            del self._moms[node]
            self._lost[node] = time.monotonic()

    def mom_says(self, told: dict[str, Any]) -> None:
        """Apply what a node tells of a job."""
        job = self.jobs.get(told["id"])
        if job is None or job.state not in LIVE:
            return
        if told["say"] == "started":
            job.session = told["session"]
        elif told["say"] == "used":
            job.used = {"cpupercent": 0, "cput": "00:00:00", "ncpus": job.amount("ncpus"), "walltime": told["walltime"]}
        elif told["say"] == "ending":
            job.state, job.substate = "E", 50
        elif told["say"] == "ended":
            job.used["walltime"] = told["walltime"]
            self._finish(job, told["status"])
            self.cycle()
        self.save()

    def _finish(self, job: Job, status: int | None) -> None:
        now = int(time.time())
        job.state, job.exit_status, job.mtime, job.ended_at = "F", status, now, now
        if job.deleted_by:
            job.substate, how = 91, f"terminated by {job.deleted_by}"
        elif status == -29:
            job.substate, how = 93, "exceeded resource walltime"
        elif status == 0:
            job.substate, how = 92, "finished"
        else:
            job.substate, how = 93, "failed"
        job.comment = f"{job.comment} and {how}".strip()

    def _requeue(self, job: Job) -> None:
        """Put a job of a lost node back; one that may not be run again fails (that it does so is made up)."""
        if job.rerunable:
            job.state, job.substate, job.exit_status, job.stime, job.node = "Q", 10, -20, None, ""
            job.comment = ""
        else:
            self._finish(job, -20)

    def tick(self) -> None:
        """Do what time brings."""
        changed = False
        now = time.monotonic()
        for node, since in self._lost.items():
            if now - since < self.settings["node_fail_requeue_s"]:
                continue
            for job in self.jobs.values():
                if job.node == node and job.state in LIVE:
                    self._requeue(job)
                    changed = True
        kept_s = self.settings["history_s"]
        for job in [one for one in self.jobs.values() if one.ended_at is not None]:
            if not self.settings["history"] or time.time() - (job.ended_at or 0) > kept_s:
                del self.jobs[job.id]
                changed = True
        before = [(job.state, job.comment) for job in self.jobs.values()]
        self.cycle()
        if changed or before != [(job.state, job.comment) for job in self.jobs.values()]:
            self.save()


def _each(job: Job, resource: str) -> int:
    """Say what one node must have for a job."""
    spread = job.chunks() if "scatter" in job.resources["place"] else 1
    return -(-job.amount(resource) // spread)
