# SPDX-License-Identifier: Apache-2.0
"""What changes between two sets of process settings, and which processes must be started anew for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from firstkit.config.keys import Key, all_keys
from firstkit.config.process_sections import ALL
from firstkit.core.settings import Settings

PROCESS_SECTIONS = ("gateway", "store", "identity", "controller")


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingChange:
    """One process setting with another value.

    `restart` names the processes that go on with the old one until they are started anew.
    """

    key: str
    before: str
    after: str
    restart: tuple[str, ...] = ()

    def __str__(self) -> str:
        effect = (
            f"takes effect when {_and(self.restart)} {_is(self.restart)} started anew" if self.restart else "at once"
        )
        return f"{self.key}: {self.before} → {self.after} ({effect})"


def settings_changes(old: Settings, new: Settings) -> tuple[SettingChange, ...]:
    """Compare the settings that a process runs with and those of a file that was read anew."""
    found: list[SettingChange] = []
    if old.data_dir != new.data_dir:
        found.append(SettingChange(key="data", before=old.data_dir, after=new.data_dir, restart=ALL))
    for key in all_keys():
        if key.path[0] not in PROCESS_SECTIONS or key.section is not None or key.name == "admin_public":
            continue
        before, after = _value(old, key), _value(new, key)
        if before != after:
            # Certificates are read anew while it runs; whether there is TLS at all is settled at the start.
            switched = key.path[:2] == ("gateway", "tls") and (before is None or after is None)
            restart = ("gateway",) if switched else key.restart
            found.append(
                SettingChange(key=key.dotted, before=_write(key, before), after=_write(key, after), restart=restart),
            )
    return tuple(found)


def restarts(changes: Iterable[SettingChange]) -> tuple[str, ...]:
    """Name the processes that must be started anew for all of these changes."""
    wanted = {process for change in changes for process in change.restart}
    return tuple(process for process in ALL if process in wanted)


def _value(settings: Settings, key: Key) -> Any:
    holder: Any = settings
    steps = ("api_keys",) if key.path == ("identity", "api_keys") else key.path
    for step in steps:
        if holder is None:
            return None
        holder = getattr(holder, step) if hasattr(holder, step) else getattr(holder, f"{step}_s")
    return list(cast("tuple[Any, ...]", holder)) if isinstance(holder, tuple) else holder


def _write(key: Key, value: Any) -> str:
    return "none" if value is None else key.write(value) or '""'


def _and(words: tuple[str, ...]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def _is(words: tuple[str, ...]) -> str:
    return "are" if len(words) > 1 else "is"
