# SPDX-License-Identifier: Apache-2.0
"""From what is needed and what there is to what should change: plan, drain, call off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from firstkit.core.catalog import Deployment, UpdateStyle
from firstkit.core.instance.record import Contact, Instance, InstanceState
from firstkit.core.reasons import Reason
from firstkit.core.scaling import walltime
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
    """What to do for one deployment, and the verdict that people see while nothing serves.

    `heirs` names the instances of which each gets a successor, `start` counts what is started besides.
    `barred_s` is how long the present verdict will hold, where that is known.
    """

    start: int = 0
    heirs: tuple[str, ...] = ()
    start_reason: Reason = Reason.DEMAND
    drains: tuple[Drain, ...] = ()
    wanted: tuple[str, ...] = ()
    wanted_ago_s: float = 0.0
    verdict: Reason = Reason.NO_DEMAND
    detail: str = ""
    barred_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that the decision about one deployment looks at.

    `room`: how many more jobs of this deployment the cluster's limits allow (None: no bound); `crowded`: jobs that are
    there fill the limit, so that one of them ending makes room. `notes` says which limit, or what `blocked` means.
    `reserve`: how many of these jobs are kept for successors: of others only what is kept or first may use them.
    `ends` says when instances have to have finished; `lead_s` how long before a successor is asked for; `unfit` names
    instances whose jobs wait for what cannot be any more.
    """

    deployment: Deployment
    spec: str
    instances: Sequence[Instance]
    need: Need
    standing: Standing
    now: float
    drain_s: float
    room: int | None = None
    reserve: int = 0
    ends: Mapping[str, walltime.End] = field(default_factory=dict[str, walltime.End])
    lead_s: float = 0.0
    unfit: frozenset[str] = frozenset()
    crowded: bool = False
    cluster_stopped: bool = False
    cordoned: bool = False
    draining: bool = False
    removed: bool = False
    blocked: Reason | None = None
    barred_s: float = 0.0
    notes: tuple[str, ...] = field(default=())


def decide(situation: Situation) -> Changes:
    """Compare needed with planned, requested and observed, and say what changes.

    Instances of an older spec are replaced: with `roll` as soon as as many new ones are READY, with `drain-first` at
    once. Where the old ones fill the cluster's limit a roll cannot be, so one of them makes room. An instance is
    drained when nothing has needed it for `idle` (READY) or `linger` (still coming). One that is out of reach is
    neither counted nor drained: another is started, and if it comes back the spare one goes as an idle one does. One
    whose end is near is not counted either: it gets a successor if it is still wanted, and leaves when that serves.
    """
    live = [item for item in situation.instances if item.state in _LIVE]
    if situation.removed or situation.draining:
        reason = Reason.REMOVED if situation.removed else Reason.OVERRIDE
        return Changes(drains=_drain_all(live, reason, situation.drain_s), verdict=reason)
    over = _over(live, situation)
    gone = {drain.instance for drain in over}
    outdated = [item for item in live if item.spec != situation.spec and item.id not in gone]
    within_reach = [
        item
        for item in live
        if item.contact is not Contact.LOST and item.spec == situation.spec and item.id not in gone
    ]
    closing = _closing(within_reach, situation)
    ids = {item.id for item in closing}
    current = sorted((item for item in within_reach if item.id not in ids), key=_by_use)
    needed = situation.need.count
    heirs, more = _wanted_starts(closing, current, situation)
    if situation.deployment.update is UpdateStyle.DRAIN_FIRST:
        leaving = [item for item in situation.instances if item.state is InstanceState.DRAINING]
        more -= len(outdated) + sum(1 for item in leaving if item.spec != situation.spec)
    missing = len(heirs) + max(0, more)
    verdict, detail = _verdict(situation, missing)
    jammed = verdict is Reason.CLUSTER_LIMIT and situation.crowded
    drains = (
        over
        + _relieved(closing, current, situation)
        + _idle(current, situation)
        + _outdated(outdated, current, situation, jammed=jammed)
    )
    serving = sum(1 for item in current if item.state is InstanceState.READY)
    changes = Changes(
        drains=drains,
        wanted=tuple(item.id for item in [*current[:needed], *closing[: max(0, needed - serving)]]),
        wanted_ago_s=situation.need.ago_s,
        verdict=verdict,
        detail=detail,
        barred_s=situation.barred_s if verdict is situation.blocked else 0.0,
    )
    if missing <= 0 or verdict is not situation.need.reason:
        return changes
    heirs, start = _allowed(heirs, max(0, more), current=len(current), situation=situation)
    why = Reason.DEMAND if verdict is Reason.AT_MAX else verdict
    return replace(changes, start=start, start_reason=why, heirs=tuple(heirs))


