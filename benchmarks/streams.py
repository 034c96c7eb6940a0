# SPDX-License-Identifier: Apache-2.0
"""Streaming clients: each records raw bytes and arrival times, which are judged after the run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from benchmarks import prompts
from benchmarks.analysis import Stream, Verdict, judge
from benchmarks.figures import distribution
from benchmarks.target import Target

STREAM_DEADLINE_S = 120
END = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How many streams at once, of how many tokens, how often one after the other on the same connection."""

    streams: int
    chunks: int
    rounds: int = 1
    usage: bool = True
    stagger_s: float = 0.001


class Reader(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self) -> None:
        self.reads: list[tuple[int, bytes]] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's own class

    def begin(self, request: bytes) -> None:
        """Send a request, forgetting what was read before."""
        assert self.transport is not None
        self.reads = []
        self._tail = b""
        self.done = asyncio.get_running_loop().create_future()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.reads.append((time.monotonic_ns(), data))
        self._tail = (self._tail + data)[-len(END) :] if len(data) < len(END) else data[-len(END) :]
        if self._tail == END:
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio names it)
        self._finish()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def record(target: Target, shape: Shape) -> list[Stream]:
    """Run the streams and give what arrived."""
    recorded: list[Stream] = []

    async def one(number: int) -> None:
        await asyncio.sleep(number * shape.stagger_s)
        reader: Reader | None = None
        for turn in range(shape.rounds):
            if reader is None or reader.transport is None or reader.transport.is_closing():
                reader = await target.connect(Reader)
            nonce = (number * 1000 + turn) % 10**8
            body = prompts.chat(
                model=target.model, stream=True, max_tokens=shape.chunks, nonce=nonce, usage=shape.usage
            )
            sent_ns = time.monotonic_ns()
            reader.begin(target.request(body))
            try:
                await asyncio.wait_for(reader.done, STREAM_DEADLINE_S)
            except TimeoutError:
                if reader.transport is not None:
                    reader.transport.abort()
            recorded.append(
                Stream(
                    reads=reader.reads,
                    sent_ns=sent_ns,
                    nonce=nonce,
                    chunks=shape.chunks,
                    model=target.model,
                    usage=shape.usage,
                )
            )
        if reader is not None and reader.transport is not None:
            reader.transport.close()

    await asyncio.gather(*(one(number) for number in range(shape.streams)))
    return recorded


def summarise(streams: Sequence[Stream]) -> dict[str, object]:
    """Judge the streams and put the figures together."""
    verdicts = [judge(stream) for stream in streams]
    whole: list[Verdict] = [verdict for verdict in verdicts if verdict.complete]
    return {
        "streams": len(verdicts),
        "complete": len(whole),
        "exact": sum(verdict.exact for verdict in verdicts),
        "why": next((verdict.why for verdict in verdicts if verdict.why), ""),
        "events": sum(verdict.events for verdict in whole),
        "ttft_us": distribution((verdict.ttft_ns for verdict in whole), scale=1e-3),
        "delay_us": distribution((ns for verdict in whole for ns in verdict.delays_ns), scale=1e-3),
        "gap_us": distribution((ns for verdict in whole for ns in verdict.gaps_ns), scale=1e-3),
        "reads_per_stream": round(sum(len(stream.reads) for stream in streams) / max(1, len(streams)), 1),
    }
