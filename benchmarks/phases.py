# SPDX-License-Identifier: Apache-2.0
"""What is measured: each phase drives one target and gives its figures as a flat record."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks import accounting, prompts, streams
from benchmarks.analysis import fnv1a
from benchmarks.closed_loop import Load, loop, wrk
from benchmarks.disturbances import leave, stop_reading
from benchmarks.streams import Shape
from benchmarks.target import Target, run
from benchmarks.upstream import Upstream

Result = dict[str, object]
PACED_DELAY_US = 50_000
DRAIN_DEADLINE_S = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long and how much."""

    seconds: float
    warm_s: float
    idle_s: float
    streams: Shape
    crowd: Shape
    crowd_delay_us: int = 100_000
    delay_us: int = 20_000
    body_requests: Mapping[str, int]


QUICK = Plan(
    seconds=1,
    warm_s=0.3,
    idle_s=1,
    streams=Shape(streams=32, chunks=50),
    crowd=Shape(streams=300, chunks=10),
    body_requests={"1k": 100, "32k": 50, "100k": 20, "10m": 2},
)
FULL = Plan(
    seconds=4,
    warm_s=1,
    idle_s=10,
    streams=Shape(streams=64, chunks=128, rounds=2),
    crowd=Shape(streams=1000, chunks=100),
    body_requests={"1k": 1000, "32k": 400, "100k": 200, "10m": 20},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A named measurement on targets of one kind.

    `baseline`: the imitated engine itself is measured too; `slow`: not in a quick run; `once`: in the first round only.
    """

    name: str
    kind: str
    measure: Callable[[Target, Upstream, Plan], Result]
    baseline: bool = False
    slow: bool = False
    once: bool = False


def _counted(target: Target, work: Callable[[], Result]) -> Result:
    target.catch_up()
    before = accounting.read(target.roots)
    gateway = accounting.read([target.gateway]) if target.gateway else None
    result = work()
    if "requests" in result:  # of streams there are few to settle, and waiting would count as a part of each event
        target.catch_up()
    spent = accounting.between(before, accounting.read(target.roots))
    held = accounting.memory([target.gateway] if target.gateway else target.roots)
    result |= {"cpu_s": round(spent.cpu_s, 6), "wall_s": round(spent.wall_s, 3), "cpu_exact": spent.exact}
    result["rss_mb"] = round(held.rss_bytes / 1e6, 1)
    if gateway is not None:
        result["gateway_cpu_s"] = round(accounting.between(gateway, accounting.read([target.gateway])).cpu_s, 6)
    return result


def _load(load: Load) -> Result:
    rate = round(load.requests / load.duration_s, 1) if load.duration_s else 0.0
    return {
        "requests": load.requests,
        "errors": load.errors,
        "per_s": rate,
        "latency_us": load.latency_us,
        "why": load.why,
    }


def _per(result: Result, unit: str, count: float) -> Result:
    if count:
        result[f"cpu_us_per_{unit}"] = round(float(str(result["cpu_s"])) * 1e6 / count, 3)
    return result


def idle(target: Target, upstream: Upstream, plan: Plan) -> Result:
    """Measure what waiting for requests costs."""
    del upstream

    def wait() -> Result:
        time.sleep(plan.idle_s)
        return {}

    result = _counted(target, wait)
    result["idle_share"] = round(float(str(result["cpu_s"])) / float(str(result["wall_s"])), 6)
    result["tree_rss_mb"] = round(accounting.memory(target.roots).rss_bytes / 1e6, 1)
    return result


def unary(connections: int, *, delay_us: int = 0) -> Callable[[Target, Upstream, Plan], Result]:
    """Make a phase of requests that are not streamed, over TCP or TLS."""

    def measure(target: Target, upstream: Upstream, plan: Plan) -> Result:
        upstream.set(unary_delay_us=delay_us)
        body = prompts.chat(model=target.model, stream=False)
        run(loop(target, body, connections=connections, seconds=plan.warm_s))
        result = _counted(target, lambda: _load(wrk(target, body, connections=connections, seconds=plan.seconds)))
        return _per(result, "request", int(str(result["requests"])))

    return measure


def unary_unix(target: Target, upstream: Upstream, plan: Plan) -> Result:
    """Measure requests that are not streamed over Unix sockets on both sides, 16 connections."""
    del upstream
    body = prompts.chat(model=target.model, stream=False)
    run(loop(target, body, connections=16, seconds=plan.warm_s))
    result = _counted(target, lambda: _load(run(loop(target, body, connections=16, seconds=plan.seconds))))
    return _per(result, "request", int(str(result["requests"])))


def body(size: str) -> Callable[[Target, Upstream, Plan], Result]:
    """Make a phase of requests with large bodies, four at a time; that the body arrives unchanged is checked once."""

    def measure(target: Target, upstream: Upstream, plan: Plan) -> Result:
        sent, count = prompts.sized(size, model=target.model), plan.body_requests[size]
        upstream.set(sum=1)
        run(loop(target, sent, connections=1, requests=1))
        arrived = upstream.ask("lastbody")
        upstream.set(sum=0)
        run(loop(target, sent, connections=4, requests=8))
        result = _counted(target, lambda: _load(run(loop(target, sent, connections=4, requests=count))))
        done = int(str(result["requests"]))
        result["body_bytes"] = len(sent)
        result["unchanged"] = arrived["fnv"] == f"{_sum(size, sent):016x}"
        _per(result, "mb", done * len(sent) / 1e6)
        return _per(result, "request", done)

    return measure


_sums: dict[tuple[str, int], int] = {}


def _sum(size: str, sent: bytes) -> int:
    """Compute the check sum once a run: the loop is slow on ten megabytes."""
    key = (size, len(sent))
    if key not in _sums:
        _sums[key] = fnv1a(sent, bits=64)
    return _sums[key]


def stream(
    shape: Callable[[Plan], Shape], *, align: int = 1, crowd: bool = False
) -> Callable[[Target, Upstream, Plan], Result]:
    """Make a phase of streams; every byte is checked."""

    def measure(target: Target, upstream: Upstream, plan: Plan) -> Result:
        chosen = shape(plan)
        warm = Shape(streams=min(32, chosen.streams), chunks=8, usage=chosen.usage)
        upstream.set(align=align, delay_us=plan.crowd_delay_us if crowd else plan.delay_us)
        run(streams.record(target, warm))
        recorded: list[streams.Stream] = []

        def work() -> Result:
            recorded.extend(run(streams.record(target, chosen)))
            return {}

        result = _counted(target, work)
        result |= streams.summarise(recorded)
        return _per(result, "event", int(str(result["events"])))

    return measure


def _without_usage(plan: Plan) -> Shape:
    return Shape(streams=plan.streams.streams, chunks=plan.streams.chunks, rounds=plan.streams.rounds, usage=False)


def _crowd(plan: Plan) -> Shape:
    """Spread the starts, so that the streams are as unlike in phase as those of many users."""
    return Shape(streams=plan.crowd.streams, chunks=plan.crowd.chunks, stagger_s=0.002)


def left(*, streamed: bool, ttft_us: int = 0) -> Callable[[Target, Upstream, Plan], Result]:
    """Make a phase of clients that leave: amid a stream, before its first token, or under a plain request."""

    def measure(target: Target, upstream: Upstream, plan: Plan) -> Result:
        del plan
        upstream.set(unary_delay_us=0 if streamed else 3_000_000, ttft_us=ttft_us)
        result = run(leave(target, upstream, stream=streamed))
        deadline = time.monotonic() + DRAIN_DEADLINE_S
        while upstream.stats()["active"] and time.monotonic() < deadline:
            time.sleep(0.05)
        return result

    return measure


def slow_reader(target: Target, upstream: Upstream, plan: Plan) -> Result:
    """Measure how much is kept for a reader that has stopped."""
    del plan
    upstream.set(delay_us=0)
    return run(stop_reading(target))


def same(target: Target, upstream: Upstream, plan: Plan) -> Result:
    """Compare plain answers byte for byte with the engine's own."""
    del plan

    async def compare() -> Result:
        different, first = 0, ""
        for nonce in range(20):
            request = prompts.chat(model=target.model, stream=False, max_tokens=16, nonce=nonce)
            answers = [await exchange(of, request) for of in (target, upstream.target())]
            if answers[0] != answers[1]:
                different += 1
                first = first or repr(answers[0][:200])
        return {"compared": 20, "different": different, "why": first}

    return run(compare())


async def exchange(target: Target, request: bytes) -> bytes:
    """Send one request and give the body of its answer."""
    reader, writer = await (
        asyncio.open_unix_connection(target.unix) if target.unix else asyncio.open_connection("127.0.0.1", target.port)
    )
    writer.write(target.request(request))
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).lower()
    answer = b""
    if b"\r\ncontent-length:" in head:
        length = int(head.split(b"\r\ncontent-length:")[1].split(b"\r\n")[0])
        answer = await reader.readexactly(length)
    else:
        while size := int((await reader.readline()).strip() or b"0", 16):
            answer += await reader.readexactly(size)
            await reader.readline()
    writer.close()
    return answer


