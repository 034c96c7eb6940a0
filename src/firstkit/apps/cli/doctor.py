# SPDX-License-Identifier: Apache-2.0
"""`first doctor`: checks a cluster end to end before any user meets it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from firstkit.adapters.clients.target import Asked
from firstkit.apps.cli.connecting import connected, operate, state_folder
from firstkit.apps.cli.printing import json_option, print_json
from firstkit.core.errors import FirstError, SiteError

if TYPE_CHECKING:
    from firstkit.apps.cli.examining import Check

CONTROLLER_SILENT_S = 15.0


@click.command("doctor")
@click.argument("cluster", required=False)
@connected
@click.option(
    "--config",
    envvar="FIRST_CONFIG",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Configuration file.  [default: first.yaml in the state folder]",
)
@click.option("--no-job", is_flag=True, help="Submit no test job.")
@json_option
def doctor_command(*, cluster: str | None, asked: Asked, config: Path | None, no_job: bool, as_json: bool) -> None:
    r"""Check the service and a cluster (or all): files, folders, disk, scheduler, engines, and a test job.

    The test job sleeps, is cancelled, and must be gone afterwards. Needs the server packages.

    \b
    first doctor
    first doctor sophia --config first.yaml --no-job
    """
    from firstkit.apps.cli.examining import examine

    data = state_folder(asked)
    found: list[Check] = []

    def tell(check: Check) -> None:
        found.append(check)
        if not as_json:
            _print(check)

    for check in _service(asked):
        tell(check)
    examine(config or data / "first.yaml", data=data, cluster=cluster, with_job=not no_job, tell=tell)
    failed = sum(1 for check in found if check.state == "fail")
    if as_json:
        print_json([{"check": item.name, "state": item.state, "detail": item.detail} for item in found])
    if failed:
        raise SiteError(f"{failed} of {len(found)} checks failed; mend what is said above and run it again")
    if not as_json:
        click.echo(f"All {len(found)} checks passed.")


def _print(check: Check) -> None:
    colours = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "bright_black"}
    mark = click.style(f"{check.state:<4}", fg=colours[check.state]) if sys.stdout.isatty() else f"{check.state:<4}"
    click.echo(f"{mark}  {check.name}: {check.detail}")


def _service(asked: Asked) -> list[Check]:
    """Ask the service how its parts are; that it does not run is no failure before the first start."""
    from firstkit.apps.cli.examining import Check

    try:
        with operate(asked) as client:
            health = client.get("/api/v1/health")
    except FirstError as error:
        return [Check(name="service", state="skip", detail=error.message)]
    silent = health["controller_silent_s"]
    alive = silent is not None and silent < CONTROLLER_SILENT_S
    gateways = health["gateways"]
    return [
        Check(name="service", state="ok", detail=f"firstkit {health['version']}, revision {health['revision']}"),
        Check(
            name="store",
            state="ok" if health["store"] == "ok" else "fail",
            detail=health["store_detail"] or "answers",
        ),
        Check(
            name="controller",
            state="ok" if alive else "fail",
            detail="alive" if alive else f"no sign of life for {silent} s; start `first controller` and read its log",
        ),
        Check(
            name="gateways",
            state="ok" if gateways else "warn",
            detail=f"{len(gateways)} alive" if gateways else "none has written of late; start `first gateway`",
        ),
    ]
