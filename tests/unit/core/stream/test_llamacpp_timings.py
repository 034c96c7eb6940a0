# SPDX-License-Identifier: Apache-2.0
"""llama.cpp tells its tokens at a stream's end without being asked, in words of its own."""

import pytest

from firstkit.core.request import Dialect, Usage, UsageSource
from firstkit.core.stream.meter import StreamMeter
from firstkit.core.stream.usage import read_timings

TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
LAST = (
    b'data: {"choices":[{"finish_reason":"length","index":0,"delta":{}}],"object":"chat.completion.chunk",'
    b'"timings":{"cache_n":30,"prompt_n":1,"prompt_ms":1450.901,"predicted_n":3,"predicted_ms":107.162}}\n\n'
)
DONE = b"data: [DONE]\n\n"


def test_the_tokens_of_a_stream_without_usage_are_those_of_its_timings() -> None:
    meter = StreamMeter(Dialect.OPENAI)
    for at, block in enumerate([TOKEN, TOKEN, TOKEN, LAST, DONE]):
        meter.feed(block, float(at))
    assert meter.usage() == Usage(source=UsageSource.ENGINE, input_tokens=31, output_tokens=3, cached_tokens=30)


def test_a_usage_object_counts_more_than_timings() -> None:
    meter = StreamMeter(Dialect.OPENAI)
    meter.feed(TOKEN, 0.0)
    meter.feed(LAST.replace(b'"timings"', b'"usage":{"prompt_tokens":32,"completion_tokens":4},"timings"'), 1.0)
    assert (meter.usage().input_tokens, meter.usage().output_tokens) == (32, 4)


@pytest.mark.parametrize(
    "timings", [{}, {"prompt_n": 1}, {"prompt_n": -1, "predicted_n": 2}, {"prompt_n": "1", "predicted_n": 2}]
)
def test_timings_that_tell_no_tokens_are_none(timings: dict[str, object]) -> None:
    assert read_timings(timings) is None


def test_what_was_cached_may_be_left_out() -> None:
    found = read_timings({"prompt_n": 5, "predicted_n": 2})
    assert found == Usage(source=UsageSource.ENGINE, input_tokens=5, output_tokens=2)
