# SPDX-License-Identifier: Apache-2.0
"""Which nodes of a cluster are left out for a while, since engines find them unfit while others are not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from firstkit.core.instance.record import Instance
from firstkit.core.job.record import Job
from firstkit.core.reasons import Reason

UNFIT_TO_EXCLUDE = 2
EXCLUDED_S = 4 * 3600.0
REMEMBERED_S = 12 * 3600.0
"""What a node was like so long ago says nothing any more."""
SHARE = 4
"""At most every fourth of the nodes that our jobs have been on lately is left out, but always one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """A node that new jobs are kept off, until when (the store's clock), and what it was found unfit for."""

    node: str
    until: float
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    """What one instance found its node to be."""

    at: float
    node: str
    fit: bool
    detail: str = ""


def exclusions(
    jobs: Iterable[Job], instances: Iterable[Instance], *, cluster: str, cleared_at: float | None, now: float
) -> tuple[Exclusion, ...]:
    """Judge the nodes of a cluster by what instances found there, in the order in which they did.

    A node is left out after two instances in a row found it unfit, unless another node that is not left out was found
    unfit as well: then the fault is rather in what is asked for. An engine that becomes ready on a node clears it, and
    so does time, or an operator (`cleared_at`). It follows from records
    alone, so that whoever reads them agrees. Of a job on several nodes nobody knows which it was.
    """
    nodes = {job.id: job.nodes[0] for job in jobs if job.cluster == cluster and len(job.nodes) == 1}
    since = max(now - REMEMBERED_S, cleared_at if cleared_at is not None else float("-inf"))
    found = sorted(
        (one for item in instances for one in _findings(item, nodes.get(item.job or "", "")) if one.at > since),
        key=lambda one: one.at,
    )
    bound = max(1, len({one.node for one in found}) // SHARE)
    unfit: dict[str, int] = {}
    out: dict[str, Exclusion] = {}
    for one in found:
        out = {node: exclusion for node, exclusion in out.items() if exclusion.until > one.at}
        if one.fit:
            unfit.pop(one.node, None)
            out.pop(one.node, None)
            continue
        unfit[one.node] = unfit.get(one.node, 0) + 1
        elsewhere = any(node != one.node and node not in out for node in unfit)
        room = one.node in out or len(out) < bound
        if unfit[one.node] >= UNFIT_TO_EXCLUDE and room and not elsewhere:
            out[one.node] = Exclusion(node=one.node, until=one.at + EXCLUDED_S, detail=one.detail)
    return tuple(exclusion for exclusion in out.values() if exclusion.until > now)


def _findings(item: Instance, node: str) -> list[_Finding]:
    """Say what an instance found; nothing if it is not known where it was, or it ended for another reason."""
    if not node:
        return []
    if item.ready_at is not None:
        return [_Finding(at=item.ready_at, node=node, fit=True)]
    if item.reason is Reason.NODE_UNFIT and item.ended_at is not None:
        return [_Finding(at=item.ended_at, node=node, fit=False, detail=item.detail)]
    return []
