# SPDX-License-Identifier: Apache-2.0
"""Demand as all gateways together see it, folded per deployment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from firstkit.core.catalog import Deployment


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDemand:
    """What one gateway sees of one model. `wanted_ago_s` None: nobody has asked since that gateway started."""

    model: str
    waiting: int
    oldest_wait_s: float | None
    in_flight: Mapping[str, int]
    wanted_ago_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """Demand for one deployment. `waiting` is its part of the model's queue."""

    waiting: int = 0
    oldest_wait_s: float = 0.0
    in_flight: int = 0
    wanted_ago_s: float | None = None


def fold(
    demands: Iterable[ModelDemand], *, deployments: Sequence[Deployment], deployment_of: Mapping[str, str]
) -> dict[str, Signals]:
    """Fold all gateways' demand into signals per deployment.

    In-flight requests belong to the instance's deployment (`deployment_of`: instance → deployment). What waits for a
    model
    is shown to each of its deployments: the caller hands it to the first that may start.
    """
    waiting: dict[str, int] = {}
    oldest: dict[str, float] = {}
    wanted: dict[str, float] = {}
    in_flight: dict[str, int] = {}
    for demand in demands:
        waiting[demand.model] = waiting.get(demand.model, 0) + demand.waiting
        oldest[demand.model] = max(oldest.get(demand.model, 0.0), demand.oldest_wait_s or 0.0)
        if demand.wanted_ago_s is not None:
            wanted[demand.model] = min(wanted.get(demand.model, demand.wanted_ago_s), demand.wanted_ago_s)
        for instance, count in demand.in_flight.items():
            name = deployment_of.get(instance)
            if name is not None:
                in_flight[name] = in_flight.get(name, 0) + count
    return {
        item.name: Signals(
            waiting=waiting.get(item.model, 0),
            oldest_wait_s=oldest.get(item.model, 0.0),
            in_flight=in_flight.get(item.name, 0),
            wanted_ago_s=wanted.get(item.model),
        )
        for item in deployments
    }
