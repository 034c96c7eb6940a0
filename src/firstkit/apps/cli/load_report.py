# SPDX-License-Identifier: Apache-2.0
"""What a load run showed: counts, throughput, and percentiles of what a user feels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from firstkit.apps.cli.load import Run

PERCENTILES = (50, 90, 95, 99)


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Return the nearest-rank percentile; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    found = {f"p{percent}": percentile(values, percent) for percent in PERCENTILES}
    found["max"] = max(values) if values else None
    return {name: None if value is None else round(value, 6) for name, value in found.items()}


def report(run: Run) -> dict[str, Any]:
    """Sum a run up. Only whole answers count for times and tokens; everything else is an error, by its text."""
    whole = [item for item in run.samples if item.end is not None and not item.error]
    broken = Counter(item.error for item in run.samples if item.error)
    told = [item for item in whole if item.output_tokens is not None]
    tokens = sum((item.output_tokens if item.output_tokens is not None else item.pieces) for item in whole)
    gaps = [gap for item in whole for gap in item.gaps]
    firsts = [item.first - item.due for item in whole if item.first is not None]
    ends = [item.end - item.due for item in whole if item.end is not None]
    return {
        "url": run.load.url,
        "model": run.load.model,
        "loop": "closed" if run.load.rate is None else "open",
        "concurrency": run.load.concurrency if run.load.rate is None else None,
        "rate": run.load.rate,
        "sent": len(run.samples),
        "complete": len(whole),
        "errors": dict(broken.most_common(10)),
        "wall_s": round(run.wall_s, 3),
        "requests_per_s": round(len(whole) / run.wall_s, 3) if run.wall_s else 0.0,
        "output_tokens": tokens,
        "output_tokens_from": "usage"
        if whole and len(told) == len(whole)
        else "counted chunks"
        if whole
        else "nothing",
        "output_tokens_per_s": round(tokens / run.wall_s, 3) if run.wall_s else 0.0,
        "input_tokens": sum(item.input_tokens or 0 for item in whole),
        "ttft_s": _spread(firsts),
        "itl_s": _spread(gaps),
        "latency_s": _spread(ends),
        "own_cpu": round(run.cpu_s / run.wall_s, 3) if run.wall_s else 0.0,
    }


def report_lines(result: dict[str, Any]) -> list[str]:
    """Write a report for people."""
    loop = (
        f"{result['concurrency']} at a time"
        if result["loop"] == "closed"
        else f"{result['rate']:g} a second, open loop"
    )
    throughput = (
        f"{result['requests_per_s']:.2f} requests/s, {result['output_tokens_per_s']:.1f} output tokens/s "
        f"({result['output_tokens_from']})"
    )
    lines = [
        f"{result['model']} at {result['url']}, {loop}",
        f"{result['complete']} of {result['sent']} answered whole in {result['wall_s']:.1f} s: {throughput}",
    ]
    lines += [f"failed {count}x: {text}" for text, count in result["errors"].items()]
    lines.append("ms".rjust(18) + "".join(f"{name:>10}" for name in result["ttft_s"]))
    for title, key in (("first token", "ttft_s"), ("between pieces", "itl_s"), ("whole answer", "latency_s")):
        cells = ("-" if value is None else f"{value * 1000:.1f}" for value in result[key].values())
        lines.append(title.rjust(18) + "".join(f"{cell:>10}" for cell in cells))
    if result["own_cpu"] > 0.7:
        share = f"{result['own_cpu']:.0%}"
        lines.append(
            f"This program used {share} of a core itself: the service may be faster than what it could measure."
        )
    return lines
