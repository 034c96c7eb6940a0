# SPDX-License-Identifier: Apache-2.0
"""What is read of a stream as it passes, in each of the three APIs."""

import json

import pytest

from firstkit.core.request import Dialect, Usage, UsageSource
from firstkit.core.stream.meter import StreamMeter, is_usage_chunk
from firstkit.core.stream.sse import Event, Splitter, events, split
from firstkit.core.stream.usage import find_usage, read_usage


def data(fields: object, name: str = "") -> bytes:
    start = f"event: {name}\n" if name else ""
    return f"{start}data: {json.dumps(fields)}\n\n".encode()


def delta(**fields: object) -> bytes:
    return data({"choices": [{"index": 0, "delta": fields}]})


DONE = b"data: [DONE]\n\n"


def test_the_first_token_of_a_chat_is_the_first_delta_that_holds_something() -> None:
    meter = StreamMeter(Dialect.OPENAI)
    meter.feed(b": keep-alive\n\n", 0.5)
    meter.feed(delta(role="assistant", content=""), 1.0)
    assert meter.first_token_at is None
    meter.feed(delta(reasoning_content="hm"), 2.0)
    meter.feed(delta(content="a"), 2.5)
    meter.feed(delta(content="b"), 4.5)
    assert meter.first_token_at == 2.0
    assert (meter.gap_max_s, meter.gap_sum_s, meter.gaps) == (2.0, 2.5, 2)


def test_a_token_without_text_of_its_own_counts_once_the_role_has_passed() -> None:
    meter = StreamMeter(Dialect.OPENAI)
    meter.feed(delta(role="assistant", content=None), 1.0)
    meter.feed(delta(content=""), 2.0)
    assert meter.first_token_at == 2.0


def test_completions_have_text_instead_of_deltas() -> None:
    meter = StreamMeter(Dialect.OPENAI)
    meter.feed(data({"choices": [{"text": ""}]}), 1.0)
    meter.feed(data({"choices": [{"text": "a"}]}), 2.0)
    assert meter.first_token_at == 2.0


def test_tokens_that_no_engine_counted_are_counted() -> None:
    meter = StreamMeter(Dialect.OPENAI)
    for at in range(5):
        meter.feed(delta(content="x"), float(at))
    meter.feed(DONE, 5.0)
    assert meter.usage() == Usage(source=UsageSource.COUNTED, output_tokens=5)
    assert meter.complete


def test_a_stream_without_a_token_tells_nothing() -> None:
    meter = StreamMeter(Dialect.OPENAI)
    meter.feed(DONE, 1.0)
    assert meter.usage() == Usage()


def test_usage_in_every_chunk_is_no_harm() -> None:
    meter = StreamMeter(Dialect.OPENAI)
    for at, tokens in enumerate([None, None, 3]):
        usage = tokens and {
            "prompt_tokens": 2,
            "completion_tokens": tokens,
            "prompt_tokens_details": {"cached_tokens": 1},
        }
        meter.feed(data({"choices": [{"delta": {"content": '"usage"'}}], "usage": usage}), float(at))
    assert meter.usage() == Usage(source=UsageSource.ENGINE, input_tokens=2, output_tokens=3, cached_tokens=1)


def test_words_of_ours_inside_the_text_mislead_nobody() -> None:
    meter = StreamMeter(Dialect.OPENAI)
    for text in ('{"error": {}}', "data: [DONE]", '"usage":{"prompt_tokens":1}', "\n\ndata: x\n\n"):
        meter.feed(delta(content=text), 1.0)
    assert not meter.failed
    assert not meter.complete
    assert meter.chunks == 4
    assert meter.usage().source is UsageSource.COUNTED


