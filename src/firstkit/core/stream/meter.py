# SPDX-License-Identifier: Apache-2.0
"""Meter a streamed answer as it passes: tokens, time to first token, gaps, whether it ended as its API says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from firstkit.core.request import Dialect, Usage, UsageSource
from firstkit.core.stream.sse import Event, events, split
from firstkit.core.stream.usage import read_timings, read_usage

_TOKEN_FIELDS = ("content", "reasoning_content", "reasoning", "tool_calls", "function_call", "refusal", "audio")
_LAST_ANTHROPIC = "message_stop"
_WORDS = {
    Dialect.OPENAI: (b'"usage"', b"[DONE]", b'"error"', b'"timings"'),
    Dialect.RESPONSES: (b'"usage"', b"response.completed", b'rror"', b"response.completed"),
    Dialect.ANTHROPIC: (b'"usage"', b"message_stop", b'rror"', b"message_stop"),
}
"""An event that holds none of these changes nothing but counts and times."""
_LAST_RESPONSES = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})


class StreamMeter:
    """Reads whole events, most of them without parsing.

    Every event is searched for the few words that matter; only one that has such a word, and those before the first
    token, are parsed. `now` is any clock that does not jump, in seconds.
    """

    __slots__ = (
        "_before",
        "_cached",
        "_choices",
        "_dialect",
        "_input",
        "_output",
        "_word_1",
        "_word_2",
        "_word_3",
        "_word_4",
        "chunks",
        "complete",
        "failed",
        "first_token_at",
        "gap_max_s",
        "gaps",
        "last_at",
    )

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._word_1, self._word_2, self._word_3, self._word_4 = _WORDS[dialect]
        self._choices = 0
        self._before = 0
        self._input: int | None = None
        self._output: int | None = None
        self._cached: int | None = None
        self.last_at = 0.0
        """When something last passed, once there has been a token."""
        self.chunks = 0
        self.complete = False
        """The API's own last event has been seen."""
        self.failed = False
        """The engine sent an error event (vLLM sends its last event after it all the same)."""
        self.first_token_at: float | None = None
        self.gap_max_s = 0.0
        self.gaps = 0

    def feed(self, whole: bytes, now: float) -> None:
        """Note what passed; `whole` holds whole events only."""
        count = whole.count(b"\n\n") if b"\r" not in whole else len(split(whole))
        self.chunks += count
        if self.first_token_at is None:
            self._before = self.chunks - count
            self._read(whole, now)
            return
        gap = now - self.last_at
        self.last_at = now
        self.gaps += 1
        if gap > self.gap_max_s:  # noqa: PLR1730 max() costs twice as much, and this runs for every token
            self.gap_max_s = gap
        if self._tells(whole):
            self._read(whole, now)

    def token(self, whole: bytes, now: float) -> bool:
        """Do the same for events that change nothing but counts and times; False: `feed` has to look at them.

        For what is nearly all of a stream this is enough; framing around the events is no harm.
        """
        if self.first_token_at is None or self._tells(whole):
            return False
        gap = now - self.last_at
        self.last_at = now
        if gap > self.gap_max_s:  # noqa: PLR1730 see `feed`
            self.gap_max_s = gap
        self.gaps += 1
        self.chunks += whole.count(b"\n\n")
        return True

    def _tells(self, whole: bytes) -> bool:
        """Tell whether one of the words that matter is in there.

        `in` would first raise and drop a TypeError for each, as bytes also contain integers; a search from the end is
        the faster one, since the first letter of all the words, a quotation mark, is frequent in JSON and the last is.
        """
        find = whole.rfind
        return find(self._word_1) >= 0 or find(self._word_2) >= 0 or find(self._word_3) >= 0 or find(self._word_4) >= 0

    @property
    def gap_sum_s(self) -> float:
        """The time from the first token to what passed last."""
        return 0.0 if self.first_token_at is None else self.last_at - self.first_token_at

    def usage(self) -> Usage:
        """Say what is known of the tokens so far."""
        if self._input is not None or self._output is not None:
            return Usage(
                source=UsageSource.ENGINE,
                input_tokens=self._input,
                output_tokens=self._output,
                cached_tokens=self._cached,
            )
        if self.first_token_at is not None:
            return Usage(source=UsageSource.COUNTED, output_tokens=self._counted())
        return Usage()

    def _counted(self) -> int:
        """Take every event since the first token for a token, the API's own last one excepted."""
        return max(1, self.chunks - self._before - int(self.complete))

    def _read(self, whole: bytes, now: float) -> None:
        for event in events(whole):
            if event.data == b"[DONE]":
                self.complete = True
                continue
            try:
                fields = json.loads(event.data)
            except (ValueError, RecursionError):
                continue
            if isinstance(fields, dict):
                self._note(event, cast("dict[str, Any]", fields), now)

    def _note(self, event: Event, fields: Mapping[str, Any], now: float) -> None:
        kind = str(fields.get("type") or event.name)
        if fields.get("error") or kind in {"error", "response.failed"} or event.name == "error":
            self.failed = True
        if kind == _LAST_ANTHROPIC or kind in _LAST_RESPONSES:
            self.complete = True
        self._note_usage(fields)
        if self.first_token_at is None and self._is_token(kind, fields):
            self.first_token_at = self.last_at = now

    def _note_usage(self, fields: Mapping[str, Any]) -> None:
        timings = fields.get("timings")
        if isinstance(timings, Mapping) and (usage := read_timings(cast("Mapping[str, Any]", timings))):
            self._input, self._output, self._cached = usage.input_tokens, usage.output_tokens, usage.cached_tokens
        for holder in (fields, fields.get("message"), fields.get("response")):
            if not isinstance(holder, Mapping):
                continue
            given = cast("Mapping[str, Any]", holder).get("usage")
            if isinstance(given, Mapping) and (usage := read_usage(cast("Mapping[str, Any]", given))):
                # Anthropic tells the input at the start and the output at the end
                self._input = usage.input_tokens if usage.input_tokens is not None else self._input
                self._output = usage.output_tokens if usage.output_tokens is not None else self._output
                self._cached = usage.cached_tokens if usage.cached_tokens is not None else self._cached

    def _is_token(self, kind: str, fields: Mapping[str, Any]) -> bool:
        if self._dialect is Dialect.ANTHROPIC:
            return kind == "content_block_delta"
        if self._dialect is Dialect.RESPONSES:
            return kind.endswith(".delta")
        choices = fields.get("choices")
        if not isinstance(choices, list) or not choices:
            return False
        self._choices += 1
        first = cast("list[Any]", choices)[0]
        if not isinstance(first, Mapping):
            return False
        choice = cast("Mapping[str, Any]", first)
        delta = choice.get("delta")
        if not isinstance(delta, Mapping):
            return bool(choice.get("text")) or self._choices > 1
        # a token may have no text of its own (part of a character), so whatever follows the role is one
        return self._choices > 1 or any(cast("Mapping[str, Any]", delta).get(name) for name in _TOKEN_FIELDS)


def is_usage_chunk(block: bytes) -> bool:
    """Tell whether an event is the extra chunk that `stream_options.include_usage` asks for: usage, and no choices."""
    if b'"usage"' not in block or b'"choices"' not in block:
        return False
    for event in events(block):
        try:
            fields = json.loads(event.data)
        except (ValueError, RecursionError):
            return False
        if not isinstance(fields, dict):
            return False
        chunk = cast("dict[str, Any]", fields)
        return chunk.get("choices") == [] and isinstance(chunk.get("usage"), dict)
    return False
