# SPDX-License-Identifier: Apache-2.0
"""`first completion`: what a shell needs to complete our commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from firstkit.core.errors import InternalError


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(*, shell: str) -> None:
    r"""Print the completion script of a shell.

    \b
    first completion bash >> ~/.bashrc
    first completion zsh >> ~/.zshrc
    first completion fish > ~/.config/fish/completions/first.fish
    """
    from firstkit.apps.cli.entry import cli

    made = get_completion_class(shell)
    if made is None:
        raise InternalError(f"click knows no completion for {shell}")
    click.echo(made(cli, {}, "first", "_FIRST_COMPLETE").source())
