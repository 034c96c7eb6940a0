# SPDX-License-Identifier: Apache-2.0
"""PBS's reservations: what `pbs_rstat -f` and `pbsnodes` say of times in which nodes are kept from ordinary jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from firstkit.adapters.schedulers.pbs_json import mapping, number
from firstkit.adapters.schedulers.pbs_times import read_moment
from firstkit.ports.scheduler import Window

HOLDING = frozenset({"CONFIRMED", "DEGRADED", "TIME_TO_RUN", "RUNNING", "BEING_ALTERED", "IN_CONFLICT"})
"""States (without RESV_) in which a reservation holds its nodes, now or when its time comes."""
_GONE = ("offline", "down")


def vnodes(text: str) -> dict[str, dict[str, str]]:
    """Read `(a:ncpus=2:mem=1kb)+(b:ncpus=4)`: resources by node; parts of one host (`a[0]`) count as it."""
    found: dict[str, dict[str, str]] = {}
    for part in text.replace("(", "").replace(")", "").split("+"):
        name, *amounts = part.split(":")
        if host := name.strip().partition("[")[0]:
            given = {key: value for key, _, value in (amount.partition("=") for amount in amounts)}
            found[host] = found.get(host, {}) | given
    return found


def read_windows(reservations: str, nodes: bytes, *, asked_at: float) -> tuple[Window, ...] | None:
    """Read the reservations that hold; None when the nodes cannot be read."""
    there = _nodes(nodes)
    if there is None:
        return None
    return tuple(
        window for block in _blocks(reservations) if (window := _window(block, there, asked_at=asked_at)) is not None
    )


def _blocks(text: str) -> Iterator[dict[str, str]]:
    """Split into reservations: `Resv ID: NAME`, then `key = value`."""
    block: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("Resv ID:"):
            if block:
                yield block
            block = {"id": line.partition(":")[2].strip()}
        elif block:
            key, _, value = line.partition(" = ")
            block[key.strip()] = value.strip()
    if block:
        yield block


def _nodes(data: bytes) -> dict[str, int] | None:
    """Read which nodes may run jobs, each with its processors; those that are down or offline may not."""
    try:
        document = mapping(json.loads(data, strict=False))
    except ValueError:
        return None
    if "nodes" not in document:
        return None
    there: dict[str, int] = {}
    for name, node in mapping(document["nodes"]).items():
        if any(word in str(mapping(node).get("state", "")) for word in _GONE):
            continue
        host = name.partition("[")[0]
        there[host] = there.get(host, 0) + int(
            number(mapping(mapping(node).get("resources_available")).get("ncpus")) or 0
        )
    return there


def _window(block: Mapping[str, str], there: Mapping[str, int], *, asked_at: float) -> Window | None:
    """Read one reservation; None for one that holds nothing.

    A maintenance (`M…`) takes its hosts whole, also from jobs that run there. Any other was granted only where nothing
    runs by then, so it concerns jobs that wait, and those only where it takes every node whole.
    """
    starts_at, ends_at = read_moment(block.get("reserve_start")), read_moment(block.get("reserve_end"))
    if block.get("reserve_state", "").removeprefix("RESV_") not in HOLDING or starts_at is None or ends_at is None:
        return None
    maintenance = block["id"].startswith("M")
    reserved = vnodes(block.get("resv_nodes", ""))
    taken = {
        host for host, amounts in reserved.items() if maintenance or amounts.get("ncpus") == str(there.get(host, ""))
    }
    everything = bool(there) and taken >= there.keys()
    return Window(
        name=block.get("queue") or block["id"].partition(".")[0],
        starts_in_s=starts_at - asked_at,
        ends_in_s=ends_at - asked_at,
        nodes=None if everything else frozenset(taken if maintenance else ()),
        jobs=not maintenance,
    )
