# SPDX-License-Identifier: Apache-2.0
"""What one look of the doctor's found, and how results of commands are said in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from firstkit.ports.runner import Done, Result

State = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What one look found, and the remedy in it if it is wrong; `skip` was not looked at, and says why."""

    name: str
    state: State
    detail: str


Tell = Callable[[Check], None]


def said(result: Result) -> str:
    """Say how a command ended, in its own last words."""
    if isinstance(result, Done):
        words = (result.err or result.out).decode(errors="replace").strip()
        return words.splitlines()[-1] if words else f"exit code {result.code}"
    return result.detail
