# SPDX-License-Identifier: Apache-2.0
"""The installation's id in the state folder, for commands that find no store to ask."""

from __future__ import annotations

import os
from pathlib import Path

INSTALLATION = "installation"


def leave_installation(data: Path, installation: str) -> None:
    """Write which installation this state folder belongs to, mode 0600; replaced whole."""
    temporary = data / f".{INSTALLATION}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(installation + "\n")
    temporary.replace(data / INSTALLATION)


def read_installation(data: Path) -> str | None:
    """Return which installation the state folder belongs to; None when no controller has left word."""
    try:
        return (data / INSTALLATION).read_text().strip() or None
    except (OSError, ValueError):
        return None
