# SPDX-License-Identifier: Apache-2.0
"""What a recorded stream shows: whether every byte is the engine's, and when each event arrived.

Pure functions over what a client recorded. The expected bytes are built anew from the nonce, the position and the
time stamp in each event; the check sum behind the stamp (mock.c) makes a changed stamp show as well.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

TOKEN = re.compile(rb" n(\d{8})s(\d{8})t(\d{16})c[0-9a-f]{8}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One recorded exchange: what was asked, and the bytes that came, each read with its monotonic nanosecond."""

    reads: Sequence[tuple[int, bytes]]
    sent_ns: int
    nonce: int
    chunks: int
    model: str
    usage: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a stream was worth.

    `complete`: every token once, in order, and the end; `exact`: not a byte added, lost or changed.
    """

    complete: bool
    exact: bool
    why: str = ""
    events: int = 0
    ttft_ns: int = 0
    delays_ns: list[int] = field(default_factory=list[int])
    gaps_ns: list[int] = field(default_factory=list[int])


class TruncatedError(Exception):
    """Say that a body ended before its framing did."""


def fnv1a(data: bytes, *, bits: int = 32) -> int:
    """Compute the FNV-1a hash, of 32 or 64 bits."""
    value, prime = (0x811C9DC5, 0x01000193) if bits == 32 else (0xCBF29CE484222325, 0x100000001B3)
    for byte in data:
        value = (value ^ byte) * prime % (1 << bits)
    return value


def events(*, nonce: int, stamps: Sequence[int], model: str, usage: bool) -> list[bytes]:
    """Write the SSE events that the imitated engine sends for tokens with these time stamps."""
    start = (
        b'data: {"id":"chatcmpl-%08d%s","object":"chat.completion.chunk","created":1760000000,"model":"%s","choices":'
        % (
            nonce,
            b"0" * 24,
            model.encode(),
        )
    )
    written: list[bytes] = []
    for n, stamp in enumerate(stamps):
        token = b" n%08ds%08dt%016d" % (nonce, n, stamp)
        finish = b'"stop"' if n == len(stamps) - 1 else b"null"
        choice = b'[{"index":0,"delta":{"content":"%sc%08x"},"logprobs":null,"finish_reason":%s}]}\n\n'
        written.append(start + choice % (token, fnv1a(token), finish))
    if usage:
        total = len(stamps)
        written.append(
            start
            + b'[],"usage":{"prompt_tokens":25,"total_tokens":%d,"completion_tokens":%d}}\n\n' % (25 + total, total)
        )
    return [*written, b"data: [DONE]\n\n"]


def body_spans(raw: bytes, start: int, *, chunked: bool) -> list[tuple[int, int]]:
    """Find where in `raw` the body's bytes lie.

    Raises:
        TruncatedError: the chunked framing is not whole.

    """
    if not chunked:
        return [(start, len(raw))]
    spans: list[tuple[int, int]] = []
    while True:
        line_end = raw.find(b"\r\n", start)
        if line_end < 0:
            raise TruncatedError("the head of a chunk is missing")
        size = int(raw[start:line_end].split(b";")[0], 16)
        first = line_end + 2
        if raw[first + size : first + size + 2] != b"\r\n":
            raise TruncatedError("a chunk is not whole")
        if size == 0:
            return spans
        spans.append((first, first + size))
        start = first + size + 2


def judge(stream: Stream) -> Verdict:
    """Judge a recorded stream."""
    raw = b"".join(data for _, data in stream.reads)
    head, separator, _ = raw.partition(b"\r\n\r\n")
    if not separator:
        return Verdict(complete=False, exact=False, why="no head arrived")
    status_line, *lines = head.split(b"\r\n")
    if status_line.split()[1:2] != [b"200"]:
        return Verdict(
            complete=False, exact=False, why=f"{status_line.decode(errors='replace')}: {raw[len(head) + 4 :][:200]!r}"
        )
    headers = {
        name.strip().lower(): value.strip().lower() for name, _, value in (line.partition(b":") for line in lines)
    }
    try:
        spans = body_spans(raw, len(head) + 4, chunked=headers.get(b"transfer-encoding") == b"chunked")
    except (TruncatedError, ValueError) as error:
        return Verdict(complete=False, exact=False, why=str(error))
    return _judge_body(stream, raw, spans)


def _judge_body(stream: Stream, raw: bytes, spans: Sequence[tuple[int, int]]) -> Verdict:
    body = b"".join(raw[a:b] for a, b in spans)
    arrival = _Arrival(stream.reads, spans)
    seen: list[int] = []
    stamps: list[int] = []
    arrived: list[int] = []
    offset = 0
    pieces = body.split(b"\n\n")[:-1]
    for piece in pieces:
        offset += len(piece) + 2
        found = TOKEN.search(piece)
        if found is None:
            continue
        if int(found[1]) != stream.nonce:
            return Verdict(complete=False, exact=False, why=f"an event of another stream: {found[0]!r}")
        seen.append(int(found[2]))
        stamps.append(int(found[3]))
        arrived.append(arrival.of(offset))
    complete = seen == list(range(stream.chunks)) and pieces[-1:] == [b"data: [DONE]"]
    expected = b"".join(events(nonce=stream.nonce, stamps=stamps, model=stream.model, usage=stream.usage))
    exact = complete and body == expected
    why = (
        ""
        if exact
        else _difference(body, expected)
        if complete
        else f"{len(seen)} of {stream.chunks} tokens, tail {body[-120:]!r}"
    )
    return Verdict(
        complete=complete,
        exact=exact,
        why=why,
        events=len(pieces),
        ttft_ns=arrived[0] - stream.sent_ns if arrived else 0,
        delays_ns=[at - stamp for at, stamp in zip(arrived, stamps, strict=True)],
        gaps_ns=[later - earlier for earlier, later in pairwise(arrived)],
    )


def _difference(body: bytes, expected: bytes) -> str:
    at = next(
        (n for n, (a, b) in enumerate(zip(body, expected, strict=False)) if a != b), min(len(body), len(expected))
    )
    return f"first difference at byte {at}: {body[at : at + 60]!r} for {expected[at : at + 60]!r}"


class _Arrival:
    """Tell when the body's byte before an offset had arrived."""

    def __init__(self, reads: Sequence[tuple[int, bytes]], spans: Sequence[tuple[int, int]]) -> None:
        self._times = [at for at, _ in reads]
        self._raw_ends = list(accumulate(len(data) for _, data in reads))
        self._spans = spans
        self._body_ends = list(accumulate(b - a for a, b in spans))

    def of(self, body_offset: int) -> int:
        n = bisect_left(self._body_ends, body_offset)
        raw_offset = self._spans[n][1] - (self._body_ends[n] - body_offset)
        return self._times[bisect_left(self._raw_ends, raw_offset)]
