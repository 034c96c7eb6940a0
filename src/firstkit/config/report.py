# SPDX-License-Identifier: Apache-2.0
"""Collects what is wrong with one document, each finding with its place."""

from __future__ import annotations

from collections.abc import Iterable

from firstkit.config.document import MapNode, Node, Path, format_path, node_at, place_of
from firstkit.core.findings import Finding
from firstkit.core.nearest import nearest, or_list


class Report:
    """The findings about one tree; a path is looked up in it to say where."""

    def __init__(self, root: MapNode, *, source: str, findings: Iterable[Finding] = ()) -> None:
        self.root = root
        self._source = source
        self._found: list[Finding] = list(findings)

    def add(
        self,
        path: Path,
        problem: str,
        *,
        expected: str = "",
        hint: str = "",
        key: bool = False,
        warning: bool = False,
    ) -> None:
        """Note a mistake at a path; `key` means the key itself and not its value."""
        place = place_of(self.root, path, key=key)
        self._found.append(
            Finding(
                source=place.source or self._source,
                line=0 if place.source else place.line,
                column=0 if place.source else place.column,
                path=format_path(path),
                problem=problem,
                expected=expected,
                hint=hint,
                warning=warning,
            ),
        )

    def warn(self, path: Path, problem: str, *, hint: str = "") -> None:
        """Note something that loads, but was probably not meant."""
        self.add(path, problem, hint=hint, warning=True)

    def has(self, path: Path) -> bool:
        """Tell whether a mistake at exactly this path is known already."""
        text = format_path(path)
        return any(finding.path == text and not finding.warning for finding in self._found)

    def node(self, path: Path) -> Node | None:
        """Find what was written at a path."""
        return node_at(self.root, path)

    @property
    def mistakes(self) -> tuple[Finding, ...]:
        """All mistakes in the order of the file, each once."""
        return ordered(finding for finding in self._found if not finding.warning)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """All warnings in the order of the file, each once."""
        return ordered(finding for finding in self._found if finding.warning)


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sort findings as the file runs, each once."""
    return tuple(sorted(dict.fromkeys(findings), key=lambda found: (found.line, found.column, found.path)))


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Ask "did you mean `a` or `b`?", or nothing when no name is near."""
    found = nearest(word, names)
    return f"did you mean {or_list(f'`{name}`' for name in found)}?" if found else ""
