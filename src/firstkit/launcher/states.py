# SPDX-License-Identifier: Apache-2.0
"""The states of an instance as the launcher sees them: a table, and a record that only moves along it."""

from __future__ import annotations

from typing import Dict, FrozenSet, Optional

LOADING = "LOADING"
READY = "READY"
DRAINING = "DRAINING"
ENDED = "ENDED"

NEXT: Dict[str, FrozenSet[str]] = {
    LOADING: frozenset({READY, DRAINING, ENDED}),
    READY: frozenset({DRAINING, ENDED}),
    DRAINING: frozenset({ENDED}),
    ENDED: frozenset(),
}

ASKED_FOR = frozenset({"SCALED_IN", "CANCELLED", "WALLTIME", "SUPERSEDED"})
"""Reasons for an end that somebody wanted: the launcher's exit code is 0."""


class Lifecycle:
    """One instance's state, why it is in it and since when; a move that the table does not know changes nothing."""

    def __init__(self, now: float) -> None:
        self.state = LOADING
        self.reason: Optional[str] = None
        self.detail: Optional[str] = None
        self.since = now
        self.load_s: Optional[float] = None
        self._began = now

    def move(self, state: str, now: float, *, reason: Optional[str] = None, detail: Optional[str] = None) -> bool:
        """Go to a state if the table allows it, and tell whether it did."""
        if state not in NEXT[self.state]:
            return False
        if state == READY:
            self.load_s = now - self._began
        self.state, self.reason, self.detail, self.since = state, reason, detail, now
        return True
