# SPDX-License-Identifier: Apache-2.0
"""The checker that says "every byte is the engine's" must see any byte that is not."""

from collections.abc import Sequence

import pytest
from benchmarks.analysis import Stream, Verdict, events, fnv1a, judge

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
NONCE, CHUNKS = 4_000_017, 5
STAMPS = [1_000_000_000 + 20_000_000 * n for n in range(CHUNKS)]


def sse(*, usage: bool = True) -> list[bytes]:
    return events(nonce=NONCE, stamps=STAMPS, model="mock-model", usage=usage)


def chunked(pieces: Sequence[bytes]) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def verdict(raw: bytes, *, usage: bool = True, read_bytes: int = 10**6) -> Verdict:
    """Judge bytes that were read in pieces of one size, a microsecond apart, from two seconds on."""
    cuts = range(0, len(raw), read_bytes)
    reads = [(2_000_000_000 + 1000 * n, raw[at : at + read_bytes]) for n, at in enumerate(cuts)]
    asked = Stream(reads=reads, sent_ns=1_999_000_000, nonce=NONCE, chunks=CHUNKS, model="mock-model", usage=usage)
    return judge(asked)


def test_the_engines_own_bytes_are_exact() -> None:
    assert verdict(HEAD + chunked(sse())) == Verdict(
        complete=True,
        exact=True,
        events=CHUNKS + 2,
        ttft_ns=1_000_000,
        delays_ns=[2_000_000_000 - stamp for stamp in STAMPS],
        gaps_ns=[0] * (CHUNKS - 1),
    )


@pytest.mark.parametrize("usage", [True, False])
@pytest.mark.parametrize("read_bytes", [1, 2, 7, 100, 5000])
def test_how_the_bytes_were_cut_into_reads_does_not_matter(read_bytes: int, usage: bool) -> None:
    assert verdict(HEAD + chunked(sse(usage=usage)), usage=usage, read_bytes=read_bytes).exact


@pytest.mark.parametrize("size", [1, 33, 1000])
def test_how_the_events_were_cut_into_chunks_does_not_matter(size: int) -> None:
    body = b"".join(sse())
    assert verdict(HEAD + chunked([body[at : at + size] for at in range(0, len(body), size)])).exact


def test_a_body_that_ends_with_its_connection_is_exact_too() -> None:
    assert verdict(HEAD.replace(b"transfer-encoding: chunked\r\n", b"") + b"".join(sse())).exact


def test_every_changed_byte_of_the_body_is_seen() -> None:
    body = b"".join(sse())
    for at in range(len(body)):
        changed = bytearray(body)
        changed[at] ^= 1
        assert not verdict(HEAD + chunked([bytes(changed)])).exact, f"byte {at}, {body[at - 10 : at + 10]!r}"


def test_every_missing_byte_of_the_body_is_seen() -> None:
    body = b"".join(sse())
    for at in range(len(body)):
        assert not verdict(HEAD + chunked([body[:at] + body[at + 1 :]])).exact, f"byte {at}"


def test_a_dropped_chunk_is_seen() -> None:
    for dropped in range(CHUNKS + 2):
        pieces = sse()
        del pieces[dropped]
        assert not verdict(HEAD + chunked(pieces)).exact, f"event {dropped}"


def test_swapped_chunks_are_seen() -> None:
    for first in range(CHUNKS + 1):
        pieces = sse()
        pieces[first], pieces[first + 1] = pieces[first + 1], pieces[first]
        assert not verdict(HEAD + chunked(pieces)).exact, f"events {first} and {first + 1}"


def test_a_chunk_sent_twice_is_seen() -> None:
    for doubled in range(CHUNKS + 2):
        pieces = sse()
        pieces.insert(doubled, pieces[doubled])
        assert not verdict(HEAD + chunked(pieces)).exact, f"event {doubled}"


def test_an_added_comment_is_seen() -> None:
    assert not verdict(HEAD + chunked([b": waiting\n\n", *sse()])).exact


def test_a_usage_event_nobody_asked_for_is_seen() -> None:
    found = verdict(HEAD + chunked(sse(usage=True)), usage=False)
    assert found.complete
    assert not found.exact
    assert found.why.startswith("first difference at byte")


def test_a_token_of_another_stream_is_seen() -> None:
    pieces = sse()
    pieces[1] = events(nonce=NONCE + 1, stamps=STAMPS, model="mock-model", usage=True)[1]
    found = verdict(HEAD + chunked(pieces))
    assert not found.complete
    assert "another stream" in found.why


def test_a_stream_cut_at_any_byte_is_neither_complete_nor_exact() -> None:
    raw = HEAD + chunked(sse())
    for length in range(len(raw)):
        found = verdict(raw[:length])
        assert not found.complete, f"at {length}"
        assert not found.exact
        assert found.why


def test_an_answer_that_is_an_error_says_so() -> None:
    found = verdict(b'HTTP/1.1 503 Busy\r\ncontent-length: 9\r\n\r\n{"e": 1}\n')
    assert not found.complete
    assert found.why.startswith("HTTP/1.1 503 Busy")


def test_an_event_has_arrived_when_its_last_byte_has() -> None:
    pieces = chunked(sse()).split(b"\r\n")  # size, data, size, data, …
    first = HEAD + b"\r\n".join(pieces[:2])
    raw = HEAD + chunked(sse())
    reads = [(500, raw[: len(first) - 1]), (900, raw[len(first) - 1 :])]
    asked = Stream(reads=reads, sent_ns=100, nonce=NONCE, chunks=CHUNKS, model="mock-model")
    assert judge(asked).ttft_ns == 800


@pytest.mark.parametrize(
    ("data", "bits", "expected"),
    [(b"", 32, 0x811C9DC5), (b"a", 32, 0xE40C292C), (b"foobar", 32, 0xBF9CF968), (b"foobar", 64, 0x85944171F73967E8)],
)
def test_the_hash_is_that_of_the_published_vectors(data: bytes, bits: int, expected: int) -> None:
    assert fnv1a(data, bits=bits) == expected
