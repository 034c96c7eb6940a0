# SPDX-License-Identifier: Apache-2.0
"""`first bench`: load against any OpenAI URL, with the percentiles that tell how it feels."""

from __future__ import annotations

import click

from firstkit.adapters.clients.target import Asked
from firstkit.apps.cli.connecting import connected, public
from firstkit.apps.cli.durations import Duration
from firstkit.apps.cli.printing import json_option, print_json


@click.command("bench")
@click.argument("model")
@connected
@click.option(
    "-c", "--concurrency", type=click.IntRange(1, 5000), default=8, show_default=True, help="At the same time."
)
@click.option("-n", "--requests", type=click.IntRange(1), default=None, help="How many.  [default: as many as fit in]")
@click.option("--duration", type=Duration(), default=None, help="For how long, as 30s.  [default: 10s without -n]")
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    default=None,
    help="Send so many a second at random moments, whether or not earlier ones are answered (open loop); waiting "
    "counts from the moment that a request was due.",
)
@click.option("--prompt-words", type=click.IntRange(1), default=100, show_default=True, help="Length of each prompt.")
@click.option("--max-tokens", type=click.IntRange(1), default=64, show_default=True, help="Length of each answer.")
@click.option("--same-prompt", is_flag=True, help="Send the same prompt, so that prefix caches help.")
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
def bench_command(
    *,
    model: str,
    asked: Asked,
    concurrency: int,
    requests: int | None,
    duration: float | None,
    rate: float | None,
    prompt_words: int,
    max_tokens: int,
    same_prompt: bool,
    seed: int,
    as_json: bool,
) -> None:
    r"""Measure a service under load: time to first token, gaps between tokens, throughput.

    Streams chat completions. What is measured includes this program's own time; it says when that was much.

    \b
    first bench smollm2 -c 16 --duration 30s
    first bench gpt-4o-mini --url https://api.example.org/v1 --rate 2 -n 100
    """
    from firstkit.apps.cli.load import Load, run_load
    from firstkit.apps.cli.load_report import report, report_lines

    target = public(asked)
    load = Load(
        url=target.openai_url,
        key=target.key,
        model=model,
        concurrency=concurrency,
        requests=requests,
        duration_s=duration if duration is not None or requests is not None else 10.0,
        rate=rate,
        prompt_words=prompt_words,
        max_tokens=max_tokens,
        same_prompt=same_prompt,
        seed=seed,
        proxies=not target.loopback,
    )
    result = report(run_load(load))
    if as_json:
        print_json(result)
    else:
        click.echo("\n".join(report_lines(result)))
    if not result["complete"]:
        raise click.ClickException("no request was answered whole; the first error is told above")
