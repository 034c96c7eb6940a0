# SPDX-License-Identifier: Apache-2.0
"""`first stop` and `first resume`: the big switch of a cluster, which works without the store too."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from firstkit.adapters.clients.target import Asked
from firstkit.apps.cli.connecting import connected, controller_acts, operate, state_folder
from firstkit.apps.cli.durations import Duration
from firstkit.apps.cli.printing import json_option, print_json
from firstkit.core.errors import FirstError, SiteError, Unavailable


@click.command("stop")
@click.argument("cluster")
@connected
@click.option("--for", "for_s", type=Duration(), default=None, help="Until then, as 2h.  [default: until resumed]")
@click.option("--note", default="", help="Why, for whoever looks later.")
@click.option("--direct", is_flag=True, help="Ask no service: cancel at the scheduler, from this machine.")
@click.option(
    "--config",
    envvar="FIRST_CONFIG",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="The configuration file, for --direct.  [default: first.yaml in the state folder]",
)
@click.option(
    "--installation",
    default=None,
    metavar="ID",
    help="Whose jobs, for --direct.  [default: what the store says, else the state folder]",
)
@json_option
def stop_command(
    *,
    cluster: str,
    asked: Asked,
    for_s: float | None,
    note: str,
    direct: bool,
    config: Path | None,
    installation: str | None,
    as_json: bool,
) -> None:
    r"""Cancel every job of ours on a cluster, and submit no more until `first resume`.

    When the service does not answer, or no controller is alive, the jobs are cancelled at the scheduler from here, by
    the tag that they carry; jobs of other installations are left alone.

    \b
    first stop sophia --note "maintenance" --for 8h
    first stop sophia --direct --config first.yaml
    """
    told = False
    if not direct:
        try:
            with operate(asked) as client:
                body = {"for_s": for_s, "note": note}
                row = client.send("PUT", f"/api/v1/overrides/stop/{quote(cluster, safe='')}", json=body)
                told = True
                acts = controller_acts(client.get("/api/v1/health"))
        except (SiteError, Unavailable) as error:
            click.echo(f"first: {error.message}; cancelling at the scheduler instead", err=True)
        else:
            if acts:
                _say_stopped(cluster, row, as_json=as_json)
                return
            click.echo("first: no controller is alive to cancel them; cancelling at the scheduler instead", err=True)
    _cancel_directly(cluster, asked, config, installation, as_json=as_json)
    if not told:
        click.echo(
            f"first: the store was not told, so a controller may submit again; run `first stop {cluster}` once the "
            "service answers",
            err=True,
        )


def _say_stopped(cluster: str, row: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(row)
        return
    click.echo(
        f"{cluster} is stopped: its jobs are being cancelled, and none is submitted until `first resume {cluster}`."
    )


def _cancel_directly(
    cluster: str, asked: Asked, config: Path | None, installation: str | None, *, as_json: bool
) -> None:
    from firstkit.apps.cli.cancelling import cancel_all

    data = state_folder(asked)
    cancelled = cancel_all(cluster, config=config or data / "first.yaml", data=data, installation=installation)
    if as_json:
        print_json({"cluster": cluster, "cancelled": cancelled})
    else:
        click.echo(
            f"{len(cancelled)} jobs were cancelled at {cluster}" + (f": {', '.join(cancelled)}" if cancelled else "")
        )


@click.command("resume")
@click.argument("cluster")
@connected
@json_option
def resume_command(*, cluster: str, asked: Asked, as_json: bool) -> None:
    r"""Submit jobs on a cluster again.

    \b
    first resume sophia
    """
    with operate(asked) as client:
        try:
            client.send("DELETE", f"/api/v1/overrides/stop/{quote(cluster, safe='')}")
        except FirstError as error:
            if error.code != "override_not_found":
                raise
            raise SiteError(f"{cluster} is not stopped; `first clusters` shows what is") from error
    if as_json:
        print_json({"cluster": cluster, "stopped": False})
    else:
        click.echo(f"{cluster} takes jobs again.")
