# SPDX-License-Identifier: Apache-2.0
"""What a scheduler has against a command, in its own words."""

from __future__ import annotations

from collections.abc import Sequence

from firstkit.ports.runner import Done, Result


def objection(results: Sequence[Result], *, harmless: Sequence[str] = ()) -> str:
    """Say why commands failed, "" where none did; lines that hold one of the `harmless` texts are no failure."""
    said: list[str] = []
    for result in results:
        if not isinstance(result, Done):
            said.append(result.detail)
        elif result.code != 0:
            lines = [line.strip() for line in result.err.decode("utf-8", "replace").splitlines() if line.strip()]
            said += [line for line in lines if not any(text in line.lower() for text in harmless)]
            if not lines:
                said.append(f"exit code {result.code}")
    return "; ".join(said)[-300:]
