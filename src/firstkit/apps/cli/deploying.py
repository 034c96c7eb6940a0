# SPDX-License-Identifier: Apache-2.0
"""`first deploy`: apply a catalog, compare one, and act on deployments and instances beside it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from firstkit.adapters.clients.target import Asked
from firstkit.apps.cli.connecting import connected, operate
from firstkit.apps.cli.durations import Duration
from firstkit.apps.cli.printing import Row, day, json_option, print_json
from firstkit.core.errors import ConfigError, SiteError

if TYPE_CHECKING:
    from firstkit.adapters.clients.http import Client

FILE = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
FOR = click.option("--for", "for_s", type=Duration(), default=None, help="Until then, as 2h.  [default: until undone]")
NOTE = click.option("--note", default="", help="Why, for whoever looks later.")
UNDO = click.option("--undo", is_flag=True, help="Take it back.")


@click.group("deploy")
def deploy_command() -> None:
    """Operate: the catalog and temporary changes beside it (operators)."""


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SiteError(f"{file} cannot be read: {error.strerror}") from error


def _send(client: Client, path: str, file: Path) -> dict[str, Any]:
    """Send a file to be checked; every mistake of a wrong one is printed before the sentence."""
    headers = {"content-type": "application/yaml"}
    try:
        return client.send("POST", path, content=_read(file), params={"name": str(file)}, headers=headers)
    except ConfigError as error:
        for finding in error.findings:
            click.echo(str(finding), err=True)
        count = len(error.findings)
        sentence = (
            f"{file} has {count} mistake{'s' if count != 1 else ''}; nothing was changed" if count else error.message
        )
        raise ConfigError(sentence, findings=error.findings) from error


def _show_changes(answer: dict[str, Any], *, none: str) -> None:
    for warning in answer["warnings"]:
        click.echo(warning["text"], err=True)
    for change in answer["changes"]:
        click.echo(change["text"])
    for change in answer["settings"]:
        click.echo(f"setting {change}")
    if not answer["changes"] and not answer["settings"]:
        click.echo(none)


@deploy_command.command("apply")
@FILE
@connected
@json_option
def apply(*, file: Path, asked: Asked, as_json: bool) -> None:
    r"""Apply a configuration file as a new revision, whole or not at all.

    Who may apply can run any command on every cluster.

    \b
    first deploy diff first.yaml && first deploy apply first.yaml
    """
    with operate(asked) as client:
        answer = _send(client, "/api/v1/revisions", file)
    if as_json:
        print_json(answer)
        return
    _show_changes(answer, none="Nothing changes.")
    number = answer["revision"]["number"]
    click.echo(f"Revision {number} is applied." if answer["changed"] else f"Revision {number} was applied already.")


@deploy_command.command("diff")
@FILE
@connected
@json_option
def compare(*, file: Path, asked: Asked, as_json: bool) -> None:
    r"""Say what applying a file would change, and which overrides stay beside it.

    \b
    first deploy diff first.yaml
    """
    with operate(asked) as client:
        answer = _send(client, "/api/v1/diff", file)
    if as_json:
        print_json(answer)
        return
    _show_changes(answer, none=f"Nothing differs from revision {answer['against']}.")
    for override in answer["overrides"]:
        click.echo(f"override {override_words(override)}")


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")


def override_words(row: Row) -> str:
    """Say an override: what, by whom, until when, why."""
    if row["kind"] == "maintenance":
        value = f"from {_moment(row['value']['starts_at'])} to {_moment(row['value']['ends_at'])} UTC"
        return f"maintenance {row['subject']} {value}, by {row['by']}" + (f" ({row['note']})" if row["note"] else "")
    value = " ".join(f"{key}={number}" for key, number in sorted(row["value"].items()))
    until = f" until {day(row['until'])} UTC" if row["until"] else ""
    note = f" ({row['note']})" if row["note"] else ""
    return f"{row['kind']} {row['subject']}{' ' + value if value else ''}, by {row['by']}{until}{note}"


@deploy_command.command("render")
@click.argument("name")
@click.option("--config", envvar="FIRST_CONFIG", type=click.Path(path_type=Path, dir_okay=False), default=None)
@click.option("--data", envvar="FIRST_DATA", type=click.Path(path_type=Path, file_okay=False), default=Path(".first"))
@click.option("--test", is_flag=True, help="Ask the scheduler whether it would take it, and when it would start.")
@json_option
def render(*, name: str, config: Path | None, data: Path, test: bool, as_json: bool) -> None:
    r"""Print exactly what would be submitted for a deployment: command, script, job document; secrets masked.

    Nothing is submitted; with --test the scheduler is asked what it would do (Slurm: `sbatch --test-only`). Needs the
    server packages.

    \b
    first deploy render llama-70b-sophia --config first.yaml
    first deploy render llama-70b-sophia --config first.yaml --test
    """
    from firstkit.apps.cli import rendering

    found = rendering.render(name, config=config or data / "first.yaml", data=data)
    answer = rendering.rehearse(found, data=data) if test else None
    parts = found.parts if answer is None else found.parts | {"the scheduler's answer": str(answer)}
    if as_json:
        print_json(parts)
    else:
        for title, text in parts.items():
            click.secho(f"# {title}", bold=True)
            click.echo(text.rstrip("\n") + "\n")
    if answer is not None and not answer.accepted:
        raise SiteError(f"the scheduler of {found.cluster.name} would refuse {name}: {answer.detail}")


@deploy_command.command("scale")
@click.argument("deployment")
@click.argument("bounds", required=False)
@FOR
@NOTE
@UNDO
@connected
@json_option
def scale(
    *, deployment: str, bounds: str | None, for_s: float | None, note: str, undo: bool, asked: Asked, as_json: bool
) -> None:
    r"""Bound a deployment's instances otherwise than the catalog does: MIN-MAX, or one number for both.

    \b
    first deploy scale llama-70b-sophia 2-4 --for 8h --note "workshop"
    first deploy scale llama-70b-sophia 0
    first deploy scale llama-70b-sophia --undo
    """
    if undo:
        _clear(asked, "scale", deployment, as_json=as_json)
        return
    if bounds is None:
        raise click.UsageError("give MIN-MAX, or one number for both, or --undo")
    low, dash, high = bounds.partition("-")
    if not low.isdecimal() or (dash and not high.isdecimal()):
        raise click.UsageError(f"{bounds!r} is no MIN-MAX; write for example 0-4, or 2")
    value = {"min": int(low), "max": int(high) if dash else int(low)}
    _set(asked, "scale", deployment, value=value, for_s=for_s, note=note, as_json=as_json)


def _override_command(kind: str, subject: str, help_text: str) -> None:
    """Make the command of an override that has no value."""

    @deploy_command.command(kind, help=help_text)
    @click.argument("subject", metavar=subject)
    @FOR
    @NOTE
    @UNDO
    @connected
    @json_option
    def command(  # pyright: ignore[reportUnusedFunction]
        *, subject: str, for_s: float | None, note: str, undo: bool, asked: Asked, as_json: bool
    ) -> None:
        if undo:
            _clear(asked, kind, subject, as_json=as_json)
        else:
            _set(asked, kind, subject, value={}, for_s=for_s, note=note, as_json=as_json)


_override_command(
    "cordon",
    "DEPLOYMENT_OR_INSTANCE",
    "Give it no new work; what it has is finished and it stays up.\n\n\b\nfirst deploy cordon i-0123456789ab\n"
    "first deploy cordon llama-70b-sophia --undo",
)
_override_command(
    "drain",
    "DEPLOYMENT_OR_INSTANCE",
    "Give it no new work, let it finish what it has, and end it.\n\n\b\nfirst deploy drain i-0123456789ab\n"
    'first deploy drain llama-70b-sophia --note "new weights" --for 2h',
)
_override_command(
    "release",
    "DEPLOYMENT",
    "Try a held deployment again: its failures so far no longer count.\n\n\b\nfirst deploy release llama-70b-sophia",
)
_override_command(
    "readmit",
    "CLUSTER",
    "Let jobs start again on nodes that were left out as unfit: what was found there so far no longer counts.\n\n\b\n"
    "first deploy readmit sophia",
)


def _set(
    asked: Asked, kind: str, subject: str, *, value: dict[str, int], for_s: float | None, note: str, as_json: bool
) -> None:
    body = {"value": value, "for_s": for_s, "note": note}
    with operate(asked) as client:
        row = client.send("PUT", f"/api/v1/overrides/{kind}/{quote(subject, safe='')}", json=body)
    if as_json:
        print_json(row)
    else:
        click.echo(f"Set: {override_words(row)}.")


def _clear(asked: Asked, kind: str, subject: str, *, as_json: bool) -> None:
    with operate(asked) as client:
        rest = client.send("DELETE", f"/api/v1/overrides/{kind}/{quote(subject, safe='')}")
    if as_json:
        print_json(rest["data"])
    else:
        click.echo(f"Undone: {kind} {subject}.")


@deploy_command.command("overrides")
@connected
@json_option
def overrides(*, asked: Asked, as_json: bool) -> None:
    r"""List the temporary changes beside the catalog.

    \b
    first deploy overrides
    """
    with operate(asked) as client:
        rows = client.listing("/api/v1/overrides")
    if as_json:
        print_json(rows)
    elif rows:
        click.echo("\n".join(override_words(row) for row in rows))
    else:
        click.echo("There is no override.", err=True)


@deploy_command.command("revisions")
@connected
@click.option("--show", default=None, metavar="NUMBER", help="Print that revision's document; `current` is the newest.")
@json_option
def revisions(*, asked: Asked, show: str | None, as_json: bool) -> None:
    r"""List applied revisions, or print one.

    \b
    first deploy revisions
    first deploy revisions --show current > running.yaml
    """
    with operate(asked) as client:
        if show is not None:
            row = client.get(f"/api/v1/revisions/{quote(show, safe='')}")
            if as_json:
                print_json(row)
            else:
                click.echo(row["document"], nl=False)
            return
        rows = client.listing("/api/v1/revisions")
    if as_json:
        print_json(rows)
        return
    for row in rows:
        click.echo(f"{row['number']:>5}  {day(row['applied_at'])}  {row['applied_by']}")


@deploy_command.command("logs")
@click.argument("instance")
@click.option("-n", "--lines", type=click.IntRange(1, 10_000), default=100, show_default=True)
@connected
@json_option
def logs(*, instance: str, lines: int, asked: Asked, as_json: bool) -> None:
    r"""Print the end of an engine's log; of an ended one, what it left.

    \b
    first deploy logs i-0123456789ab
    first deploy logs i-0123456789ab -n 1000 | less
    """
    with operate(asked) as client:
        answer = client.get(f"/api/v1/instances/{quote(instance, safe='')}/log", lines=lines)
    if as_json:
        print_json(answer)
        return
    click.echo(f"# {answer['source']}", err=True)
    for text in answer["lines"]:
        click.echo(text)
