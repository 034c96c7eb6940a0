# SPDX-License-Identifier: Apache-2.0
"""The instance machine: one table says which event leads from which state to which, `step` applies it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from firstkit.core.instance.record import Contact, Instance, InstanceState
from firstkit.core.reasons import Reason
from firstkit.core.topology import Address


class InstanceEventKind(StrEnum):
    """What can happen to an instance."""

    REPORTED_LOADING = "reported loading"
    REPORTED_READY = "reported ready"
    REPORTED_DRAINING = "reported draining"
    NOT_ANSWERING = "did not answer"
    REPORTED_ENDED = "reported ended"
    DRAIN_ASKED = "drain asked"
    JOB_ENDED = "its job ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceEvent:
    """One observation or wish; `at` is the store's time. Fields that an event does not know stay None."""

    kind: InstanceEventKind
    at: float
    reason: Reason | None = None
    detail: str = ""
    address: Address | None = None
    fraction: float | None = None
    progress: str = ""
    load_s: float | None = None
    exit_code: int | None = None
    exit_tail: tuple[str, ...] = ()
    drain_by: float | None = None
    max_model_len: int | None = None
    image: str = ""


_S, _K = InstanceState, InstanceEventKind

TRANSITIONS: Mapping[tuple[InstanceState, InstanceEventKind], InstanceState] = {
    (_S.PLANNED, _K.REPORTED_LOADING): _S.LOADING,
    (_S.PLANNED, _K.REPORTED_READY): _S.READY,
    (_S.PLANNED, _K.REPORTED_DRAINING): _S.DRAINING,
    (_S.PLANNED, _K.NOT_ANSWERING): _S.LOADING,
    (_S.PLANNED, _K.REPORTED_ENDED): _S.ENDED,
    (_S.PLANNED, _K.DRAIN_ASKED): _S.DRAINING,
    (_S.PLANNED, _K.JOB_ENDED): _S.ENDED,
    (_S.LOADING, _K.REPORTED_LOADING): _S.LOADING,
    (_S.LOADING, _K.REPORTED_READY): _S.READY,
    (_S.LOADING, _K.REPORTED_DRAINING): _S.DRAINING,
    (_S.LOADING, _K.NOT_ANSWERING): _S.LOADING,
    (_S.LOADING, _K.REPORTED_ENDED): _S.ENDED,
    (_S.LOADING, _K.DRAIN_ASKED): _S.DRAINING,
    (_S.LOADING, _K.JOB_ENDED): _S.ENDED,
    (_S.READY, _K.REPORTED_READY): _S.READY,
    (_S.READY, _K.REPORTED_DRAINING): _S.DRAINING,
    (_S.READY, _K.NOT_ANSWERING): _S.LOADING,
    (_S.READY, _K.REPORTED_ENDED): _S.ENDED,
    (_S.READY, _K.DRAIN_ASKED): _S.DRAINING,
    (_S.READY, _K.JOB_ENDED): _S.ENDED,
    (_S.DRAINING, _K.REPORTED_DRAINING): _S.DRAINING,
    (_S.DRAINING, _K.REPORTED_ENDED): _S.ENDED,
    (_S.DRAINING, _K.DRAIN_ASKED): _S.DRAINING,
    (_S.DRAINING, _K.JOB_ENDED): _S.ENDED,
}
"""Everything that may happen; a missing pair changes nothing.

Only an external engine goes from READY back to LOADING, when it does not answer any more: a launcher never reports
that, so that its older reports arriving late change nothing.
"""

_HEARD = frozenset({_K.REPORTED_LOADING, _K.REPORTED_READY, _K.REPORTED_DRAINING, _K.REPORTED_ENDED})


def step(instance: Instance, event: InstanceEvent) -> Instance:
    """Apply one event.

    ENDED is final, replaying changes nothing but `heard_at`, and the first reason of a drain is kept. An instance that
    drains by its launcher's own doing (its walltime is near, somebody cancelled the job) drains for that reason.
    """
    target = TRANSITIONS.get((instance.state, event.kind))
    if target is None:
        return instance
    facts = _facts(instance, event)
    if target is not instance.state:
        facts |= {"state": target, "state_at": event.at} | _entering(instance, target, event)
    return replace(instance, **facts)


def _facts(instance: Instance, event: InstanceEvent) -> dict[str, object]:
    """Collect what the event tells whatever the state becomes."""
    facts: dict[str, object] = {}
    if event.kind in _HEARD:
        facts |= {"heard_at": max(event.at, instance.heard_at or event.at), "contact": Contact.ALIVE}
    if event.kind in {_K.REPORTED_LOADING, _K.NOT_ANSWERING}:
        facts |= {"fraction": event.fraction, "progress": event.progress, "detail": event.detail}
    if event.kind is _K.REPORTED_READY:
        facts |= {"address": event.address or instance.address, "fraction": None, "progress": ""}
        if event.max_model_len is not None:
            facts["max_model_len"] = event.max_model_len
    if event.kind is _K.DRAIN_ASKED:
        earliest = [moment for moment in (instance.drain_by, event.drain_by) if moment is not None]
        facts["drain_by"] = min(earliest) if earliest else None
        facts["drain_for"] = instance.drain_for or event.reason or Reason.CANCELLED
    if event.kind is _K.REPORTED_DRAINING:
        facts["drain_for"] = instance.drain_for or event.reason
    if event.image:
        facts["image"] = event.image
    if event.load_s is not None and instance.load_s is None:
        facts["load_s"] = event.load_s
    return facts


def _entering(instance: Instance, target: InstanceState, event: InstanceEvent) -> dict[str, object]:
    """Set what belongs to the state that is entered."""
    match target:
        case InstanceState.LOADING:
            return {"reason": Reason.LOADING}
        case InstanceState.READY:
            return {"reason": Reason.SERVING, "ready_at": event.at, "detail": ""}
        case InstanceState.DRAINING:
            return {"reason": instance.drain_for or event.reason or Reason.DRAINING, "fraction": None, "progress": ""}
        case InstanceState.ENDED:
            return {
                "reason": instance.drain_for or event.reason or Reason.JOB_LOST,
                "detail": event.detail or instance.detail,
                "ended_at": event.at,
                "exit_code": event.exit_code,
                "exit_tail": event.exit_tail,
                "fraction": None,
                "progress": "",
                "engine_key": None,
            }
        case InstanceState.PLANNED:
            return {}
