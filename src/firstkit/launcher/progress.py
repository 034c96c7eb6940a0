# SPDX-License-Identifier: Apache-2.0
"""How far loading has come and why an engine ended, both read from its log lines."""

from __future__ import annotations

import re
from typing import NamedTuple, Optional, Sequence

from .documents import CauseMark, ProgressMark


class Progress(NamedTuple):
    """Loading as users see it."""

    fraction: Optional[float]
    text: str


class ProgressReader:
    """Follows the marks of one engine; the fraction never goes back."""

    def __init__(self, marks: Sequence[ProgressMark]) -> None:
        self._marks = [(re.compile(mark.match), mark) for mark in marks]
        self.now = Progress(None, "starting")

    def line(self, line: str) -> bool:
        """Take one log line; tell whether progress changed. Of several marks that match, the furthest counts."""
        best: Optional[Progress] = None
        for pattern, mark in self._marks:
            found = pattern.search(line)
            if found is None:
                continue
            fraction = mark.start + (mark.end - mark.start) * _percent(found) / 100.0
            if best is None or fraction > (best.fraction or 0.0):
                best = Progress(round(fraction, 3), mark.text or self.now.text)
        if best is None or best.fraction is None or best.fraction < (self.now.fraction or 0.0) or best == self.now:
            return False
        self.now = best
        return True


def _percent(found: "re.Match[str]") -> float:
    """Read the group `percent`; a mark without one stands for its beginning."""
    value = found.groupdict().get("percent")
    try:
        return min(max(float(value), 0.0), 100.0) if value else 0.0
    except ValueError:
        return 0.0


def cause_of(lines: Sequence[str], marks: Sequence[CauseMark]) -> Optional[CauseMark]:
    """Find why an engine ended: the last line that any mark matches decides, the first such mark if several do."""
    patterns = [(re.compile(mark.match), mark) for mark in marks]
    for line in reversed(lines):
        for pattern, mark in patterns:
            if pattern.search(line):
                return mark
    return None
