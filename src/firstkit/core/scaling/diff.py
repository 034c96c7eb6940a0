# SPDX-License-Identifier: Apache-2.0
"""From what is needed and what there is to what should change: plan, drain, call off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from firstkit.core.catalog import Deployment, UpdateStyle
from firstkit.core.instance.record import Contact, Instance, InstanceState
from firstkit.core.reasons import Reason
from firstkit.core.scaling.failures import Standing
from firstkit.core.scaling.policy import Need

_LIVE = frozenset({InstanceState.PLANNED, InstanceState.LOADING, InstanceState.READY})


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """One instance is to end; requests in flight may finish within `within_s`."""

    instance: str
    reason: Reason
    within_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What to do for one deployment, and the verdict that people see while nothing serves."""

    start: int = 0
    start_reason: Reason = Reason.DEMAND
    drains: tuple[Drain, ...] = ()
    wanted: tuple[str, ...] = ()
    verdict: Reason = Reason.NO_DEMAND
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that the decision about one deployment looks at.

    `room`: how many more jobs of this deployment the cluster's limits allow (None: no bound); `crowded`: jobs that are
    there fill the limit, so that one of them ending makes room. `notes` says which limit.
    """

    deployment: Deployment
    spec: str
    instances: Sequence[Instance]
    need: Need
    standing: Standing
    now: float
    drain_s: float
    room: int | None = None
    crowded: bool = False
    cluster_stopped: bool = False
    cordoned: bool = False
    draining: bool = False
    removed: bool = False
    blocked: Reason | None = None
    notes: tuple[str, ...] = field(default=())


def decide(situation: Situation) -> Changes:
    """Compare needed with planned, requested and observed, and say what changes.

    Instances of an older spec are replaced: with `roll` as soon as as many new ones are READY, with `drain-first` at
    once. Where the old ones fill the cluster's limit a roll cannot be, so one of them makes room. An instance is
    drained when nothing has needed it for `idle` (READY) or `linger` (still coming). One that is out of reach is
    neither counted nor drained: another is started, and if it comes back the spare one goes as an idle one does.
    """
    live = [item for item in situation.instances if item.state in _LIVE]
    if situation.removed or situation.draining:
        reason = Reason.REMOVED if situation.removed else Reason.OVERRIDE
        return Changes(drains=_drain_all(live, reason, situation.drain_s), verdict=reason)
    within_reach = (item for item in live if item.contact is not Contact.LOST)
    current = sorted((item for item in within_reach if item.spec == situation.spec), key=_by_use)
    outdated = [item for item in live if item.spec != situation.spec]
    needed = situation.need.count
    wanted = tuple(item.id for item in current[:needed])
    missing = needed - len(current)
    if situation.deployment.update is UpdateStyle.DRAIN_FIRST:
        leaving = [item for item in situation.instances if item.state is InstanceState.DRAINING]
        missing -= len(outdated) + sum(1 for item in leaving if item.spec != situation.spec)
    verdict, detail = _verdict(situation, missing)
    jammed = verdict is Reason.CLUSTER_LIMIT and situation.crowded
    drains = _idle(current, situation) + _outdated(outdated, current, situation, jammed=jammed)
    if missing <= 0 or verdict is not situation.need.reason:
        return Changes(drains=drains, wanted=wanted, verdict=verdict, detail=detail)
    room = missing if situation.room is None else min(missing, situation.room)
    start = min(room, 1) if situation.standing.failures else room
    why = Reason.DEMAND if verdict is Reason.AT_MAX else verdict
    return Changes(start=start, start_reason=why, drains=drains, wanted=wanted, verdict=verdict, detail=detail)


def _by_use(instance: Instance) -> tuple[int, float]:
    """Order by what to keep first: serving before loading before planned, older first."""
    order = {InstanceState.READY: 0, InstanceState.LOADING: 1, InstanceState.PLANNED: 2}
    return order.get(instance.state, 3), instance.created_at


def _verdict(situation: Situation, missing: int) -> tuple[Reason, str]:
    """Name the reason that decides whether something may start."""
    standing = situation.standing
    if missing > 0:
        if standing.held:
            return Reason.HELD, standing.detail
        if situation.cluster_stopped:
            return Reason.CLUSTER_STOPPED, ""
        if situation.cordoned:
            return Reason.CORDONED, ""
        if standing.wait_s > 0:
            return Reason.BACKING_OFF, standing.detail
        if situation.blocked is not None:
            return situation.blocked, "; ".join(situation.notes)
        if situation.room is not None and situation.room <= 0:
            return Reason.CLUSTER_LIMIT, "; ".join(situation.notes)
    return situation.need.reason, ""


def _idle(current: Sequence[Instance], situation: Situation) -> tuple[Drain, ...]:
    """Drain what nobody has needed for long enough; keep at least `min`."""
    scaling = situation.deployment.scaling
    spare = len(current) - max(situation.need.count, scaling.min)
    drains: list[Drain] = []
    for item in reversed(current):
        if len(drains) >= spare:
            break
        limit_s = scaling.idle_s if item.state is InstanceState.READY else scaling.effective_linger_s
        since = item.wanted_at if item.wanted_at is not None else item.created_at
        if item.state is InstanceState.READY:
            since = max(since, item.ready_at or since)
        over_max = len(current) - len(drains) > scaling.max
        if over_max or (limit_s is not None and situation.now - since >= limit_s):
            reason = Reason.OVERRIDE if over_max else Reason.SCALED_IN
            drains.append(Drain(instance=item.id, reason=reason, within_s=situation.drain_s))
    return tuple(drains)


def _outdated(
    outdated: Sequence[Instance], current: Sequence[Instance], situation: Situation, *, jammed: bool
) -> tuple[Drain, ...]:
    """Drain instances of an older spec beyond those that are still needed beside the new ones that are READY.

    `jammed`: nothing new can start for want of room; then one that is left is drained, unless one is on its way out.
    """
    if situation.deployment.update is UpdateStyle.DRAIN_FIRST:
        return _drain_all(outdated, Reason.UPDATED, situation.drain_s)
    ready = sum(1 for item in current if item.state is InstanceState.READY)
    coming = [item for item in outdated if item.state is not InstanceState.READY]
    serving = sorted((item for item in outdated if item.state is InstanceState.READY), key=_by_use)
    surplus = max(0, len(serving) - max(0, situation.need.count - ready))
    leaving = any(item.state is InstanceState.DRAINING for item in situation.instances)
    if surplus == 0 and jammed and not coming and not leaving:
        surplus = min(1, len(serving))
    return _drain_all([*coming, *serving[:surplus]], Reason.UPDATED, situation.drain_s)


def _drain_all(instances: Sequence[Instance], reason: Reason, within_s: float) -> tuple[Drain, ...]:
    """Drain all of them for one reason."""
    return tuple(Drain(instance=item.id, reason=reason, within_s=within_s) for item in instances)
