# SPDX-License-Identifier: Apache-2.0
"""Read what `qstat -f -F json` prints, also where one user's job makes the whole of it invalid JSON."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, cast

_JOB = re.compile(r'^[ \t]+"(\d+(?:\[\d*\])?\.[^"\s]+)"\s*:\s*\{', re.MULTILINE)
_NAME = re.compile(r'"Job_Name"\s*:\s*"([^"]*)"')
_OWNER = re.compile(r'"Job_Owner"\s*:\s*"([^"]*)"')
_TIMESTAMP = re.compile(r'"timestamp"\s*:\s*(\d+)')

Attributes = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Jobs by id. `whole`: nothing was cut off. `timestamp` is when it was made, on the clock of the cluster."""

    whole: bool
    timestamp: float | None
    jobs: dict[str, Attributes]


def read_listing(data: bytes) -> Listing:
    """Read a listing.

    Variables of other users' jobs can make a listing invalid (numbers with noughts in front, unescaped characters); a
    job that cannot be read by itself keeps its name and owner alone. Indentation tells a whole listing from one that
    was cut off: only the very last brace stands at the edge.
    """
    text = data.decode("utf-8", "replace").strip()
    try:
        document = json.loads(text, strict=False)
    except ValueError:
        return _piecewise(text)
    found = mapping(document)
    if "timestamp" not in found:
        return Listing(whole=False, timestamp=None, jobs={})
    jobs = {name: mapping(job) for name, job in mapping(found.get("Jobs")).items()}
    return Listing(whole=True, timestamp=number(found["timestamp"]), jobs=jobs)


def mapping(value: Any) -> dict[str, Any]:
    """Take a mapping as such; an empty one for what is none."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _piecewise(text: str) -> Listing:
    """Read job by job."""
    jobs: dict[str, Attributes] = {}
    whole = text.startswith("{") and text.endswith("\n}")
    starts = list(_JOB.finditer(text))
    for index, start in enumerate(starts):
        end = starts[index + 1].start() if index + 1 < len(starts) else len(text)
        piece = text[start.end() - 1 : end]
        try:
            item, _ = json.JSONDecoder(strict=False).raw_decode(piece)
        except ValueError:
            if whole:  # one that was cut off may not even be a job
                jobs[start.group(1)] = _named(piece)
            continue
        jobs[start.group(1)] = item
    made = _TIMESTAMP.search(text)
    return Listing(whole=whole, timestamp=float(made.group(1)) if made else None, jobs=jobs)


def _named(piece: str) -> Attributes:
    found = {"Job_Name": _NAME.search(piece), "Job_Owner": _OWNER.search(piece)}
    return {key: match.group(1) for key, match in found.items() if match is not None}


def number(value: Any) -> float | None:
    """Take a number as such; None for what is none, or none that PBS would write."""
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if plain and abs(value) < 1e15 else None
