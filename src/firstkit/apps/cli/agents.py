# SPDX-License-Identifier: Apache-2.0
"""`first agent configure`: writes a coding agent's provider settings, keeping all others."""

from __future__ import annotations

import difflib
import os
import tempfile
from pathlib import Path
from typing import Any

import click

from firstkit.adapters.clients.target import Asked, Target
from firstkit.apps.cli.agent_plans import AGENTS, DEFAULT_CONTEXT, AgentModel, KeyRef, Plan, Service
from firstkit.apps.cli.connecting import connected, public, use
from firstkit.core.errors import NotFound, SiteError
from firstkit.core.nearest import nearest, or_list

_CHAT = ("/v1/chat/completions", "/v1/messages", "/v1/responses")


@click.group("agent")
def agent_command() -> None:
    """Set a coding agent up to use this service."""


@agent_command.command("configure")
@click.argument("agent", type=click.Choice(list(AGENTS)))
@connected
@click.option("--model", default=None, help="The model that it uses.  [default: the first that can chat]")
@click.option("--print", "only_print", is_flag=True, help="Print the files, write nothing.")
@click.option("--yes", is_flag=True, help="Write without asking.")
@click.option(
    "--home", type=click.Path(path_type=Path, file_okay=False), default=None, help="Home folder.  [default: yours]"
)
def configure(*, agent: str, asked: Asked, model: str | None, only_print: bool, yes: bool, home: Path | None) -> None:
    r"""Write an agent's provider settings: URL, models with their limits, and where the key is (never the key).

    Running it again changes nothing, or brings the settings up to date; other settings in the same files are kept.

    \b
    first agent configure codex
    first agent configure claude --model llama-70b --print
    """
    with use(asked) as client:
        listing = client.listing("/v1/models")
    folder = (home or Path.home()).absolute()
    plan = AGENTS[agent](service(public(asked), listing, model, home=str(folder)))
    changes = [_change(folder, file.path, file.change) for file in plan.files]
    if only_print:
        for path, _, after in changes:
            click.secho(f"# {path}", bold=True)
            click.echo(after)
    else:
        _write(changes, ask=not yes)
    click.echo(f"start it with: {plan.start}", err=True)
    _tell(plan)


def service(target: Target, listing: list[dict[str, Any]], asked_model: str | None, *, home: str) -> Service:
    """Gather what an agent must know; NotFound when there is no model to use."""
    models = tuple(
        AgentModel(
            id=row["id"],
            context=row["context_length"] or DEFAULT_CONTEXT,
            endpoints=frozenset(row["first"]["endpoints"]) if "first" in row else frozenset(),
        )
        for row in listing
    )
    names = {name: model for row, model in zip(listing, models, strict=True) for name in _names(row)}
    if asked_model is not None and asked_model not in names:
        close = nearest(asked_model, names)
        hint = f"did you mean {or_list(close)}?" if close else "`first models` lists those you may use"
        raise NotFound(f"there is no model {asked_model!r}; {hint}", code="model_not_found")
    able = [model for model in models if not model.endpoints or not model.endpoints.isdisjoint(_CHAT)]
    chosen = names[asked_model] if asked_model is not None else able[0] if able else None
    if chosen is None:
        raise NotFound("there is no model that can chat; ask an operator for access to one", code="model_not_found")
    return Service(
        base_url=target.base_url, key=key_ref(target), models=tuple(able) or (chosen,), model=chosen, home=home
    )


def _names(row: dict[str, Any]) -> list[str]:
    return [row["id"], *row.get("first", {}).get("aliases", [])]


def key_ref(target: Target) -> KeyRef:
    """Say where the key comes from; FIRST_API_KEY when nobody has given one yet."""
    came = target.key_from.removeprefix("--key-file ")
    if came in {"FIRST_API_KEY", "OPENAI_API_KEY"}:
        return KeyRef(variable=came)
    return KeyRef(file=str(Path(came).absolute())) if came else KeyRef(variable="FIRST_API_KEY")


def _change(folder: Path, name: str, change: Any) -> tuple[Path, str | None, str]:
    path = (folder / name).resolve()  # a dotfile is often a link into a repository: the link stays
    try:
        before = path.read_text() if path.exists() else None
    except (OSError, UnicodeDecodeError) as error:
        raise SiteError(f"{path} cannot be read: {error}") from error
    return path, before, str(change(before))


def _write(changes: list[tuple[Path, str | None, str]], *, ask: bool) -> None:
    wanted = [(path, before, after) for path, before, after in changes if before != after]
    if not wanted:
        click.echo("Everything is as it should be; nothing was written.", err=True)
        return
    for path, before, after in wanted:
        lines = difflib.unified_diff(
            (before or "").splitlines(),
            after.splitlines(),
            str(path) if before else "/dev/null",
            str(path),
            lineterm="",
        )
        click.echo("\n".join(lines))
    import sys

    if ask and sys.stdin.isatty() and not click.confirm("Write this?", default=True, err=True):
        raise click.Abort
    for path, _, after in wanted:
        _replace(path, after)
        click.echo(f"wrote {path}", err=True)


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all, keeping its mode; a new one is for its owner alone."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
            Path(name).chmod(mode)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SiteError(f"{path} cannot be written: {error.strerror}") from error


def _tell(plan: Plan) -> None:
    for note in plan.notes:
        click.echo(f"note: {note}", err=True)