def _over(live: Sequence[Instance], situation: Situation) -> tuple[Drain, ...]:
    """Drain instances whose time is over, as their launchers do by themselves, and call off jobs that wait in vain."""
    drains: list[Drain] = []
    for item in live:
        end = situation.ends.get(item.id)
        if item.id in situation.unfit:
            drains.append(Drain(instance=item.id, reason=Reason.MAINTENANCE, within_s=0.0))
        elif end is not None and situation.now >= end.at:
            drains.append(Drain(instance=item.id, reason=end.reason, within_s=end.margin_s))
    return tuple(drains)


def _closing(instances: Sequence[Instance], situation: Situation) -> list[Instance]:
    """List the instances whose successors are due, or that have one."""
    if not situation.deployment.scaling.handover:
        return []
    heirs = [item.replaces for item in instances if item.replaces]
    abreast = None if situation.room is None else situation.room + len(heirs)
    due = walltime.closing(instances, situation.ends, lead_s=situation.lead_s, abreast=abreast, now=situation.now)
    ids = {item.id for item in due}
    return due + [item for item in instances if item.id in heirs and item.id not in ids]


def _wanted_starts(
    closing: Sequence[Instance], current: Sequence[Instance], situation: Situation
) -> tuple[list[str], int]:
    """Say which of the closing ones need a successor, and how many more are needed besides (less than none: spare).

    What is needed is made up by successors first. One that nobody needs now gets one all the same if `idle` would keep
    it beyond its end.
    """
    more = situation.need.count - len(current)
    taken = {item.replaces for item in [*current, *closing] if item.replaces}
    heirs: list[str] = []
    for item in closing:
        if item.id in taken:
            continue
        kept = walltime.kept_past(item, situation.ends[item.id].at, idle_s=situation.deployment.scaling.idle_s)
        if more > 0 or kept:
            heirs.append(item.id)
            more -= 1
    return heirs, more


def _allowed(heirs: Sequence[str], more: int, *, current: int, situation: Situation) -> tuple[list[str], int]:
    """Bound what is wanted by the room there is: successors first, then what is kept or first, then the rest.

    The rest leaves the reserve alone. After a failure one start at a time is tried.
    """
    room = len(heirs) + more if situation.room is None else situation.room
    reserve = 0 if situation.room is None else situation.reserve
    if situation.standing.failures:
        room, reserve = min(room, 1), 0
    chosen = list(heirs[:room])
    room -= len(chosen)
    first = max(0, max(situation.deployment.scaling.min, 1) - current - len(chosen))
    start = min(more, room, first)
    start += max(0, min(more - start, room - start - reserve))
    return chosen, start


def _relieved(closing: Sequence[Instance], current: Sequence[Instance], situation: Situation) -> tuple[Drain, ...]:
    """Drain closing instances whose successor serves; those that nobody has needed for `idle` go as well."""
    heirs = {item.replaces: item for item in [*closing, *current] if item.replaces}
    idle_s = situation.deployment.scaling.idle_s
    drains: list[Drain] = []
    for item in closing:
        end = situation.ends.get(item.id)
        heir = heirs.get(item.id)
        since = max(item.wanted_at or item.created_at, item.ready_at or item.created_at)
        if heir is not None and heir.state is InstanceState.READY and heir.contact is Contact.ALIVE:
            reason = end.reason if end is not None else Reason.SCALED_IN
            within_s = end.at - situation.now if end is not None else situation.drain_s
            drains.append(Drain(instance=item.id, reason=reason, within_s=max(0.0, within_s)))
        elif idle_s is not None and situation.now - since >= idle_s:
            drains.append(Drain(instance=item.id, reason=Reason.SCALED_IN, within_s=situation.drain_s))
    return tuple(drains)


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
