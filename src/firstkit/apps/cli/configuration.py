# SPDX-License-Identifier: Apache-2.0
"""`first config`: check a file, describe all keys, explain one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from firstkit.apps.cli.printing import json_option, print_json
from firstkit.core.errors import ConfigError

if TYPE_CHECKING:
    from firstkit.config.loading import Loaded
    from firstkit.core.findings import Finding

DATA = click.option(
    "--data",
    envvar="FIRST_DATA",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".first"),
    show_default=True,
    help="State folder.",
)


@click.group("config")
def config_command() -> None:
    """Check and explain the configuration file. Needs the server packages."""


def _load(file: Path, data: Path) -> Loaded:
    from firstkit.adapters.engines.registry import load_engines
    from firstkit.config.environment import read_environment
    from firstkit.config.loading import load

    return load(file, data_dir=data, environ=read_environment(), engines=load_engines())


def _as_json(finding: Finding) -> dict[str, object]:
    return {
        "source": finding.source,
        "line": finding.line,
        "column": finding.column,
        "path": finding.path,
        "problem": finding.problem,
        "expected": finding.expected,
        "hint": finding.hint,
        "warning": finding.warning,
    }


@config_command.command("check")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default=Path("first.yaml"))
@DATA
@json_option
def check(*, file: Path, data: Path, as_json: bool) -> None:
    r"""Find every mistake of a file at once, each with its place and what was expected; exit code 1 if there is one.

    \b
    first config check first.yaml
    first config check first.yaml --json
    """
    try:
        loaded = _load(file, data)
        findings, count = loaded.warnings, 0
    except ConfigError as error:
        findings, count = error.findings, len(error.findings)
        if not findings:
            raise
    if as_json:
        print_json([_as_json(finding) for finding in findings])
    else:
        for finding in findings:
            click.echo(str(finding), err=True)
    if count:
        raise ConfigError(f"{file} has {count} mistake{'s' if count != 1 else ''}")
    if not as_json:
        click.echo(f"{file} is right.")


@config_command.command("schema")
def schema() -> None:
    r"""Print the JSON schema of the file, for editors.

    \b
    first config schema > first.schema.json
    # yaml-language-server: $schema=first.schema.json
    """
    from firstkit.adapters.engines.registry import load_engines
    from firstkit.config.schema import json_schema

    print_json(json_schema(load_engines()))


@config_command.command("explain")
@click.argument("key", required=False, default="")
@click.option("--config", envvar="FIRST_CONFIG", type=click.Path(path_type=Path, dir_okay=False), default=None)
@DATA
def explain(*, key: str, config: Path | None, data: Path) -> None:
    r"""Say what a key means, what it may hold, when a change takes effect, and its value in a file.

    \b
    first config explain
    first config explain scaling.idle
    first config explain gateway.listen --config first.yaml
    """
    from firstkit.adapters.engines.registry import load_engines
    from firstkit.config.explaining import explain as explained

    loaded = None if config is None else _load(config, data)
    click.echo(explained(key, loaded=loaded, engines=load_engines()))
