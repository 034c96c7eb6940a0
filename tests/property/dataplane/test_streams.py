# SPDX-License-Identifier: Apache-2.0
"""Streams cut anywhere: the splitter changes nothing, the meter counts the same, chunks decode as h11 decodes them."""

import itertools
import json

import h11
from hypothesis import given, settings
from hypothesis import strategies as st

from firstkit.core.request import Dialect
from firstkit.core.stream.meter import StreamMeter, is_usage_chunk
from firstkit.core.stream.sse import HELD_LIMIT, Splitter, events, split
from firstkit.dataplane.framing import ChunkedBody, FramingError, LengthBody, chunk, event_chunk, single_chunk

ANY_STREAM = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"\n\n", b"data: x", b":", b"a", b"event: e", b" "])).map(
    b"".join
)


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(at)]


CUTS = st.lists(st.integers(0, 10_000), max_size=12)


@given(ANY_STREAM, CUTS)
def test_the_splitter_changes_nothing_wherever_a_stream_is_cut(data: bytes, cuts: list[int]) -> None:
    splitter = Splitter()
    passed = [splitter.feed(piece) for piece in pieces_of(data, cuts)]
    assert b"".join(passed) + splitter.tail == data
    assert b"".join(passed) + splitter.flush() == data
    assert splitter.flush() == b""


@given(ANY_STREAM)
def test_blocks_joined_are_the_stream(data: bytes) -> None:
    assert b"".join(split(data)) == data


EVENT = st.builds(
    lambda name, fields, newline: (
        (f"event: {name}{newline}" if name else "") + f"data: {json.dumps(fields)}{newline}{newline}"
    ).encode(),
    st.sampled_from(["", "message_delta"]),
    st.dictionaries(st.text(max_size=5), st.one_of(st.none(), st.integers(), st.text(max_size=20)), max_size=3),
    st.sampled_from(["\n", "\r\n"]),
)


@given(st.lists(EVENT, max_size=8), CUTS)
def test_only_whole_events_pass(stream: list[bytes], cuts: list[int]) -> None:
    data = b"".join(stream)
    splitter = Splitter()
    ends = {len(b"".join(stream[:number])) for number in range(len(stream) + 1)}
    total = 0
    for piece in pieces_of(data, cuts):
        total += len(splitter.feed(piece))
        assert total in ends
    assert total + len(splitter.flush()) == len(data)


@given(st.lists(EVENT, max_size=8))
def test_events_are_read_as_they_were_written(stream: list[bytes]) -> None:
    read = [event.data for event in events(b"".join(stream))]
    assert read == [json.dumps(json.loads(event.split(b"data: ", 1)[1])).encode() for event in stream]


@given(st.integers(1, 3 * HELD_LIMIT), st.integers(500, 40_000))
@settings(max_examples=20, deadline=None)
def test_a_huge_event_passes_as_it_comes(size: int, step: int) -> None:
    data = b"data: " + b"x" * size + b"\n\ndata: y\n\n"
    splitter = Splitter()
    out = b""
    for at in range(0, len(data), step):
        out += splitter.feed(data[at : at + step])
        assert len(splitter.tail) <= HELD_LIMIT
    assert out + splitter.flush() == data


def answer_stream(tokens: list[str], newline: bytes) -> list[bytes]:
    chunks: list[object] = [{"choices": [{"delta": {"role": "assistant", "content": ""}}]}]
    chunks += [{"choices": [{"delta": {"content": token}}]} for token in tokens]
    chunks.append({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": len(tokens)}})
    return [b"data: " + json.dumps(each).encode() + newline * 2 for each in chunks] + [b"data: [DONE]" + newline * 2]


@given(st.lists(st.text(max_size=8), max_size=10), CUTS, st.sampled_from([b"\n", b"\r\n"]))
def test_the_meter_counts_the_same_wherever_a_stream_is_cut(tokens: list[str], cuts: list[int], newline: bytes) -> None:
    stream = answer_stream(tokens, newline)
    splitter, meter = Splitter(), StreamMeter(Dialect.OPENAI)
    for piece in pieces_of(b"".join(stream), cuts):
        if whole := splitter.feed(piece):
            meter.feed(whole, 1.0)
    usage = meter.usage()
    assert meter.complete
    assert not meter.failed
    assert meter.chunks == len(stream)
    assert (usage.input_tokens, usage.output_tokens) == (9, len(tokens))
    assert (meter.first_token_at is not None) == bool(tokens)
    assert [is_usage_chunk(block) for block in stream] == [False] * (len(stream) - 2) + [True, False]


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), CUTS, st.binary(max_size=10))
def test_chunks_decode_to_what_was_sent(payloads: list[bytes], cuts: list[int], rest: bytes) -> None:
    data = b"".join(chunk(payload) for payload in payloads) + b"0\r\nx-trailer: 1\r\n\r\n" + rest
    body = ChunkedBody()
    got, after = b"", b""
    for piece in pieces_of(data, cuts):
        if body.done:
            after += piece
        else:
            got += body.feed(piece)
            after += body.rest
    assert got == b"".join(payloads)
    assert body.done
    assert after == rest


