# SPDX-License-Identifier: Apache-2.0
"""From the rounds of a run to figures: medians over rounds, ratios within rounds, claims, a table in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import Spread

Round = Mapping[str, Mapping[str, Mapping[str, Any]]]  # phase -> contender -> figures
DIRECT = "direct"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A figure of a phase. `added`: less the same figure of the engine without a gateway, in the same round."""

    phase: str
    path: tuple[str, ...]
    label: str
    added: bool = False

    def of(self, measured: Round, contender: str) -> float | None:
        """Give the figure of a contender in one round; None where it was not measured or failed."""
        value = self._value(measured, contender)
        if not self.added or value is None:
            return value
        floor = self._value(measured, DIRECT)
        return None if floor is None else value - floor

    def _value(self, measured: Round, contender: str) -> float | None:
        value: Any = measured.get(self.phase, {}).get(contender)
        for name in self.path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return float(value) if isinstance(value, int | float) else None


REQUEST = ("cpu_us_per_request",)
EVENT = ("cpu_us_per_event",)
METRICS = {
    "request": Metric(phase="unary-16", path=REQUEST, label="CPU per request, 16 connections, µs"),
    "request-1": Metric(phase="unary-1", path=REQUEST, label="CPU per request, 1 connection, µs"),
    "request-64": Metric(phase="unary-64", path=REQUEST, label="CPU per request, 64 connections, µs"),
    "request-paced": Metric(
        phase="paced-16", path=REQUEST, label="CPU per request, 16 connections, engine takes 50 ms, µs"
    ),
    "request-unix": Metric(phase="unix-16", path=REQUEST, label="CPU per request, Unix sockets on both sides, µs"),
    "request-tls": Metric(phase="tls-16", path=REQUEST, label="CPU per request, TLS on both sides, µs"),
    "event": Metric(phase="stream", path=EVENT, label="CPU per streamed chunk, µs"),
    "event-no-usage": Metric(phase="stream-no-usage", path=EVENT, label="… the client does not ask for usage, µs"),
    "event-unaligned": Metric(phase="stream-unaligned", path=EVENT, label="… streams out of step, µs"),
    "event-unix": Metric(phase="unix-stream", path=EVENT, label="… Unix sockets on both sides, µs"),
    "event-tls": Metric(phase="tls-stream", path=EVENT, label="… TLS on both sides, µs"),
    "event-crowd": Metric(phase="stream-crowd", path=EVENT, label="… crowd of streams of 10 tokens/s, µs"),
    "p50": Metric(
        phase="paced-16",
        path=("latency_us", "p50"),
        label="added p50, 16 connections, engine takes 50 ms, µs",
        added=True,
    ),
    "p99": Metric(phase="paced-16", path=("latency_us", "p99"), label="added p99, the same, µs", added=True),
    "p50-busy": Metric(
        phase="unary-16", path=("latency_us", "p50"), label="added p50, 16 busy connections, µs", added=True
    ),
    "delay": Metric(phase="stream", path=("delay_us", "p50"), label="added delay of a chunk, p50, µs", added=True),
    "body-1k": Metric(phase="body-1k", path=REQUEST, label="CPU per request with a prompt of 1 k tokens, µs"),
    "body-32k": Metric(phase="body-32k", path=REQUEST, label="CPU per request with a prompt of 32 k tokens, µs"),
    "body-100k": Metric(phase="body-100k", path=REQUEST, label="CPU per request with a prompt of 100 k tokens, µs"),
    "body-10m": Metric(phase="body-10m", path=REQUEST, label="CPU per request with an image of 10 MB, µs"),
    "mb-100k": Metric(phase="body-100k", path=("cpu_us_per_mb",), label="CPU per megabyte, prompt of 100 k tokens, µs"),
    "mb-10m": Metric(phase="body-10m", path=("cpu_us_per_mb",), label="CPU per megabyte, image of 10 MB, µs"),
    "idle": Metric(phase="idle", path=("idle_share",), label="share of a core when idle (all its processes)"),
    "rss": Metric(phase="unary-16", path=("rss_mb",), label="resident memory after load, MB"),
    "rss-crowd": Metric(phase="stream-crowd", path=("rss_mb",), label="resident memory with the crowd of streams, MB"),
    "abort": Metric(
        phase="left-streaming",
        path=("all_closed_ms",),
        label="client gone → engine's side closed, ms",
    ),
    "slow": Metric(phase="slow-reader", path=("growth_mb",), label="growth while a reader stops, 54 MB waiting, MB"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What firstkit promises of a metric: at most `limit`, or `limit` times another's figure in the same round."""

    metric: str
    limit: float
    than: str = ""


CLAIMS = (
    Claim(metric="request", limit=0.8, than="vllm-router"),
    Claim(metric="request", limit=3.5, than="nginx"),
    Claim(metric="request", limit=0.01, than="litellm"),
    Claim(metric="event", limit=1.0, than="vllm-router"),
    Claim(metric="event", limit=1.7, than="nginx"),
    Claim(metric="p50", limit=1.0, than="vllm-router"),
    Claim(metric="p50-busy", limit=1.0, than="vllm-router"),
    Claim(metric="rss", limit=120),
    Claim(metric="idle", limit=0.01),
    Claim(metric="abort", limit=100),
    Claim(metric="slow", limit=2),
)


def absolute(rounds: Sequence[Round], metric: Metric, contender: str) -> Spread | None:
    """Summarise a figure over the rounds."""
    return Spread.over(value for measured in rounds if (value := metric.of(measured, contender)) is not None)


def ratio(rounds: Sequence[Round], metric: Metric, contender: str, than: str) -> Spread | None:
    """Summarise the ratio of two contenders' figures, taken within each round."""
    ratios: list[float] = []
    for measured in rounds:
        mine, other = metric.of(measured, contender), metric.of(measured, than)
        if mine is not None and other is not None and other > 0:
            ratios.append(mine / other)
    return Spread.over(ratios)


def judged(rounds: Sequence[Round], claim: Claim, contender: str) -> tuple[Spread | None, bool | None]:
    """Give the figure that a claim is about and whether the claim holds; None when it was not measured."""
    metric = METRICS[claim.metric]
    spread = ratio(rounds, metric, contender, claim.than) if claim.than else absolute(rounds, metric, contender)
    return spread, None if spread is None else spread.median <= claim.limit


def faults(rounds: Sequence[Round]) -> dict[str, dict[str, list[str]]]:
    """List by contender what went wrong, and in which phases: failures, errors, bytes that were not the engine's."""
    found: dict[str, dict[str, list[str]]] = {}
    for measured in rounds:
        for phase, results in measured.items():
            for contender, figures in results.items():
                for why in _faults(figures):
                    phases = found.setdefault(contender, {}).setdefault(why, [])
                    phases.extend([phase] if phase not in phases else [])
    return found


def _faults(figures: Mapping[str, Any]) -> list[str]:
    wrong = {
        f"failed: {figures.get('failed')}": "failed" in figures,
        "answered with errors": figures.get("errors", 0) > 0,
        "streams incomplete": figures.get("complete", 0) < figures.get("streams", 0),
        "streamed bytes are not the engine's": figures.get("exact", 0) < figures.get("streams", 0),
        "plain answers are not the engine's": figures.get("different", 0) > 0,
        "the request's body does not arrive as sent": figures.get("unchanged") is False,
        "a client that leaves is not passed on": figures.get("aborted", 0) < figures.get("clients", 0),
    }
    return [why for why, so in wrong.items() if so]


def summary(rounds: Sequence[Round], contenders: Sequence[str], soaked: Mapping[str, Any]) -> dict[str, Any]:
    """Put the summary of a run together as plain data."""
    figures = {
        name: {c: s.json() for c in (DIRECT, *contenders) if (s := absolute(rounds, metric, c))}
        for name, metric in METRICS.items()
    }
    ratios = {
        f"{name} / {than}": {c: s.json() for c in contenders if (s := ratio(rounds, METRICS[name], c, than))}
        for name in METRICS
        for than in ("nginx", "vllm-router")
    }
    claims = [
        {
            "metric": c.metric,
            "than": c.than,
            "limit": c.limit,
            "holds": holds,
            "figure": spread.json() if spread else None,
        }
        for c in CLAIMS
        for spread, holds in [judged(rounds, c, "firstkit")]
    ]
    return {"figures": figures, "ratios": ratios, "claims": claims, "faults": faults(rounds), "soak": dict(soaked)}


def markdown(run: Mapping[str, Any]) -> str:
    """Write the tables of a run."""
    rounds: list[Round] = run["rounds"]
    about = run["about"]
    names = [name for name in about["contenders"] if any(name in p for r in rounds for p in r.values())]
    lines = [
        f"{len(rounds)} interleaved rounds on {about['processor']}, {about['cores']} cores, {about['at'][:10]}.",
        "CPU is the time that the process tree spent on a CPU (`schedstat`, nanoseconds), not wall time. In a round",
        "all contenders meet the same load in random order. Cells: median, and in brackets the ratio to nginx in the",
        "same round (median; least–greatest over the rounds).",
        "",
        "| | " + " | ".join(f"{name} {about['contenders'][name]['version']}" for name in names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for metric in METRICS.values():
        cells = [_cell(rounds, metric, name) for name in names]
        if any(cells):
            lines.append(f"| {metric.label} | " + " | ".join(cell or "–" for cell in cells) + " |")
    lines += ["", *(f"- {name}: {about['contenders'][name]['notes']}" for name in names), "", *_claim_lines(rounds)]
    for name, soaked in run.get("soak", {}).items():
        flat = f"at most {soaked['deviation']:.1%} off (first {soaked['first_mb']}, last {soaked['last_mb']})"
        told = f"{soaked['median_mb']} MB resident, {flat}, {soaked['errors']} errors"
        lines += ["", f"{name} over {soaked['requests']:,} requests: {told}."]
    wrong = faults(rounds)
    lines += [
        "",
        "What was not right:" if wrong else "Every answer was whole and every streamed byte the engine's.",
        "",
    ]
    lines += [f"- {name}: {why} ({', '.join(p)})" for name, found in wrong.items() for why, p in found.items()]
    return "\n".join(lines).rstrip() + "\n"


def _cell(rounds: Sequence[Round], metric: Metric, contender: str) -> str:
    figure = absolute(rounds, metric, contender)
    if figure is None:
        return ""
    beside = (
        ratio(rounds, metric, contender, "nginx") if contender != "nginx" and metric.path in (REQUEST, EVENT) else None
    )
    text = f"{figure.median:.4g}" if abs(figure.median) < 1000 else f"{figure.median:,.0f}"
    return text if beside is None else f"{text} ({beside.median:.3g}; {beside.least:.3g}–{beside.greatest:.3g})"


def _claim_lines(rounds: Sequence[Round]) -> list[str]:
    lines = ["| firstkit's claim | limit | measured | holds |", "|---|---|---|---|"]
    for claim in CLAIMS:
        spread, holds = judged(rounds, claim, "firstkit")
        if spread is not None:
            than = f" ÷ {claim.than}" if claim.than else ""
            seen = f"{spread.median:.3g} ({spread.least:.3g}–{spread.greatest:.3g})"
            lines.append(
                f"| {METRICS[claim.metric].label}{than} | ≤ {claim.limit:g} | {seen} | {'yes' if holds else '**no**'} |"
            )
    return lines if len(lines) > 2 else []
