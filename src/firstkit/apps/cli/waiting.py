# SPDX-License-Identifier: Apache-2.0
"""`first wait MODEL`: ask for a model and block until it is hot, saying how far it has come."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from firstkit.adapters.clients.target import Asked
from firstkit.apps.cli.connecting import connected, use
from firstkit.apps.cli.durations import Duration
from firstkit.apps.cli.printing import json_option, print_json
from firstkit.apps.cli.status_line import StatusLine
from firstkit.core.errors import FirstError, InvalidRequest, Limited, Unavailable
from firstkit.core.units import format_duration

if TYPE_CHECKING:
    from firstkit.adapters.clients.http import Client

ASK_EVERY_S = 30.0
"""The gateway keeps a place for two minutes after a request that could not wait."""
LOOK_EVERY_S = 1.0
_MESSAGE = {"messages": [{"role": "user", "content": "."}], "max_tokens": 1}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": _MESSAGE,
    "/v1/messages": _MESSAGE,
    "/v1/completions": {"prompt": ".", "max_tokens": 1},
    "/v1/responses": {"input": ".", "max_output_tokens": 16},
    "/v1/embeddings": {"input": "."},
    "/pooling": {"input": "."},
    "/v1/rerank": {"query": ".", "documents": ["."]},
    "/v1/score": {"text_1": ".", "text_2": "."},
    "/classify": {"input": "."},
}
"""The smallest request for each path: it starts the model, and costs a token at most if the model is hot already."""


@click.command("wait")
@click.argument("model")
@connected
@click.option("--timeout", type=Duration(), default=None, help="Give up after so long, as 10m.")
@json_option
def wait_command(*, model: str, asked: Asked, timeout: float | None, as_json: bool) -> None:
    r"""Ask for a model and block until it is hot; exit code 1 if it is held or the time is over.

    \b
    first wait llama-70b && python my_study.py
    first wait smollm2 --timeout 10m
    """
    line = StatusLine()
    try:
        with use(asked) as client:
            found = _until_hot(client, model, line, timeout_s=timeout)
    finally:
        line.clear()
    if as_json:
        print_json(found)
    else:
        click.echo(f"{found['id']} is hot")


def _until_hot(client: Client, model: str, line: StatusLine, *, timeout_s: float | None) -> dict[str, Any]:
    began = asked_at = time.monotonic()
    first_look = True
    while True:
        found = client.get(f"/v1/models/{quote(model)}")
        state = found["first"]
        if state["state"] == "hot":
            return found
        if state["held"]:
            notice = state["notices"][0] if state["notices"] else state["reason"]
            raise Unavailable(f"{found['id']} is {notice}; `first why {model}` tells more")
        now = time.monotonic()
        if timeout_s is not None and now - began >= timeout_s:
            raise Unavailable(f"{found['id']} is not hot after {format_duration(timeout_s)}: {words(state)}")
        if first_look or now - asked_at >= ASK_EVERY_S:
            first_look, asked_at = False, now
            _ask(client, found)
        line.show(f"{found['id']}: {words(state)}")
        time.sleep(LOOK_EVERY_S)


def words(state: dict[str, Any]) -> str:
    """Say how far it has come, how many requests wait for it, and when it will be hot as far as anybody knows."""
    fraction = "" if state["fraction"] is None else f" {state['fraction']:.0%}"
    text = state["progress"] or state["detail"] or state["reason"].replace("_", " ").lower()
    waiting = state.get("waiting", 0)
    queue = f", {waiting} {'request waits' if waiting == 1 else 'requests wait'} for it" if waiting else ""
    expected = state["time_to_hot_s"]
    hot = "time unknown" if expected is None else f"hot in about {format_duration(expected)}"
    return f"{state['state']}{fraction}, {text}{queue}, {hot}"


def _ask(client: Client, found: dict[str, Any]) -> None:
    """Ask without waiting, which makes the model wanted and keeps a place for the caller."""
    endpoints = found["first"]["endpoints"]
    path = next((path for path in BODIES if path in endpoints), "/v1/chat/completions")
    try:
        client.send("POST", path, json={"model": found["id"], **BODIES[path]}, headers={"x-first-max-wait": "0"})
    except (Unavailable, Limited):
        return
    except InvalidRequest:  # the engine dislikes the smallest request, and so is there
        return
    except FirstError as error:
        if error.fault in {"upstream", "site"}:
            return
        raise
