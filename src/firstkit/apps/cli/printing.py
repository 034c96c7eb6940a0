# SPDX-License-Identifier: Apache-2.0
"""How listings are shown: a table for people, plain columns into a pipe, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from firstkit.core.units import format_duration

if TYPE_CHECKING:
    from rich.table import Table

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

Row = dict[str, Any]
Cell = Callable[[Row], str]

_STYLES = {
    "hot": "green",
    "READY": "green",
    "RUNNING": "green",
    "valid": "green",
    "warm": "yellow",
    "LOADING": "yellow",
    "queued": "cyan",
    "QUEUED": "cyan",
    "SUBMITTING": "cyan",
    "DRAINING": "magenta",
    "ENDING": "magenta",
    "cold": "dim",
    "ENDED": "dim",
    "revoked": "dim",
    "expired": "red",
    "held": "red",
    "stopped": "red",
}


def print_json(document: object) -> None:
    """Print a document for programs."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_rows(rows: Sequence[Row], columns: dict[str, Cell], *, empty: str) -> None:
    """Print a table to a terminal, columns two blanks apart elsewhere; `empty` to stderr when there is nothing."""
    if not rows:
        click.echo(empty, err=True)
        return
    if sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(rich_table(rows, columns))
        return
    lines = [list(columns), *([_flat(cell(row)) for cell in columns.values()] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def rich_table(rows: Sequence[Row], columns: dict[str, Cell]) -> Table:
    """Make the table for a terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in columns:
        table.add_column(title, overflow="fold")
    for row in rows:
        cells = [_flat(cell(row)) for cell in columns.values()]
        table.add_row(*(Text(text, style=_STYLES.get(text.split(" ")[0], "")) for text in cells))
    return table


def _flat(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def seconds(value: float | None, *, unknown: str = "") -> str:
    """Write a duration, or what is said when there is none."""
    return unknown if value is None else format_duration(value)


def day(value: str | None) -> str:
    """Write a moment of the API's short: 2026-11-24 22:10."""
    return "" if not value else value[:16].replace("T", " ")
