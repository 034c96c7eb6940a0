# SPDX-License-Identifier: Apache-2.0
"""`first gate`: what an administrator installs at a login node, so that firstkit's key may do nothing else there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from firstkit.adapters.clients.target import Asked
from firstkit.apps.cli.connecting import connected, state_folder

_CONFIG = click.option(
    "--config",
    envvar="FIRST_CONFIG",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Configuration file.  [default: first.yaml in the state folder]",
)
_INSTALLATION = click.option(
    "--installation", default=None, metavar="ID", help="Whose jobs.  [default: what the store or the state folder says]"
)


@click.group("gate")
def gate_command() -> None:
    """Confine firstkit's key at a login node to firstkit's own jobs."""


@gate_command.command("install")
@click.argument("cluster")
@connected
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder to write gate.py and gate.json to.",
)
@click.option("--at", default=None, help="Where that folder will be at the login node.  [default: the same path]")
@click.option(
    "--approved", default=None, metavar="FILE", help="Let it submit only what this file at the login node lists."
)
@_CONFIG
@_INSTALLATION
def install_command(
    *,
    cluster: str,
    asked: Asked,
    into: Path,
    at: str | None,
    approved: str | None,
    config: Path | None,
    installation: str | None,
) -> None:
    r"""Write the gate and its policy for a cluster, and print the line for authorized_keys.

    \b
    first gate install sophia --into ./gate --at /opt/first
    first gate install sophia --into ./gate --at /opt/first --approved /opt/first/approved
    """
    from firstkit.apps.cli.gate_files import policy_for, write_gate

    data = state_folder(asked)
    document: dict[str, Any] = policy_for(
        cluster, config=config or data / "first.yaml", data=data, installation=installation, approvals=approved or ""
    )
    write_gate(into, document)
    place = at or str(into.absolute())
    click.echo(f"Written: {into}/gate.py, {into}/gate.json. They belong to {place} at the login node, owned by root.")
    click.echo("In front of firstkit's public key in ~/.ssh/authorized_keys there:\n")
    click.echo(f'restrict,command="/usr/bin/python3 -I {place}/gate.py {place}/gate.json" ssh-ed25519 …\n')
    click.echo(f"Then set `gate: true` for the runner of {cluster}.")
    if approved:
        click.echo(f"What may be submitted goes into {approved}: one line from `first gate approve DEPLOYMENT` each.")


@gate_command.command("approve")
@click.argument("deployment")
@connected
@click.option(
    "--append", type=click.Path(path_type=Path, dir_okay=False), default=None, help="Add the line to this file."
)
@_CONFIG
@_INSTALLATION
def approve_command(
    *, deployment: str, asked: Asked, append: Path | None, config: Path | None, installation: str | None
) -> None:
    r"""Print the line that approves what a deployment runs, as `first deploy render` shows it.

    \b
    first gate approve llama-70b-sophia
    first gate approve llama-70b-sophia --append /opt/first/approved
    """
    from firstkit.apps.cli.gate_files import approval

    data = state_folder(asked)
    line = approval(deployment, config=config or data / "first.yaml", data=data, installation=installation)
    if append is not None:
        with append.open("a") as handle:
            handle.write(line + "\n")
    click.echo(line)
