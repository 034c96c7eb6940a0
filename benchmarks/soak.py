# SPDX-License-Identifier: Apache-2.0
"""Memory over very many requests: flat or not."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence

from benchmarks import prompts
from benchmarks.accounting import memory
from benchmarks.closed_loop import wrk
from benchmarks.target import Target

SLICE_S = 5
WARM_SHARE = 0.1


def flatness(samples: Sequence[float]) -> dict[str, float]:
    """Give median and greatest deviation from it (a share) of even samples; the first tenth is the warm-up."""
    settled = samples[int(len(samples) * WARM_SHARE) :]
    middle = statistics.median(settled)
    return {
        "median_mb": round(middle / 1e6, 2),
        "first_mb": round(settled[0] / 1e6, 2),
        "last_mb": round(settled[-1] / 1e6, 2),
        "deviation": round(max(abs(value - middle) for value in settled) / middle, 4),
    }


def soak(target: Target, *, requests: int) -> dict[str, object]:
    """Send so many requests over 16 connections, sampling resident memory twice a second."""
    roots = [target.gateway] if target.gateway else list(target.roots)
    samples: list[float] = []
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.5):
            samples.append(memory(roots).rss_bytes)

    body = prompts.chat(model=target.model, stream=False)
    wrk(target, body, connections=16, seconds=1)
    sampler = threading.Thread(target=sample)
    began = time.monotonic()
    sampler.start()
    done = errors = 0
    try:
        while done < requests and not errors:
            load = wrk(target, body, connections=16, seconds=SLICE_S)
            done, errors = done + load.requests, errors + load.errors
    finally:
        over.set()
        sampler.join()
    return {"requests": done, "errors": errors, "seconds": round(time.monotonic() - began, 1), **flatness(samples)}