PHASES = (
    Phase(name="idle", kind="tcp", measure=idle, once=True),
    Phase(name="same", kind="tcp", measure=same, once=True),
    Phase(name="unary-1", kind="tcp", measure=unary(1), baseline=True, slow=True),
    Phase(name="unary-16", kind="tcp", measure=unary(16), baseline=True),
    Phase(name="unary-64", kind="tcp", measure=unary(64), baseline=True, slow=True),
    Phase(name="paced-16", kind="tcp", measure=unary(16, delay_us=PACED_DELAY_US), baseline=True),
    Phase(name="unix-16", kind="unix", measure=unary_unix),
    Phase(name="tls-16", kind="tls", measure=unary(16)),
    Phase(name="stream", kind="tcp", measure=stream(lambda plan: plan.streams), baseline=True),
    Phase(name="stream-no-usage", kind="tcp", measure=stream(_without_usage)),
    Phase(name="stream-unaligned", kind="tcp", measure=stream(lambda plan: plan.streams, align=0), slow=True),
    Phase(name="stream-crowd", kind="tcp", measure=stream(_crowd, align=0, crowd=True), baseline=True),
    Phase(name="tls-stream", kind="tls", measure=stream(lambda plan: plan.streams)),
    Phase(name="unix-stream", kind="unix", measure=stream(lambda plan: plan.streams), slow=True),
    Phase(name="body-1k", kind="tcp", measure=body("1k")),
    Phase(name="body-32k", kind="tcp", measure=body("32k")),
    Phase(name="body-100k", kind="tcp", measure=body("100k")),
    Phase(name="body-10m", kind="tcp", measure=body("10m")),
    Phase(name="left-streaming", kind="tcp", measure=left(streamed=True), once=True),
    Phase(name="left-before-first", kind="tcp", measure=left(streamed=True, ttft_us=3_000_000), slow=True, once=True),
    Phase(name="left-unary", kind="tcp", measure=left(streamed=False), slow=True, once=True),
    Phase(name="slow-reader", kind="tcp", measure=slow_reader, slow=True, once=True),
)
