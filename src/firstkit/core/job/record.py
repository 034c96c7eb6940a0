# SPDX-License-Identifier: Apache-2.0
"""What is stored of a job."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from firstkit.core.ids import JobId
from firstkit.core.reasons import Reason


class JobState(StrEnum):
    """Where a job stands. ENDED is final."""

    PLANNED = "PLANNED"
    SUBMITTING = "SUBMITTING"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    ENDING = "ENDING"
    ENDED = "ENDED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One scheduler job. Times are Unix seconds of the store's clock and are compared with nothing else.

    `ending_for` is set once firstkit wants the job to end (why); the scheduler is told until it is gone.
    `absent_since` is when a complete listing first missed a job that should be there.
    `nodes` is where it runs, as far as the scheduler has told. `walltime_s` is what it asks for; None is no end (or a
    job of an earlier version).
    `spec` is the digest of what it was made from: another digest of the deployment means it is outdated.
    """

    id: JobId
    cluster: str
    deployment: str
    revision: int
    spec: str
    run_dir: str
    state: JobState
    reason: Reason
    state_at: float
    created_at: float
    detail: str = ""
    scheduler_id: str = ""
    submitted_at: float | None = None
    running_at: float | None = None
    ended_at: float | None = None
    ends_at: float | None = None
    starts_at: float | None = None
    ending_for: Reason | None = None
    cancelled_at: float | None = None
    absent_since: float | None = None
    seen_at: float | None = None
    token_digest: str = ""
    walltime_s: float | None = None
    nodes: tuple[str, ...] = ()
