# SPDX-License-Identifier: Apache-2.0
"""How often a cluster's scheduler is asked: seldom when nothing changes, sooner while something waits."""

from __future__ import annotations

from dataclasses import dataclass

from firstkit.core.instance.record import InstanceState
from firstkit.core.job.record import JobState
from firstkit.core.settings import ControllerSettings
from firstkit.services.world import World

PATIENCE = 4
"""What has waited for some time is looked at again after a quarter of it: hours in a queue need no look every 5 s."""
JITTER = 0.1
"""By how much of itself a pause is lengthened at most, at random, so that installations do not ask in step."""
_MOVING = frozenset({JobState.SUBMITTING, JobState.QUEUED, JobState.ENDING})
_CHANGING = frozenset({InstanceState.PLANNED, InstanceState.LOADING, InstanceState.DRAINING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Pauses in seconds between two listings, and between two readings of files alone; None: only after a listing."""

    look_s: float
    read_s: float | None = None


def pace(world: World, cluster: str, *, files_only: bool, settings: ControllerSettings, now: float) -> Pace:
    """Say how often to look at a cluster.

    Often only while something is on its way that nobody else would tell of; the longer it has been, the less often.
    Where launchers report by files alone, those are read often while an instance changes: that asks no scheduler.
    """
    waits, reads = False, False
    changed_at = float("-inf")
    for job in world.live_jobs(cluster):
        instances = world.instances_of_job(job.id)
        unheard = job.state is JobState.RUNNING and all(item.heard_at is None for item in instances)
        waits = waits or job.state in _MOVING or job.absent_since is not None or unheard
        reads = reads or (files_only and (unheard or any(item.state in _CHANGING for item in instances)))
        changed_at = max(changed_at, job.state_at, job.absent_since or 0.0)
    quick_s, slow_s = settings.observe_s, settings.observe_idle_s
    look_s = min(slow_s, max(quick_s, (now - changed_at) / PATIENCE)) if waits else slow_s
    return Pace(look_s=look_s, read_s=quick_s if reads else None)
