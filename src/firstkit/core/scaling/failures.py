# SPDX-License-Identifier: Apache-2.0
"""Failures in a row: when to try again, and when to stop trying and say why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from firstkit.core.instance.record import Instance, InstanceState
from firstkit.core.reasons import HEALING, Reason, is_failure
from firstkit.core.scaling.reaped import advice, over_at, reaped_after_s

HEALTHY_S = 120.0
"""An instance that served this long before it failed starts a new row: what went wrong is not its start."""
NEVER_HEAL = frozenset({Reason.SUBMIT_REJECTED, Reason.WEIGHTS_MISSING, Reason.SETUP_FAILED, Reason.ENGINE_UNGUARDED})
"""Ends that waiting alone will not mend: the second in a row holds."""

_GOING = frozenset({InstanceState.DRAINING, InstanceState.ENDED})
_DOUBLINGS = 30
"""More make no difference, and a very long row must not overflow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How patient the controller is; durations in seconds."""

    failures_to_hold: int = 4
    backoff_first_s: float = 2.0
    backoff_max_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a deployment stands: failures in a row, held or not, and for how long no start is tried."""

    failures: int = 0
    held: bool = False
    wait_s: float = 0.0
    reason: Reason | None = None
    detail: str = ""


def standing(
    ended: Iterable[Instance], *, spec: str, released_at: float | None, now: float, patience: Patience
) -> Standing:
    """Judge a deployment by its ended instances, and those on their way out (any order; others are left aside).

    Only ends of the present `spec` after `released_at` (an operator's release) count. Normal ends (walltime, scale-in,
    cancellation) neither count nor reset; a healthy life resets. Failures of the site delay the next try, but do not
    hold: they pass by themselves, and nobody should have to release every deployment after an outage. A site that ends
    whatever is idle holds: what is submitted next would only end the same way.
    """
    row = own = 0
    last: Instance | None = None
    going = [
        item
        for item in sorted(ended, key=over_at, reverse=True)
        if item.spec == spec and item.state in _GOING and (released_at is None or over_at(item) > released_at)
    ]
    reaped_s = reaped_after_s(going)
    if reaped_s is not None:
        return Standing(held=True, reason=Reason.CANCELLED_BY_SITE, detail=advice(reaped_s))
    for item in going:
        if item.state is not InstanceState.ENDED:
            continue
        if is_failure(item.reason):
            row += 1
            own += item.reason not in HEALING
            last = last or item
        if item.ready_at is not None and (item.ended_at or 0.0) - item.ready_at >= HEALTHY_S:
            break
    if last is None:
        return Standing()
    to_hold = min(2, patience.failures_to_hold) if last.reason in NEVER_HEAL else patience.failures_to_hold
    pause_s = min(patience.backoff_max_s, patience.backoff_first_s * 2.0 ** min(row - 1, _DOUBLINGS))
    return Standing(
        failures=row,
        held=own >= to_hold,
        wait_s=max(0.0, pause_s - (now - (last.ended_at or now))),
        reason=last.reason,
        detail=_detail(last),
    )


def _detail(instance: Instance) -> str:
    """Say in one line what the engine's end looked like."""
    if instance.detail:
        return instance.detail
    return instance.exit_tail[-1] if instance.exit_tail else ""
