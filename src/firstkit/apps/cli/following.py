# SPDX-License-Identifier: Apache-2.0
"""Live views: instances with their progress, drawn anew whenever the service says that something has changed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import click

from firstkit.apps.cli.printing import Row, seconds
from firstkit.core.errors import SiteError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from firstkit.adapters.clients.http import Client

BEAT_S = 40.0
"""The service sends something at least every 15 s: silence for so long means that it has gone."""


def watched(client: Client, topic: str) -> Iterator[list[Row]]:
    """Yield a listing at once and whenever it has changed, through restarts of the service."""
    from firstkit.adapters.clients.http import events

    began = time.monotonic()
    while True:
        try:
            with client.stream("GET", "/api/v1/events", idle_s=BEAT_S, params={"watch": topic}) as answer:
                for event, data in events(answer):
                    began = time.monotonic()
                    if event == topic:
                        yield cast("list[Row]", json.loads(data))
        except SiteError:
            if time.monotonic() - began > BEAT_S:
                raise
        time.sleep(1.0)


def follow_instances(client: Client, *, as_json: bool) -> None:
    """Show instances until Ctrl-C: drawn over on a terminal, a line for each change elsewhere."""
    if as_json:
        for rows in watched(client, "instances"):
            click.echo(json.dumps(rows))
    elif sys.stdout.isatty():
        _draw(watched(client, "instances"))
    else:
        for line in changes(watched(client, "instances")):
            click.echo(line)


def changes(listings: Iterator[list[Row]]) -> Iterator[str]:
    """Say each change of an instance's state, progress or reason in a line."""
    said: dict[str, str] = {}
    for rows in listings:
        for row in rows:
            fraction = "" if row["fraction"] is None or row["state"] != "LOADING" else f" {row['fraction']:.0%}"
            text = row["progress"] if row["state"] == "LOADING" and row["progress"] else row["detail"] or row["reason"]
            line = f"{row['id']}  {row['deployment']}  {row['state']}{fraction}  {text}"
            if said.get(row["id"]) != line:
                said[row["id"]] = line
                yield line


def _draw(listings: Iterator[list[Row]]) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    shown: list[tuple[float, Row]] = []
    with Live(console=console, refresh_per_second=4, get_renderable=lambda: _picture(shown)) as live:
        for rows in listings:
            now = time.monotonic()
            shown[:] = [(now, row) for row in rows]
            live.refresh()


def _picture(shown: list[tuple[float, Row]]) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    if not shown:
        return Text("No instance is running; the first request for a model starts one.", style="dim")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("INSTANCE", "DEPLOYMENT", "CLUSTER", "STATE", "", "FOR", "IN FLIGHT", "WHY"):
        table.add_column(title)
    styles = {"READY": "green", "LOADING": "yellow", "DRAINING": "magenta", "ENDED": "dim"}
    for at, row in shown:
        loading = row["state"] == "LOADING"
        bar: Any = ProgressBar(total=1.0, completed=row["fraction"] or 0.0, width=24) if loading else ""
        text = row["progress"] if loading and row["progress"] else row["detail"] or row["reason"]
        table.add_row(
            row["id"],
            row["deployment"],
            row["cluster"],
            Text(row["state"], style=styles.get(row["state"], "cyan")),
            bar,
            seconds(row["for_s"] + time.monotonic() - at),
            str(row["in_flight"]) if row["state"] in {"READY", "DRAINING"} else "",
            text,
        )
    return table
