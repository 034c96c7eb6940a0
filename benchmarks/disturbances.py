# SPDX-License-Identifier: Apache-2.0
"""Clients that leave, and a reader that stops reading: does the abort reach the engine, and what stays in memory."""

from __future__ import annotations

import asyncio
import time

from benchmarks import prompts
from benchmarks.accounting import memory
from benchmarks.streams import Reader
from benchmarks.target import Target
from benchmarks.upstream import Upstream

CLIENTS = 8
SETTLE_S = 1.0
DEADLINE_S = 4.0
SLOW_READER_TOKENS = 200_000


async def leave(target: Target, upstream: Upstream, *, stream: bool) -> dict[str, object]:
    """Let clients reset their connections and wait for the engine to see its own closed."""
    loop = asyncio.get_running_loop()
    before = upstream.stats()
    readers: list[Reader] = []
    for number in range(CLIENTS):
        reader = await target.connect(Reader)
        reader.begin(target.request(prompts.chat(model=target.model, stream=stream, max_tokens=1500, nonce=number)))
        readers.append(reader)
    await asyncio.sleep(SETTLE_S)
    left_ns = time.monotonic_ns()
    for reader in readers:
        assert reader.transport is not None
        reader.transport.abort()
    while True:
        after = await loop.run_in_executor(None, upstream.stats)
        aborted = after["aborted"] - before["aborted"]
        if aborted >= CLIENTS or time.monotonic_ns() - left_ns > DEADLINE_S * 1e9:
            break
        await asyncio.sleep(0.005)
    closed_ms = (after["last_abort_ns"] - left_ns) / 1e6 if aborted >= CLIENTS else None
    return {"clients": CLIENTS, "aborted": aborted, "all_closed_ms": None if closed_ms is None else round(closed_ms, 2)}


async def stop_reading(target: Target) -> dict[str, object]:
    """Ask for some 54 MB and read nothing for three seconds; give by how much the gateway's memory grew."""
    before = memory(target.roots).rss_bytes
    reader = await target.connect(Reader)
    assert reader.transport is not None
    reader.transport.pause_reading()
    reader.begin(target.request(prompts.chat(model=target.model, stream=True, max_tokens=SLOW_READER_TOKENS, nonce=7)))
    peak = before
    for _ in range(12):
        await asyncio.sleep(0.25)
        peak = max(peak, memory(target.roots).rss_bytes)
    reader.transport.abort()
    return {"rss_before_mb": round(before / 1e6, 1), "growth_mb": round((peak - before) / 1e6, 2)}
