# SPDX-License-Identifier: Apache-2.0
"""The dialect of the simulated cluster."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from firstkit.adapters.schedulers.objections import objection
from firstkit.core.reasons import Reason
from firstkit.ports.runner import Command, Done, Refused, Result, Unknown
from firstkit.ports.scheduler import Accepted, JobPhase, Observation, Rejected, SeenJob, Submission, Unsure, Window

_PHASES = {
    "PENDING": JobPhase.WAITING,
    "RUNNING": JobPhase.RUNNING,
    "COMPLETING": JobPhase.ENDING,
    "ENDED": JobPhase.ENDED,
}
_REASONS = {
    "TIMEOUT": Reason.WALLTIME,
    "CANCELLED": Reason.CANCELLED,
    "NODE_FAIL": Reason.NODE_FAILURE,
    "IMPOSSIBLE": Reason.SUBMIT_REJECTED,
    "PREEMPTED": Reason.PREEMPTED,
}


class SimulatedScheduler:
    """Implements `Scheduler` for what `SimulatedCluster` runs."""

    def __init__(self, *, installation: str) -> None:
        self._prefix = f"first-{installation}-"

    def files(self) -> dict[str, bytes]:
        """Name no files of its own."""
        return {}

    def script(self, submission: Submission, *, setup: str, launcher: str) -> str:
        """Render a script that only this cluster understands."""
        return json.dumps({"tag": submission.tag, "setup": setup, "launcher": launcher})

    def submit(self, submission: Submission) -> Command:
        """Submit by tag, walltime and script; then come the nodes to keep off."""
        walltime = f"{submission.resources.walltime_s or 0:g}"
        return Command(argv=("submit", submission.tag, walltime, submission.script, *submission.exclude))

    def parse_submit(self, result: Result) -> Accepted | Rejected | Unsure:
        """Read the number."""
        if isinstance(result, Unknown):
            return Unsure(detail=result.detail)
        if isinstance(result, Refused):
            return Rejected(detail=result.detail, reason=Reason.SUBMIT_FAILED)
        if result.code != 0:
            return Rejected(detail=result.err.decode())
        return Accepted(scheduler_id=result.out.decode())

    def observe(self) -> list[Command]:
        """List everything."""
        return [Command(argv=("list",))]

    def parse(self, results: Sequence[Result]) -> Observation:
        """Read one JSON object a line, the last of which says that all is told."""
        result = results[0]
        if not isinstance(result, Done):
            return Observation(complete=False, detail=result.detail)
        seen, complete = self._read(result.out)
        return Observation(complete=complete, jobs=tuple(seen), detail="" if complete else "the listing broke off")

    def recall(self, jobs: Mapping[str, str]) -> list[Command]:
        """Ask the accounting."""
        return [Command(argv=("account", *(f"{self._prefix}{job}" for job in jobs)))]

    def parse_recalled(self, results: Sequence[Result]) -> tuple[SeenJob, ...]:
        """Read it like a listing; only ends count."""
        told = [job for result in results if isinstance(result, Done) for job in self._read(result.out)[0]]
        return tuple(job for job in told if job.phase is JobPhase.ENDED)

    def _read(self, out: bytes) -> tuple[list[SeenJob], bool]:
        """Read lines; True: the closing one was there."""
        seen: list[SeenJob] = []
        complete = False
        for line in out.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if "end" in entry:
                complete = True
            elif str(entry["tag"]).startswith(self._prefix):
                seen.append(
                    SeenJob(
                        scheduler_id=entry["id"],
                        tag=entry["tag"],
                        phase=_PHASES.get(entry["state"], JobPhase.UNKNOWN),
                        reason=_REASONS.get(entry["why"]),
                        detail="" if entry["state"] != "ENDED" or entry["why"] else f"exit code {entry['code']}",
                        time_left_s=entry["left_s"],
                        nodes=frozenset(entry["nodes"]),
                    )
                )
        return seen, complete

    def windows(self) -> list[Command]:
        """List reservations."""
        return [Command(argv=("reservations",))]

    def parse_windows(self, results: Sequence[Result]) -> tuple[Window, ...] | None:
        """Read one JSON list."""
        result = results[0]
        if not isinstance(result, Done):
            return None
        return tuple(
            Window(
                name=entry["name"],
                starts_in_s=entry["starts_in_s"],
                ends_in_s=entry["ends_in_s"],
                nodes=None if entry["nodes"] is None else frozenset(entry["nodes"]),
            )
            for entry in json.loads(result.out)
        )

    def cancel(self, scheduler_ids: Sequence[str]) -> list[Command]:
        """Cancel in one command."""
        return [Command(argv=("cancel", *scheduler_ids))] if scheduler_ids else []

    def parse_cancel(self, results: Sequence[Result]) -> str:
        """Read why it failed, if it did."""
        return objection(results)
