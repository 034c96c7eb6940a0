# SPDX-License-Identifier: Apache-2.0
"""The command `first`; `main` is its entry point. Nothing is imported before it is needed: help comes at once."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line of this process and exit: 0 for success, 2 for misuse, 1 otherwise."""
    from firstkit.apps.cli.entry import run

    sys.exit(run(sys.argv[1:]))
