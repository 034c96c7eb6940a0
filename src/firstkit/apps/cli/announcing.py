# SPDX-License-Identifier: Apache-2.0
"""`first maintenance`: what an operator announces, so that jobs end in time and users know."""

from __future__ import annotations

from urllib.parse import quote

import click

from firstkit.adapters.clients.target import Asked
from firstkit.apps.cli.connecting import connected, operate
from firstkit.apps.cli.deploying import override_words
from firstkit.apps.cli.durations import Duration
from firstkit.apps.cli.printing import json_option, print_json
from firstkit.core.errors import FirstError, SiteError


@click.command("maintenance")
@click.argument("cluster")
@click.option("--in", "in_s", type=Duration(), default=None, help="When it begins, from now, as 3h.")
@click.option("--for", "for_s", type=Duration(), default=None, help="How long it takes, as 8h.")
@click.option("--note", default="", help="What users are told of it.")
@click.option("--undo", is_flag=True, help="Take it back.")
@connected
@json_option
def maintenance_command(
    *, cluster: str, in_s: float | None, for_s: float | None, note: str, undo: bool, asked: Asked, as_json: bool
) -> None:
    r"""Announce a time in which no job of ours may run on a cluster.

    Jobs that are submitted before are made short enough to end in time, those that run are drained in time, users are
    told in `first models`, and afterwards everything starts again by itself. Reservations for maintenance are read from
    the scheduler where it has them: this is for all else.

    \b
    first maintenance sophia --in 26h --for 8h --note "new racks"
    first maintenance sophia --undo
    """
    path = f"/api/v1/overrides/maintenance/{quote(cluster, safe='')}"
    if undo:
        with operate(asked) as client:
            try:
                client.send("DELETE", path)
            except FirstError as error:
                if error.code != "override_not_found":
                    raise
                text = f"no maintenance of {cluster} has been announced here; reservations are the site's"
                raise SiteError(text) from error
        if as_json:
            print_json({"cluster": cluster, "maintenance": None})
        else:
            click.echo(f"The maintenance of {cluster} is taken back.")
        return
    if in_s is None or for_s is None:
        raise click.UsageError("say when with --in and how long with --for, as --in 26h --for 8h, or --undo")
    value = {"starts_in_s": round(in_s), "lasts_s": max(1, round(for_s))}
    with operate(asked) as client:
        row = client.send("PUT", path, json={"value": value, "note": note})
    if as_json:
        print_json(row)
    else:
        click.echo(f"Announced: {override_words(row)}.")
