# SPDX-License-Identifier: Apache-2.0
"""The `local` dialect: jobs as process groups on this machine, through the small batch system in `local_jobs`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, cast

from firstkit.adapters.schedulers.objections import objection
from firstkit.adapters.schedulers.script import start_script
from firstkit.core.catalog import Cluster
from firstkit.core.reasons import Reason
from firstkit.ports.runner import Command, Done, Refused, Result
from firstkit.ports.scheduler import Accepted, JobPhase, Observation, Rejected, SeenJob, Submission, Unsure, Window

PROGRAM = "local-jobs.py"
_PHASES = {
    "STARTING": JobPhase.WAITING,
    "RUNNING": JobPhase.RUNNING,
    "ENDING": JobPhase.ENDING,
    "ENDED": JobPhase.ENDED,
}
_REASONS = {"TIMEOUT": Reason.WALLTIME, "CANCELLED": Reason.CANCELLED, "LOST": Reason.NODE_FAILURE}


class LocalScheduler:
    """Build and read the commands of `local_jobs`; `python` runs it and the launcher."""

    def __init__(self, cluster: Cluster, *, installation: str, python: str) -> None:
        self._run_dir = cluster.run_dir
        self._python = str(cluster.scheduler.options.get("python") or python)
        self._prefix = f"first-{installation}-"

    def files(self) -> dict[str, bytes]:
        """Name the batch system itself: it lies in the run directory like everything else of ours."""
        return {PROGRAM: files("firstkit.adapters.schedulers").joinpath("local_jobs.py").read_bytes()}

    def script(self, submission: Submission, *, setup: str, launcher: str) -> str:
        """Render start.sh; a login shell only where there are setup lines, since profiles take their time."""
        login = bool(setup.strip())
        return start_script(submission, setup=setup, launcher=launcher, python=self._python, login=login)

    def submit(self, submission: Submission) -> Command:
        """Submit by tag, walltime and script."""
        walltime_s = submission.resources.walltime_s or 0.0
        return self._command("submit", submission.tag, f"{walltime_s:g}", submission.script)

    def parse_submit(self, result: Result) -> Accepted | Rejected | Unsure:
        """Read the job's number."""
        if isinstance(result, Refused):
            return Rejected(detail=result.detail, reason=Reason.SUBMIT_FAILED)
        if not isinstance(result, Done):
            return Unsure(detail=result.detail)
        number = result.out.strip().decode("ascii", "replace")
        if result.code == 0 and number.isdigit():
            return Accepted(scheduler_id=number)
        words = result.err.decode("utf-8", "replace").strip().splitlines()
        said = words[-1] if words else f"exit code {result.code}"
        return Unsure(detail=said) if result.code == 0 else Rejected(detail=said, reason=Reason.SUBMIT_FAILED)

    def observe(self) -> list[Command]:
        """List everything; ended jobs stay for ten minutes."""
        return [self._command("list")]

    def parse(self, results: Sequence[Result]) -> Observation:
        """Read one JSON object a line; without the closing line the listing is incomplete and proves no absence."""
        result = results[0] if results else Refused(detail="no listing was made")
        if not isinstance(result, Done):
            return Observation(complete=False, detail=result.detail)
        jobs: dict[str, SeenJob] = {}
        complete = False
        for line in result.out.splitlines():
            entry = _object(line)
            if entry is None:
                continue
            if entry.get("end") is True:
                complete = result.code == 0
            elif str(entry.get("name", "")).startswith(self._prefix) and entry.get("id"):
                seen = _seen(entry)
                jobs[seen.scheduler_id] = seen
        words = result.err.decode("utf-8", "replace").strip()
        return Observation(complete=complete, jobs=tuple(jobs.values()), detail="" if complete else words[-300:])

    def recall(self, jobs: Mapping[str, str]) -> list[Command]:
        """Ask nobody: there is no second source."""
        del jobs
        return []

    def parse_recalled(self, results: Sequence[Result]) -> tuple[SeenJob, ...]:
        """Read nothing: nobody was asked."""
        del results
        return ()

    def windows(self) -> list[Command]:
        """Ask nothing: nobody reserves anything here."""
        return []

    def parse_windows(self, results: Sequence[Result]) -> tuple[Window, ...] | None:  # noqa: ARG002
        """Tell of no reservation."""
        return ()

    def cancel(self, scheduler_ids: Sequence[str]) -> list[Command]:
        """Cancel in one command."""
        return [self._command("cancel", *scheduler_ids)] if scheduler_ids else []

    def parse_cancel(self, results: Sequence[Result]) -> str:
        """Read why it failed, if it did."""
        return objection(results)

    def _command(self, verb: str, *rest: str) -> Command:
        program = f"{self._run_dir}/{PROGRAM}"
        return Command(argv=(self._python, "-I", "-S", program, verb, self._run_dir, *rest))


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return cast("dict[str, Any]", entry) if isinstance(entry, dict) else None


def _seen(entry: dict[str, Any]) -> SeenJob:
    """Read one line of the listing."""
    left = entry.get("left_s")
    why = entry.get("why")
    phase = _PHASES.get(str(entry.get("state")), JobPhase.UNKNOWN)
    reason = _REASONS.get(str(why)) if why else None
    detail = "" if phase is not JobPhase.ENDED or why else f"exit code {entry.get('code')}"
    return SeenJob(
        scheduler_id=str(entry["id"]),
        tag=str(entry.get("name", "")),
        phase=phase,
        reason=reason,
        detail=detail,
        time_left_s=float(left) if isinstance(left, (int, float)) else None,
    )
