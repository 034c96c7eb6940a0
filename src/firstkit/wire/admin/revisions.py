# SPDX-License-Identifier: Apache-2.0
"""Revisions of the catalog, what is wrong or different in one, and the overrides beside it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from firstkit.core.catalog_diff import Change, sentence
from firstkit.core.findings import Finding
from firstkit.ports.store import Override, Revision
from firstkit.wire.admin.shape import Sent, Shape, moment


class FindingView(Shape):
    """One thing that is wrong with a configuration."""

    source: str
    line: int
    column: int
    path: str
    problem: str
    expected: str
    hint: str
    warning: bool
    text: str

    @staticmethod
    def of(finding: Finding) -> FindingView:
        return FindingView(
            source=finding.source,
            line=finding.line,
            column=finding.column,
            path=finding.path,
            problem=finding.problem,
            expected=finding.expected,
            hint=finding.hint,
            warning=finding.warning,
            text=str(finding),
        )


class RevisionView(Shape):
    """One applied catalog."""

    number: int
    digest: str
    applied_at: datetime | None
    applied_by: str
    document: str | None = None

    @staticmethod
    def of(revision: Revision, *, whole: bool) -> RevisionView:
        return RevisionView(
            number=revision.number,
            digest=revision.digest,
            applied_at=moment(revision.applied_at),
            applied_by=revision.applied_by,
            document=revision.document if whole else None,
        )


class ChangeView(Shape):
    """One difference between two catalogs, and whether running instances are replaced for it."""

    kind: str
    name: str
    change: str
    replaces: bool
    text: str

    @staticmethod
    def of(change: Change) -> ChangeView:
        return ChangeView(
            kind=change.kind,
            name=change.name,
            change=change.what,
            replaces=change.replaces,
            text=sentence(change),
        )


class OverrideView(Shape):
    """An operator's temporary change."""

    kind: str
    subject: str
    value: dict[str, int]
    by: str
    at: datetime | None
    until: datetime | None
    note: str

    @staticmethod
    def of(override: Override) -> OverrideView:
        return OverrideView(
            kind=override.kind,
            subject=override.subject,
            value=override.value,
            by=override.by,
            at=moment(override.at),
            until=moment(override.until),
            note=override.note,
        )


class Applied(Shape):
    """What an apply did. `changed` False: that very document is the current one.

    `settings` are process settings that differ; they are each process's own to read (SIGHUP, or a start anew).
    """

    revision: RevisionView
    changed: bool
    changes: list[ChangeView]
    settings: list[str]
    warnings: list[FindingView]


class Difference(Shape):
    """What an apply would do, and the overrides beside the catalog."""

    against: int
    changes: list[ChangeView]
    settings: list[str]
    warnings: list[FindingView]
    overrides: list[OverrideView]


OverrideKey = Literal["min", "max", "starts_in_s", "lasts_s"]


class OverrideWanted(Sent):
    """What an override is to be; `for_s` None: until it is cleared.

    A `scale` has `min` or `max` for its value, a `maintenance` `starts_in_s` and `lasts_s`, the others none.
    """

    value: dict[OverrideKey, int] = Field(default_factory=dict[OverrideKey, int])
    for_s: float | None = Field(default=None, gt=0)
    note: str = Field(default="", max_length=500)