@given(st.binary(max_size=60), CUTS)
@settings(max_examples=200, deadline=None)
def test_what_h11_refuses_is_refused_and_what_is_taken_is_the_same(data: bytes, cuts: list[int]) -> None:
    ours, refused = ChunkedBody(), False
    got = b""
    try:
        for piece in pieces_of(data, cuts):
            if not ours.done:
                got += ours.feed(piece)
    except FramingError:
        refused = True
    theirs = h11.Connection(h11.SERVER)
    theirs.receive_data(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    theirs.next_event()
    theirs.receive_data(data)
    expected = b""
    try:
        while isinstance(event := theirs.next_event(), h11.Data):
            expected += bytes(event.data)
    except h11.RemoteProtocolError:
        assert refused or not ours.done
        return
    if not refused:  # we are stricter, never laxer
        assert got == expected


CHUNKISH = st.lists(
    st.sampled_from(
        [b"0", b"1", b"5", b"a", b"F", b"\r\n", b"\r", b"\n", b";", b"x", b" ", b"hello", b"+", b"_", b":", b"\0"]
    ),
    max_size=14,
).map(b"".join)


@given(CHUNKISH, CUTS)
@settings(max_examples=200, deadline=None)
def test_almost_chunks_are_read_alike_in_any_pieces(data: bytes, cuts: list[int]) -> None:
    def read(pieces: list[bytes]) -> tuple[bytes, bool, bool]:
        body, got = ChunkedBody(), b""
        try:
            for piece in pieces:
                if not body.done:
                    got += body.feed(piece)
        except FramingError:
            return b"", False, True
        return got, body.done, False

    whole, cut = read([data]), read(pieces_of(data, cuts))
    assert whole[1:] == cut[1:]
    if not whole[2]:
        assert whole[0] == cut[0]


@given(st.binary(max_size=50), st.integers(0, 60), CUTS)
def test_a_length_takes_so_many_bytes_and_no_more(data: bytes, length: int, cuts: list[int]) -> None:
    body, got, rest = LengthBody(length), b"", b""
    for piece in pieces_of(data, cuts):
        if body.done:
            rest += piece
        else:
            got += body.feed(piece)
            rest += body.rest
    assert got == data[:length]
    assert rest == data[length:]
    assert body.done == (len(data) >= length)


@given(st.binary(min_size=1, max_size=300), st.binary(max_size=5))
def test_a_single_chunk_is_told_from_anything_else(payload: bytes, more: bytes) -> None:
    framed = chunk(payload)
    assert framed[single_chunk(framed) : -2] == payload
    for other in (framed + b"x", framed[:-1], framed[1:] if len(payload) > 15 else b"0\r\n\r\n", b"+" + framed, more):
        assert single_chunk(other) == 0 or other[single_chunk(other) : -2] == payload[: len(other)]


@given(st.binary(max_size=5000) | st.integers(0, 300).map(lambda size: b"x" * size), st.binary(max_size=4))
def test_the_quick_look_at_a_chunk_finds_what_the_careful_one_does(payload: bytes, more: bytes) -> None:
    framed = chunk(payload + b"\n\n")
    assert event_chunk(framed) == single_chunk(framed) > 0
    for other in (framed + more, framed[1:], more + framed, framed.upper(), chunk(payload + b"x"), more, b""):
        if start := event_chunk(other):
            assert start == single_chunk(other)
