# SPDX-License-Identifier: Apache-2.0
"""Slurm's short form for lists of nodes: `a1,b[01-03,7]`, `r[1-2]n[1-4]`."""

from __future__ import annotations

import re
from collections.abc import Iterator

MOST = 100_000
"""No cluster has more nodes; a longer list is not believed."""
_NAME = re.compile(r"((?:[^,\[\]]+|\[[0-9,-]+\])+)(?:,|$)")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def expand(text: str) -> frozenset[str]:
    """Write out the names; none where the text is not understood."""
    names: list[str] = []
    at = 0
    while at < len(text):
        match = _NAME.match(text, at)
        if match is None:
            return frozenset()
        for name in _expanded(re.split(r"\[([0-9,-]+)\]", match[1])):
            names.append(name)
            if len(names) > MOST:
                return frozenset()
        at = match.end()
    return frozenset(names)


def _expanded(parts: list[str]) -> Iterator[str]:
    """Yield all combinations of plain parts (even places) and ranges (odd places)."""
    head, rest = parts[0], parts[1:]
    if not rest:
        yield head
        return
    ranges, tail = rest[0], rest[1:]
    for entry in ranges.split(","):
        match = _RANGE.fullmatch(entry)
        if match is None:
            continue
        for number in range(int(match[1]), int(match[2] or match[1]) + 1):
            for end in _expanded(tail):
                yield f"{head}{number:0{len(match[1])}}{end}"
