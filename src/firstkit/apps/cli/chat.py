# SPDX-License-Identifier: Apache-2.0
"""`first chat`: an answer that streams, or a conversation."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

import click

from firstkit.adapters.clients.target import Asked
from firstkit.apps.cli.connecting import connected, use
from firstkit.apps.cli.durations import Duration
from firstkit.apps.cli.status_line import StatusLine
from firstkit.apps.cli.streaming import End, Piece, Waiting, chat
from firstkit.core.errors import FirstError

if TYPE_CHECKING:
    from firstkit.adapters.clients.http import Client

Message = dict[str, str]


@click.command("chat")
@click.argument("model")
@click.argument("prompt", required=False)
@connected
@click.option("--system", default=None, help="What the model is told before everything else.")
@click.option("--max-tokens", type=click.IntRange(1), default=None, help="Longest answer, in tokens.")
@click.option("--temperature", type=click.FloatRange(0, 2), default=None)
@click.option("--max-wait", type=Duration(), default=None, help="How long to wait for a model that is not hot.")
@click.option("--no-thoughts", is_flag=True, help="Leave out the model's reasoning.")
def chat_command(
    *,
    model: str,
    prompt: str | None,
    asked: Asked,
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
    max_wait: float | None,
    no_thoughts: bool,
) -> None:
    r"""Talk to a model; the answer streams. Without a prompt, a conversation: Ctrl-D ends it.

    What is piped in is put below the prompt. While the model starts, its state and place are shown.

    \b
    first chat smollm2 "What is the capital of France?"
    first chat smollm2 "Summarise this" < notes.txt
    first chat smollm2
    """
    options: dict[str, Any] = {"model": model}
    if max_tokens is not None:
        options["max_tokens"] = max_tokens
    if temperature is not None:
        options["temperature"] = temperature
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    piped = "" if sys.stdin.isatty() else sys.stdin.read()
    text = "\n\n".join(part for part in (prompt, piped.strip()) if part)
    with use(asked) as client:
        talk = _Talk(client, options, messages, max_wait_s=max_wait, thoughts=not no_thoughts)
        if text:
            talk.say(text)
        elif sys.stdin.isatty():
            _converse(talk)
        else:
            raise click.UsageError("there is nothing to say: give a prompt, or pipe one in")


class _Talk:
    """One conversation and what has been said in it."""

    def __init__(
        self,
        client: Client,
        options: dict[str, Any],
        messages: list[Message],
        *,
        max_wait_s: float | None,
        thoughts: bool,
    ) -> None:
        self._client = client
        self._options = options
        self._messages = messages
        self._max_wait_s = max_wait_s
        self._thoughts = thoughts

    def say(self, text: str) -> None:
        """Say something, print the answer as it comes, remember both when the answer is whole."""
        asked = [*self._messages, {"role": "user", "content": text}]
        line = StatusLine()
        said: list[str] = []
        printed = False
        try:
            body = {**self._options, "messages": asked}
            for part in chat(self._client, body, max_wait_s=self._max_wait_s):
                if isinstance(part, Waiting):
                    line.show(part.text)
                elif isinstance(part, Piece):
                    line.clear()
                    self._print(part)
                    printed = True
                    if not part.thought:
                        said.append(part.text)
                elif part.reason == "length":
                    click.echo("\n(cut at the longest length allowed)", err=True, nl=False)
                if isinstance(part, End):
                    self._messages[:] = [*asked, {"role": "assistant", "content": "".join(said)}]
        finally:
            line.clear()
            if printed:
                click.echo()

    def _print(self, piece: Piece) -> None:
        if not piece.thought:
            click.echo(piece.text, nl=False)
        elif self._thoughts and sys.stdout.isatty():
            click.secho(piece.text, nl=False, dim=True)
        sys.stdout.flush()


def _converse(talk: _Talk) -> None:
    """Read lines until Ctrl-D; Ctrl-C ends the answer that is running, not the conversation."""
    importlib.import_module("readline")  # gives input() line editing and history

    click.echo("Ctrl-D ends the conversation, Ctrl-C an answer.", err=True)
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            click.echo(err=True)
            return
        except KeyboardInterrupt:
            click.echo(err=True)
            continue
        if not text:
            continue
        try:
            talk.say(text)
        except KeyboardInterrupt:
            click.echo("(stopped; that answer is not remembered)", err=True)
        except FirstError as error:
            click.echo(f"first: {error.message}", err=True)
