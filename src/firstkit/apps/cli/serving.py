# SPDX-License-Identifier: Apache-2.0
"""`first up`, `gateway`, `controller`, `api`, `launch`, `store`: the parts that serve."""

from __future__ import annotations

import os
from pathlib import Path

import click

DATA = click.option(
    "--data",
    envvar="FIRST_DATA",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".first"),
    show_default=True,
    help="State folder.",
)
CONFIG = click.option(
    "--config",
    envvar="FIRST_CONFIG",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="Configuration file.",
)


def _keep_private() -> None:
    """Have everything that a serving process makes be its user's alone."""
    os.umask(0o077)


@click.command("up")
@click.option("--port", type=click.IntRange(0, 65535), default=None, help="Port of the gateway.  [default: 8000]")
@DATA
@click.option(
    "--engine", type=click.Choice(["llamacpp", "vllm"]), default="llamacpp", show_default=True, help="Demo engine."
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    default=None,
    help="A file of your own instead of the demo.",
)
def up_command(*, port: int | None, data: Path, engine: str, config: Path | None) -> int:
    r"""Run gateway, api, controller and a local cluster on this machine until Ctrl-C.

    Without a file of your own it serves a small real model. Ctrl-C drains and stops everything that it started.
    SIGHUP applies a changed file; SIGUSR2 replaces the gateway by a new process without cutting a stream.

    \b
    first up
    first up --port 9000 --engine vllm
    first up --config first.yaml --data /var/lib/firstkit
    """
    _keep_private()
    from firstkit.apps.up import UpOptions, run_up

    return run_up(UpOptions(port=port, data=data, engine=engine, config=config))


@click.command("gateway")
@CONFIG
@DATA
@click.option("--without-api", is_flag=True, help="Start no api: somebody else runs it on this state folder.")
@click.option("--listen-fd", type=click.IntRange(3), default=None, help="Descriptor of a socket that listens already.")
@click.option("--admin-fd", type=click.IntRange(3), default=None, help="The same for operator routes and metrics.")
@click.option("--doors-fd", type=click.IntRange(3), default=None, help="The same for doors that dial in.")
@click.option("--ready-fd", type=click.IntRange(3), default=None, help="Descriptor to write to once it takes requests.")
def gateway_command(
    *,
    config: Path,
    data: Path,
    without_api: bool,
    listen_fd: int | None,
    admin_fd: int | None,
    doors_fd: int | None,
    ready_fd: int | None,
) -> int:
    r"""Run a gateway and its api: the only HTTP server outside.

    SIGHUP reads settings and certificates again. SIGTERM drains and ends; SIGQUIT does so for a successor on the same
    socket, and lets those that wait for a model keep their places.

    \b
    first gateway --config first.yaml --data /var/lib/firstkit
    """
    _keep_private()
    from firstkit.apps.gateway import GatewayOptions, run_gateway

    return run_gateway(
        GatewayOptions(
            config=config,
            data=data,
            own_api=not without_api,
            listen_fd=listen_fd,
            admin_fd=admin_fd,
            doors_fd=doors_fd,
            ready_fd=ready_fd,
        )
    )


@click.command("controller")
@CONFIG
@DATA
@click.option("--retire-on-stop", is_flag=True, help="End every job when stopped, as `first up` does.")
def controller_command(*, config: Path, data: Path, retire_on_stop: bool) -> int:
    r"""Run the controller: it decides what should run and has it run. It listens nowhere.

    Ending it ends no job. SIGHUP applies the configuration file again.

    \b
    first controller --config first.yaml --data /var/lib/firstkit
    """
    _keep_private()
    from firstkit.apps.controller import ControllerOptions, run_controller

    return run_controller(ControllerOptions(config=config, data=data, retire_on_stop=retire_on_stop))


@click.command("api")
@CONFIG
@DATA
def api_command(*, config: Path, data: Path) -> None:
    r"""Run the management API alone, on a socket in the state folder; a gateway starts its own.

    \b
    first api --config first.yaml --data /var/lib/firstkit
    """
    _keep_private()
    from firstkit.apps.api.process import run_api

    run_api(config, data)


@click.command("launch", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def launch_command(*, arguments: tuple[str, ...]) -> int:
    r"""Run one job: start its engines, be their door, report. This is what a scheduler starts on a cluster.

    \b
    cd RUN_DIR && first launch job.json
    """
    from firstkit.launcher.start import main

    return main(list(arguments))


@click.group("store")
def store_command() -> None:
    """Look after the store."""


@store_command.command("migrate")
@CONFIG
@DATA
def migrate(*, config: Path, data: Path) -> None:
    r"""Bring the store to this version's schema; the controller does the same when it starts.

    \b
    first store migrate --config first.yaml
    """
    from firstkit.adapters.store import migrate_store
    from firstkit.config.environment import read_environment
    from firstkit.config.loading import load_settings

    settings = load_settings(config, data_dir=data, environ=read_environment())
    before, after = migrate_store(settings.store, folder=Path(settings.data_dir))
    click.echo(f"store: schema {after}, nothing to do" if before == after else f"store: schema {before} → {after}")
