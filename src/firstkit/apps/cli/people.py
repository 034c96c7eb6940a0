# SPDX-License-Identifier: Apache-2.0
"""`first whoami` and `first keys`: who calls, and the keys by which callers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from firstkit.adapters.clients.target import Asked
from firstkit.apps.cli.connecting import connected, operate, use
from firstkit.apps.cli.durations import Duration
from firstkit.apps.cli.printing import Cell, day, json_option, print_json, print_rows
from firstkit.core.errors import SiteError


def _limits(row: dict[str, Any]) -> str:
    parts = [
        f"{row[name]} {word}"
        for name, word in (("requests_per_minute", "requests"), ("tokens_per_minute", "tokens"))
        if row[name] is not None
    ]
    return ", ".join(parts)


KEYS: dict[str, Cell] = {
    "NAME": lambda row: row["name"],
    "KEY": lambda row: f"{row['prefix']}-…",
    "STATE": lambda row: row["state"],
    "ROLES": lambda row: ", ".join(row["roles"]),
    "GROUPS": lambda row: ", ".join(row["groups"]),
    "MODELS": lambda row: "all" if row["models"] is None else ", ".join(row["models"]),
    "PER MINUTE": _limits,
    "EXPIRES": lambda row: day(row["expires_at"]) or "never",
    "LAST USED": lambda row: day(row["last_used_at"]) or "never",
}


@click.command("whoami")
@connected
@json_option
def whoami_command(*, asked: Asked, as_json: bool) -> None:
    r"""Say who you are to the service and what you may use.

    \b
    first whoami
    """
    with use(asked) as client:
        me = client.get("/api/v1/whoami")
        target = client.target
    if as_json:
        print_json(me)
        return
    lines = {
        "name": me["name"],
        "roles": ", ".join(me["roles"]),
        "groups": ", ".join(me["groups"]) or "none",
        "models": ", ".join(me["models"]) or "none",
        "limits": _limits(me) or "none",
        "expires": day(me["expires_at"]) or "never",
        "service": f"{target.base_url} (from {target.named})",
        "key": f"from {target.key_from}" if target.key_from else "none",
    }
    for name, value in lines.items():
        click.echo(f"{name:<8} {value}")


@click.group("keys")
def keys_command() -> None:
    """Make, list and revoke API keys (operators)."""


@keys_command.command("create")
@click.argument("name")
@connected
@click.option("--group", "groups", multiple=True, help="A group its holder is in; may be repeated.")
@click.option("--model", "models", multiple=True, help="Confine it to a model; may be repeated.")
@click.option("--role", type=click.Choice(["user", "operator"]), default="user", show_default=True)
@click.option("--project", default="", help="Who pays.")
@click.option("--rpm", type=click.IntRange(1), default=None, help="Requests per minute.")
@click.option("--tpm", type=click.IntRange(1), default=None, help="Tokens per minute.")
@click.option("--expires", type=Duration(), default=None, help="How long it is valid, as 30d.  [default: for ever]")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Write the key to this new file (mode 0600) instead of showing it.",
)
@json_option
def create(
    *,
    name: str,
    asked: Asked,
    groups: tuple[str, ...],
    models: tuple[str, ...],
    role: str,
    project: str,
    rpm: int | None,
    tpm: int | None,
    expires: float | None,
    out: Path | None,
    as_json: bool,
) -> None:
    r"""Make a key and show it, once: it is stored hashed.

    \b
    first keys create ada
    first keys create ci --model smollm2 --rpm 60 --expires 30d --out ci.key
    """
    body = {
        "name": name,
        "roles": ["user", "operator"] if role == "operator" else ["user"],
        "groups": list(groups),
        "project": project,
        "models": list(models) or None,
        "requests_per_minute": rpm,
        "tokens_per_minute": tpm,
        "expires_in_s": expires,
    }
    if out is not None and out.exists():
        raise SiteError(f"{out} exists already; name a new file", code="file_exists")
    with operate(asked) as client:
        made = client.send("POST", "/api/v1/keys", json=body)
    if out is not None:
        _write_secret(out, made["key"])
        made["key"] = None
    if as_json:
        print_json(made)
    elif out is not None:
        click.echo(f"The key {made['about']['prefix']}-… is in {out}.")
    else:
        click.echo(made["key"])
        click.echo("This is the only time that the key is shown; its holder puts it into FIRST_API_KEY.", err=True)


def _write_secret(path: Path, secret: str) -> None:
    import os

    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secret + "\n")
    except OSError as error:
        raise SiteError(
            f"the key was made but {path} cannot be written ({error.strerror}); revoke it and try another file"
        ) from error


@keys_command.command("list")
@connected
@click.option("--all", "everything", is_flag=True, help="Revoked and expired ones too.")
@json_option
def list_(*, asked: Asked, everything: bool, as_json: bool) -> None:
    r"""List keys by their recognisable beginning, never whole.

    \b
    first keys list
    """
    with operate(asked) as client:
        rows = client.listing("/api/v1/keys")
    rows = [row for row in rows if everything or row["state"] == "valid"]
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, KEYS, empty="There is no valid key; make one with `first keys create NAME`.")


@keys_command.command("revoke")
@click.argument("key")
@connected
@json_option
def revoke(*, key: str, asked: Asked, as_json: bool) -> None:
    r"""Revoke a key by its name, id or beginning; requests with it stop within a second.

    \b
    first keys revoke ci
    """
    with operate(asked) as client:
        row = client.send("DELETE", f"/api/v1/keys/{_quoted(key)}")
    if as_json:
        print_json(row)
    else:
        click.echo(f"Revoked {row['prefix']}-… ({row['name']}).")


def _quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")
