# SPDX-License-Identifier: Apache-2.0
"""One thing that is wrong with a configuration: where it stands, what it is, what was expected instead."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A mistake, or a warning about something that loads but was probably not meant.

    `source` is the file's name (or the environment variable or option that was read); `line` and `column` count from 1,
    0 means the source as a whole. `path` is the dotted path of the key. `expected` completes "expected …"; `hint` is a
    sentence of its own, often "did you mean …". None has a full stop at the end.
    """

    source: str
    problem: str
    line: int = 0
    column: int = 0
    path: str = ""
    expected: str = ""
    hint: str = ""
    warning: bool = False

    @property
    def sentence(self) -> str:
        """Say what is wrong, what was expected and what may have been meant, without the place."""
        expected = f"expected {self.expected}" if self.expected else ""
        return "; ".join(part for part in (self.problem, expected, self.hint) if part)

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}:{self.column}" if self.line else self.source
        parts = [place, *(["warning"] if self.warning else []), *([self.path] if self.path else []), self.sentence]
        return ": ".join(parts)
