# SPDX-License-Identifier: Apache-2.0
"""Whether a request for a model that is not hot is held or turned away, for how long, and what it may expect."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from firstkit.core.reasons import Reason
from firstkit.core.routing.candidates import Rejection
from firstkit.core.routing.decision import Choice
from firstkit.core.routing.load import StandingT
from firstkit.core.topology import Heat, ModelStatus


class Why(StrEnum):
    """Why a request is turned away instead of being held."""

    MODEL_HELD = "model_held"
    """Its starts failed so often that nothing is tried until an operator acts."""
    NO_WAIT = "no_wait"
    """The client asked not to wait."""
    TOO_LONG = "too_long"
    """The model is expected later than this request could wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Hold the request; `bound_s` None is without a bound, as long as the client stays."""

    bound_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnAway:
    """Refuse the request at once; `retry_after_s` None is unknown."""

    why: Why
    retry_after_s: float | None


def wait_bound_s(*, max_wait_s: float | None, stream: bool, hold_s: float) -> float | None:
    """Say how long a request may wait; None without a bound.

    The client's own bound counts if it gave one. Otherwise a stream may wait for ever, since comments keep it
    alive, and a plain answer as long as the usual clients do.
    """
    if max_wait_s is not None:
        return max(0.0, max_wait_s)
    return None if stream else hold_s


def hold(status: ModelStatus | None, *, to_hot_s: float | None, bound_s: float | None) -> Hold | TurnAway:
    """Decide about a request for a model of which no instance can take it.

    `to_hot_s` is the predicted time left (None: unknown, and then the request is held: nothing is invented).
    `status` None is a model that the controller has not told of yet.
    """
    if status is not None and status.held:
        return TurnAway(why=Why.MODEL_HELD, retry_after_s=None)
    if bound_s is not None and bound_s <= 0.0:
        return TurnAway(why=Why.NO_WAIT, retry_after_s=to_hot_s)
    if bound_s is not None and to_hot_s is not None and to_hot_s > bound_s:
        return TurnAway(why=Why.TOO_LONG, retry_after_s=to_hot_s)
    return Hold(bound_s=bound_s)


class Outlook(NamedTuple):
    """How a model looks to one request; `to_hot_s` None is unknown."""

    heat: Heat
    reason: Reason
    detail: str
    to_hot_s: float | None


def outlook(status: ModelStatus | None, choice: Choice[StandingT], *, to_hot_s: float | None) -> Outlook:
    """Judge what the request may expect, from the controller's word and from what routing has just found.

    A model that is hot to the controller may be anything but to this request: its instance may not answer, be going, or
    be at another cluster than the one asked for. Then nothing is known of the time it takes.
    """
    if choice.chosen is not None or choice.busy:
        return Outlook(Heat.HOT, Reason.SERVING, "", 0.0)
    if status is None:
        return Outlook(Heat.COLD, Reason.DEMAND, "the controller has not told of it yet", None)
    if status.heat is not Heat.HOT or status.held:
        return Outlook(status.heat, status.reason, status.detail, to_hot_s)
    found = {why for _, why in choice.rejected}
    if Rejection.TOO_SHORT in found:
        return Outlook(Heat.WARM, Reason.HANDOVER, "another instance takes over from one that ends too soon", None)
    if found & {Rejection.LOST, Rejection.SUSPECT, Rejection.TRIED, Rejection.FAILED_IT}:
        return Outlook(Heat.WARM, Reason.UNREACHABLE, "its instance does not answer", None)
    if found & {Rejection.DRAINING, Rejection.ENDED}:
        return Outlook(Heat.COLD, Reason.DRAINING, "its last instance is going", None)
    return Outlook(Heat.COLD, Reason.DEMAND, "no instance that fits this request is up", None)
