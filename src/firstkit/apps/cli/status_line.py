# SPDX-License-Identifier: Apache-2.0
"""One line on stderr that says how far something has come, drawn over on a terminal."""

from __future__ import annotations

import shutil
import sys

import click


class StatusLine:
    """Shows the newest text; elsewhere than on a terminal, a line for each new text."""

    def __init__(self) -> None:
        self._drawn = sys.stderr.isatty()
        self._shown = ""

    def show(self, text: str) -> None:
        """Show a text instead of the one before."""
        if text == self._shown:
            return
        self._shown = text
        if self._drawn:
            width = shutil.get_terminal_size().columns - 1
            click.echo(f"\r\x1b[2K{text[:width]}", err=True, nl=False)
        else:
            click.echo(text, err=True)

    def clear(self) -> None:
        """Take it away."""
        if self._shown and self._drawn:
            click.echo("\r\x1b[2K", err=True, nl=False)
        self._shown = ""
