# SPDX-License-Identifier: Apache-2.0
"""Documents as the api checks them before it applies one: by `config`, with the engines that are installed here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstkit.apps.api.parts import Checked
from firstkit.config.changes import settings_changes
from firstkit.config.loading import Loaded, load
from firstkit.core.catalog import Catalog
from firstkit.core.findings import Finding
from firstkit.ports.engine import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedFile:
    """A loaded file; implements `Checked`."""

    loaded: Loaded

    @property
    def document(self) -> str:
        return self.loaded.document

    @property
    def catalog(self) -> Catalog:
        return self.loaded.catalog

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return self.loaded.warnings

    def settings_against(self, old: Any) -> list[str]:
        """Say which process settings differ, and which processes must be started anew for it."""
        return [str(change) for change in settings_changes(old.loaded.settings, self.loaded.settings)]


def checker(*, data_dir: Path, engines: Mapping[str, Engine]) -> Callable[[str, str], Checked]:
    """Make the function that reads a document under a name; ConfigError lists all of its mistakes."""

    def check(document: str, name: str) -> Checked:
        return CheckedFile(loaded=load(document, data_dir=data_dir, engines=engines, name=name))

    return check
