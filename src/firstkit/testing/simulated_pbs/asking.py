# SPDX-License-Identifier: Apache-2.0
"""What a job of the simulated PBS may ask for, and how it is refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

COUNTED = ("ncpus", "ngpus")
KNOWN_RESOURCES = frozenset(
    (*COUNTED, "accelerator_model", "arch", "cput", "host", "mem", "mpiprocs", "nodect", "nodes", "ompthreads", "place")
) | {"select", "vmem", "vnode", "walltime"}

UNKNOWN_JOB, BAD_VALUE, UNKNOWN_QUEUE, NOT_ENABLED = 15001, 15014, 15018, 15021
UNKNOWN_RESOURCE, OVER_LIMITS, NOT_YOURS, BAD_STATE = 15035, 15036, 15007, 15016
NO_MOM, FINISHED, NO_HISTORY, TOO_MANY = 15070, 15139, 15140, 15142


class Refusal(Exception):
    """A request that is refused: PBS's error number and its text."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number
        self.text = text


def read_resources(asked: Mapping[str, str], *, of_the_site: Collection[str]) -> dict[str, Any]:
    """Read what is asked for; the countable resources of all chunks are summed up."""
    chunks = asked.get("select", "1:ncpus=1").split("+")
    totals: dict[str, Any] = {"ncpus": 0}
    count = 0
    for chunk in chunks:
        head, *parts = chunk.split(":")
        number = int(head) if head.isdigit() else 1
        count += number
        given = {name: value for name, _, value in (part.partition("=") for part in parts)}
        for name, value in given.items():
            _check_known(name, of_the_site)
            if name in COUNTED:
                totals[name] = totals.get(name, 0) + number * _count(value, f"Resource_List.{name}")
            elif name == "mem":
                totals[name] = value
        if "ncpus" not in given:
            totals["ncpus"] += number
    totals |= {"nodect": count, "place": asked.get("place", "free"), "select": "+".join(chunks)}
    for name, value in asked.items():
        _check_known(name, of_the_site)
        if name == "walltime":
            totals[name] = clock(seconds(value))
        elif name not in {"select", "place"}:
            totals[name] = value
    return totals


def _check_known(name: str, of_the_site: Collection[str]) -> None:
    if name not in KNOWN_RESOURCES and name not in of_the_site:
        raise Refusal(UNKNOWN_RESOURCE, f"Unknown resource: {name}")


def _count(value: str, what: str) -> int:
    if not value.isdigit():
        raise Refusal(BAD_VALUE, f"Illegal attribute or resource value {what}")
    return int(value)


def seconds(value: str) -> float:
    """Read a duration: HH:MM:SS, MM:SS, or seconds."""
    parts = str(value).split(":")
    if len(parts) > 3 or not all(part.isdigit() for part in parts):
        raise Refusal(BAD_VALUE, "Illegal attribute or resource value Resource_List.walltime")
    total = 0
    for part in parts:
        total = total * 60 + int(part)
    return float(total)


def clock(seconds: float) -> str:
    """Write a duration as PBS does."""
    whole = int(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"
