# SPDX-License-Identifier: Apache-2.0
"""A load generator: closed loop with so many at a time, or open loop at a rate; no sample is ever dropped."""

from __future__ import annotations

import json
import random
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
import httpx

WORDS = tuple(
    """
    time year people way day man thing woman life child world school state family student group country problem hand
    part place case week company system program question work government number night point home water room mother area
    """.split()  # noqa: SIM905 a list of words is read more easily
)
OPEN_LIMIT = 5000
"""Requests of an open loop that may be unanswered at once; beyond, the service is hopelessly late and the run ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to send where. `rate` None is a closed loop. `key` is not shown by repr."""

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    concurrency: int = 8
    requests: int | None = None
    duration_s: float | None = 10.0
    rate: float | None = None
    prompt_words: int = 100
    max_tokens: int = 64
    same_prompt: bool = False
    seed: int = 0
    proxies: bool = False


@dataclass(slots=True)
class Sample:
    """One request. Moments are seconds of the monotonic clock; `due` is when it should have begun."""

    due: float
    first: float | None = None
    end: float | None = None
    pieces: int = 0
    gaps: list[float] = field(default_factory=list[float])
    input_tokens: int | None = None
    output_tokens: int | None = None
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """All samples, and what the run itself cost."""

    load: Load
    samples: list[Sample]
    wall_s: float
    cpu_s: float


def run_load(load: Load, *, transport: httpx.AsyncBaseTransport | None = None) -> Run:
    """Run until the requests or the time are used up; requests that have begun are waited for."""
    return anyio.run(_run, load, transport)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def _run(load: Load, transport: httpx.AsyncBaseTransport | None) -> Run:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    headers = {"authorization": f"Bearer {load.key}"} if load.key else {}
    samples: list[Sample] = []
    chance = random.Random(load.seed)  # noqa: S311 prompts and arrivals, not secrets
    async with httpx.AsyncClient(
        headers=headers,
        limits=limits,
        timeout=httpx.Timeout(600.0, connect=10.0),
        transport=transport,
        trust_env=load.proxies,
    ) as client:
        began, cpu = time.monotonic(), _cpu_s()
        until = None if load.duration_s is None else began + load.duration_s
        if load.rate is None:
            await _closed(client, load, samples, chance, until=until)
        else:
            await _open(client, load, samples, chance, rate=load.rate, until=until)
        return Run(load=load, samples=samples, wall_s=time.monotonic() - began, cpu_s=_cpu_s() - cpu)


def _more(load: Load, sent: int, until: float | None) -> bool:
    return (load.requests is None or sent < load.requests) and (until is None or time.monotonic() < until)


async def _closed(
    client: httpx.AsyncClient, load: Load, samples: list[Sample], chance: random.Random, *, until: float | None
) -> None:
    async def worker() -> None:
        while _more(load, len(samples), until):
            sample = Sample(due=time.monotonic())
            samples.append(sample)
            await _send(client, load, sample, _prompt(load, chance))

    async with anyio.create_task_group() as tasks:
        for _ in range(load.concurrency):
            tasks.start_soon(worker)


async def _open(
    client: httpx.AsyncClient,
    load: Load,
    samples: list[Sample],
    chance: random.Random,
    *,
    rate: float,
    until: float | None,
) -> None:
    due = time.monotonic()
    unanswered = 0

    async def one(sample: Sample, prompt: str) -> None:
        nonlocal unanswered
        unanswered += 1
        await _send(client, load, sample, prompt)
        unanswered -= 1

    async with anyio.create_task_group() as tasks:
        while _more(load, len(samples), until) and unanswered < OPEN_LIMIT:
            await anyio.sleep(max(0.0, due - time.monotonic()))
            sample = Sample(due=due)
            samples.append(sample)
            tasks.start_soon(one, sample, _prompt(load, chance))
            due += chance.expovariate(rate)


def _prompt(load: Load, chance: random.Random) -> str:
    source = random.Random(load.seed) if load.same_prompt else chance  # noqa: S311 the same
    return " ".join(source.choice(WORDS) for _ in range(load.prompt_words))


async def _send(client: httpx.AsyncClient, load: Load, sample: Sample, prompt: str) -> None:
    """Send one request and note when its pieces come; whatever goes wrong becomes the sample's error."""
    body = {
        "model": load.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": load.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    try:
        async with client.stream("POST", f"{load.url}/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                sample.error = _refusal(answer.status_code, await answer.aread())
                return
            await _read(answer, sample, time.monotonic)
    except httpx.TransportError as error:
        sample.error = f"{type(error).__name__}: {error}".rstrip(": ")


async def _read(answer: httpx.Response, sample: Sample, clock: Callable[[], float]) -> None:
    """Read events; a stream without its closing event is an error however long it was."""
    last: float | None = None
    async for line in answer.aiter_lines():
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            sample.end = clock()
            return
        try:
            chunk: dict[str, Any] = json.loads(data)
        except ValueError:
            sample.error = "a chunk that is no JSON"
            return
        if "error" in chunk:
            told: Any = chunk["error"]
            sample.error = str(cast("dict[str, Any]", told).get("message") if isinstance(told, dict) else told)
            return
        usage = chunk.get("usage")
        if usage:
            sample.input_tokens, sample.output_tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
        choices = cast("list[dict[str, Any]]", chunk.get("choices") or [])
        if any(_text(choice.get("delta") or {}) for choice in choices):
            now = clock()
            if last is None:
                sample.first = now
            else:
                sample.gaps.append(now - last)
            last = now
            sample.pieces += 1
    sample.error = "the stream broke off"


def _text(delta: dict[str, Any]) -> bool:
    return bool(delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning"))


def _refusal(status: int, body: bytes) -> str:
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = ""
    return f"{status} {message}".strip()