@pytest.mark.parametrize(
    ("dialect", "event"),
    [
        (Dialect.OPENAI, data({"error": {"message": "x", "code": 500}})),
        (Dialect.RESPONSES, data({"type": "error", "message": "x"}, "error")),
        (Dialect.RESPONSES, data({"type": "response.failed", "response": {"error": {"code": "x"}}})),
        (Dialect.ANTHROPIC, data({"type": "error", "error": {"type": "overloaded_error"}}, "error")),
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_an_engines_error_event_is_noticed_before_and_after_the_first_token(
    dialect: Dialect, event: bytes, before: bool
) -> None:
    tokens = {
        Dialect.OPENAI: delta(content="a"),
        Dialect.RESPONSES: data({"type": "response.output_text.delta", "delta": "a"}),
        Dialect.ANTHROPIC: data({"type": "content_block_delta", "delta": {"text": "a"}}),
    }
    meter = StreamMeter(dialect)
    if not before:
        meter.feed(tokens[dialect], 1.0)
    meter.feed(event, 2.0)
    assert meter.failed


def test_a_responses_stream() -> None:
    meter = StreamMeter(Dialect.RESPONSES)
    meter.feed(data({"type": "response.created", "response": {"error": None, "usage": None}}, "response.created"), 1.0)
    meter.feed(data({"type": "response.output_text.delta", "delta": "a"}, "response.output_text.delta"), 2.0)
    meter.feed(data({"type": "response.output_text.delta", "delta": "b"}, "response.output_text.delta"), 3.0)
    assert not meter.complete
    usage = {"input_tokens": 5, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 4}}
    meter.feed(data({"type": "response.completed", "response": {"usage": usage}}, "response.completed"), 4.0)
    assert meter.first_token_at == 2.0
    assert meter.complete
    assert not meter.failed
    assert meter.usage() == Usage(source=UsageSource.ENGINE, input_tokens=5, output_tokens=2, cached_tokens=4)


def test_a_messages_stream() -> None:
    meter = StreamMeter(Dialect.ANTHROPIC)
    started = {"input_tokens": 5, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 2, "output_tokens": 1}
    meter.feed(data({"type": "message_start", "message": {"usage": started}}, "message_start"), 1.0)
    meter.feed(data({"type": "content_block_start"}, "content_block_start"), 1.5)
    meter.feed(data({"type": "content_block_delta", "delta": {"text": "a"}}, "content_block_delta"), 2.0)
    meter.feed(data({"type": "message_delta", "usage": {"output_tokens": 9}}, "message_delta"), 3.0)
    meter.feed(data({"type": "message_stop"}, "message_stop"), 3.0)
    assert meter.first_token_at == 2.0
    assert meter.complete
    assert meter.usage() == Usage(source=UsageSource.ENGINE, input_tokens=10, output_tokens=9, cached_tokens=3)


@pytest.mark.parametrize(
    ("block", "verdict"),
    [
        (data({"choices": [], "usage": {"prompt_tokens": 1}}), True),
        (data({"choices": [], "usage": None}), False),
        (data({"choices": [{"delta": {}}], "usage": {"prompt_tokens": 1}}), False),
        (delta(content='"choices": [], "usage": {}'), False),
        (b'data: {"choices":[],"usage":{\n\n', False),
        (b": comment\n\n", False),
        (DONE, False),
    ],
)
def test_the_usage_chunk_is_told_from_all_others(block: bytes, verdict: bool) -> None:
    assert is_usage_chunk(block) is verdict


def test_events_are_read_with_their_names_and_joined_lines() -> None:
    stream = b": comment\n\nevent: a\r\ndata:1\r\ndata: 2\r\n\r\ndata\n\nid: 7\n\nevent: b\ndata:  x\n\n"
    assert list(events(stream)) == [
        Event(name="a", data=b"1\n2"),
        Event(name="", data=b""),
        Event(name="b", data=b" x"),
    ]
    assert len(split(stream)) == 5


def test_a_carriage_return_that_may_be_half_an_end_is_kept_back() -> None:
    splitter = Splitter()
    assert splitter.feed(b"data: 1\r\n\r") == b""
    assert splitter.feed(b"\ndata: 2") == b"data: 1\r\n\r\n"
    assert splitter.feed(b"\r\r") == b""
    assert splitter.feed(b"d") == b"data: 2\r\r"
    assert splitter.flush() == b"d"


@pytest.mark.parametrize(
    ("fields", "usage"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}, (3, 4, None)),
        ({"prompt_tokens": 3, "total_tokens": 3}, (3, None, None)),
        ({"total_tokens": 8}, (8, None, None)),
        ({"input_tokens": 3, "output_tokens": 0, "cache_read_input_tokens": 5}, (8, 0, 5)),
        ({"prompt_tokens": True}, None),
        ({"prompt_tokens": -1}, None),
        ({}, None),
    ],
)
def test_a_usage_object_is_read_in_any_api(fields: dict, usage: tuple | None) -> None:
    found = read_usage(fields)
    if usage is None:
        assert found is None
    else:
        assert found is not None
        assert (found.input_tokens, found.output_tokens, found.cached_tokens) == usage


def test_the_usage_of_a_plain_answer_is_found_at_its_end_or_its_beginning() -> None:
    text = 'a tool called "usage":{"prompt_tokens":99}'
    answer = json.dumps(
        {"content": [{"input": {"usage": {"input_tokens": 77}}, "text": text}], "usage": {"input_tokens": 3}}
    )
    found = find_usage(b"", answer.encode()[-300:])
    assert found is not None
    assert found.input_tokens == 3
    found = find_usage(b'{"usage" : {"prompt_tokens": 5}, "data": [', b"0.1, 0.2]}")
    assert found is not None
    assert found.input_tokens == 5
    assert find_usage(b"{}", b'{"usage": nonsense') is None
