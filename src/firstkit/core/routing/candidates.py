# SPDX-License-Identifier: Apache-2.0
"""Which instances may take a request: each is eligible, or rejected with a reason."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import NamedTuple, Protocol

from firstkit.core.health.liveness import SOUND, Health
from firstkit.core.instance.record import Contact
from firstkit.core.limits.concurrency import batch_cap
from firstkit.core.request import RequestClass
from firstkit.core.routing.pace import Pace
from firstkit.core.topology import Route

NEVER = float("inf")
"""The end of a route that has none."""

NONE: frozenset[str] = frozenset()


class Want(Protocol):
    """What routing must know of a request; `RequestFacts` and `Lane` both are one."""

    @property
    def path(self) -> str: ...
    @property
    def cluster(self) -> str | None: ...
    @property
    def request_class(self) -> RequestClass: ...
    @property
    def max_tokens(self) -> int | None: ...


class Lane(NamedTuple):
    """All requests for a model that the same instances may take; `max_tokens` is rounded up (`pace.class_of`)."""

    path: str
    cluster: str | None
    request_class: RequestClass
    max_tokens: int | None = None


class Standing(Protocol):
    """How one route stands at this gateway. `ends_at` is on the caller's monotonic clock, NEVER for no end.

    Before `carefree_until` the end is so far away that every request can finish; `pace` bounds how long one takes.

    `trials` counts the requests in flight that were sent there since it failed (0 for a sound one).
    """

    @property
    def route(self) -> Route: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def ends_at(self) -> float: ...
    @property
    def carefree_until(self) -> float: ...
    @property
    def pace(self) -> Pace: ...
    @property
    def health(self) -> Health: ...
    @property
    def trials(self) -> int: ...


class Rejection(StrEnum):
    """Why an instance does not take a request, in the words of the decision. Order: the first that applies is told."""

    OTHER_CLUSTER = "at another cluster"
    OTHER_ENDPOINT = "does not serve this endpoint"
    DRAINING = "draining"
    ENDED = "past its end"
    LOST = "lost"
    FAILED_IT = "already failed this request"
    SUSPECT = "suspect"
    TRIED = "being tried after a failure"
    TOO_SHORT = "ends before this request could"
    FULL = "full"
    RESERVED = "kept free for interactive requests"


BUSY = frozenset({Rejection.FULL, Rejection.RESERVED})
"""Rejections of a sound instance: it takes the request as soon as others have ended."""


def rejection(
    standing: Standing,
    want: Want,
    *,
    now: float,
    failed: Collection[str] = NONE,
    reserve: float = 0.0,
) -> Rejection | None:
    """Say why this instance may not take the request now; None when it may.

    `failed` holds the instances that this request was already sent to in vain; `reserve` is the share of each cap that
    batch requests leave free.
    """
    route = standing.route
    if want.cluster is not None and want.cluster != route.cluster:
        return Rejection.OTHER_CLUSTER
    if route.paths and want.path not in route.paths:
        return Rejection.OTHER_ENDPOINT
    if route.draining:
        return Rejection.DRAINING
    if standing.ends_at <= now:
        return Rejection.ENDED
    if standing.health is not SOUND:
        why = _unsound(standing, now=now, failed_it=route.instance in failed)
        if why is not None:
            return why
    elif failed and route.instance in failed:
        return Rejection.FAILED_IT
    if now >= standing.carefree_until and now + standing.pace.bound_s(want.max_tokens) > standing.ends_at:
        return Rejection.TOO_SHORT
    if standing.in_flight < route.cap and want.request_class is RequestClass.INTERACTIVE:
        return None
    return crowded(standing, want, reserve=reserve)


def _unsound(standing: Standing, *, now: float, failed_it: bool) -> Rejection | None:
    """Judge an instance that failed: left alone for a while, then tried by one request that has not been there yet."""
    health = standing.health
    judged = now < health.until
    if health.contact is Contact.LOST and (judged or failed_it):
        return Rejection.LOST
    if failed_it:
        return Rejection.FAILED_IT
    if judged:
        return Rejection.SUSPECT
    return Rejection.TRIED if standing.trials else None


def crowded(standing: Standing, want: Want, *, reserve: float) -> Rejection | None:
    """Say whether the instance has no place left for this class of request."""
    if standing.in_flight >= standing.route.cap:
        return Rejection.FULL
    if want.request_class is RequestClass.BATCH and standing.in_flight >= batch_cap(standing.route.cap, reserve):
        return Rejection.RESERVED
    return None
