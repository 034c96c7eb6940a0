# SPDX-License-Identifier: Apache-2.0
"""`first why` and `first explain`: sentences about a model's state and a request's way."""

from __future__ import annotations

from urllib.parse import quote

import click

from firstkit.adapters.clients.target import Asked
from firstkit.apps.cli.connecting import connected, operate, use
from firstkit.apps.cli.printing import json_option, print_json


@click.command("why")
@click.argument("model")
@connected
@click.option("--events", is_flag=True, help="What happened of late, too (operators).")
@json_option
def why_command(*, model: str, asked: Asked, events: bool, as_json: bool) -> None:
    r"""Say in one sentence why a model is as it is: not up, loading, held.

    \b
    first why smollm2
    first why llama-70b --events
    """
    with operate(asked) if events else use(asked) as client:
        answer = client.get(f"/api/v1/why/{quote(model)}")
    if as_json:
        print_json(answer)
        return
    click.echo(answer["sentence"])
    for event in answer["events"] if events else ():
        detail = f" {event['detail']}" if event["detail"] else ""
        click.echo(
            f"{event['at'][:19].replace('T', ' ')}  {event['subject']} {event['state']} {event['reason']}{detail}"
        )


@click.command("explain")
@click.argument("request_id")
@connected
@json_option
def explain_command(*, request_id: str, asked: Asked, as_json: bool) -> None:
    r"""Say where a request went and why, attempt by attempt. Its id is in the answer's x-request-id.

    \b
    first explain req-0123456789abcdef
    """
    with operate(asked) as client:
        answer = client.get(f"/api/v1/requests/{quote(request_id, safe='')}")
    if as_json:
        print_json(answer)
    else:
        click.echo("\n".join(answer["sentences"]))
