# SPDX-License-Identifier: Apache-2.0
"""`first doctor`: checks a cluster end to end before any user meets it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from firstkit.adapters.clients.target import Asked
from firstkit.apps.cli.connecting import connected, controller_acts, operate, state_folder
from firstkit.apps.cli.durations import Duration
from firstkit.apps.cli.printing import json_option, print_json
from firstkit.core.errors import FirstError, SiteError
from firstkit.core.units import format_duration

if TYPE_CHECKING:
    from firstkit.apps.cli.checks import Check


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
@click.option(
    "--deployment",
    default=None,
    metavar="NAME",
    help="Whose resources and setup lines the test job has.  [default: the cluster's first]",
)
@click.option(
    "--wait",
    "wait_s",
    type=Duration(),
    default="5m",
    show_default=True,
    help="How long the test job may wait for its start.",
)
@json_option
def doctor_command(
    *,
    cluster: str | None,
    asked: Asked,
    config: Path | None,
    no_job: bool,
    deployment: str | None,
    wait_s: float,
    as_json: bool,
) -> None:
    r"""Check the service and a cluster (or all), step by step: what fails is named, and what to do about it.

    From the login over the scheduler's commands, the run directory and the scheduler's opinion of each deployment to a
    short test job: launcher, GPUs, engines, sockets and the link from here. The job carries a tag of its own, is
    cancelled (by Ctrl-C, too), and must be gone afterwards. Neither store nor controller is needed. Needs the server
    packages.

    \b
    first doctor
    first doctor sophia --config first.yaml --no-job
    first doctor sophia --deployment llama-70b-sophia --wait 30m
    """
    from firstkit.apps.cli.examining import Wish, examine

    data = state_folder(asked)
    found: list[tuple[Check, float]] = []
    last = time.monotonic()

    def tell(check: Check) -> None:
        nonlocal last
        now = time.monotonic()
        took_s, last = now - last, now
        found.append((check, took_s))
        if not as_json:
            _print(check, took_s)

    for check in _service(asked):
        tell(check)
    examine(
        config or data / "first.yaml",
        data=data,
        wish=Wish(cluster=cluster, with_job=not no_job, deployment=deployment, wait_s=wait_s),
        tell=tell,
        remark=lambda text: click.echo(f"      … {text}", err=True),
    )
    failed = sum(1 for check, _ in found if check.state == "fail")
    if as_json:
        print_json(
            [
                {"check": item.name, "state": item.state, "detail": item.detail, "took_s": round(took_s, 3)}
                for item, took_s in found
            ]
        )
    if failed:
        raise SiteError(f"{failed} of {len(found)} checks failed; mend what is said above and run it again")
    if not as_json:
        click.echo(f"All {len(found)} checks passed.")


def _print(check: Check, took_s: float) -> None:
    colours = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "bright_black"}
    mark = click.style(f"{check.state:<4}", fg=colours[check.state]) if sys.stdout.isatty() else f"{check.state:<4}"
    took = f" ({format_duration(took_s)})" if took_s >= 1 else ""
    click.echo(f"{mark}  {check.name}: {check.detail}{took}")


def _service(asked: Asked) -> list[Check]:
    """Ask the service how its parts are; that it does not run is no failure before the first start."""
    from firstkit.apps.cli.checks import Check

    try:
        with operate(asked) as client:
            health = client.get("/api/v1/health")
    except FirstError as error:
        return [Check(name="service", state="skip", detail=error.message)]
    silent = health["controller_silent_s"]
    alive = controller_acts(health)
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
