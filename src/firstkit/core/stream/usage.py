# SPDX-License-Identifier: Apache-2.0
"""Token counts as the three APIs write them, and how they are found in an answer that is not parsed as a whole."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from firstkit.core.request import Usage, UsageSource

HEAD_BYTES = 4 * 1024
TAIL_BYTES = 16 * 1024
"""How much of a plain answer's beginning and end is kept to find its usage in."""

_USAGE = re.compile(r'"usage"\s*:\s*(?=\{)')
_DECODER = json.JSONDecoder()


def read_usage(fields: Mapping[str, Any]) -> Usage | None:
    """Read one `usage` object of any of the three APIs; None when it holds no token count.

    Anthropic counts cached input apart; here `input_tokens` always includes it.
    """
    cached = _cached(fields)
    given = _count(fields, "prompt_tokens", "input_tokens")
    output = _count(fields, "completion_tokens", "output_tokens")
    total = _count(fields, "total_tokens")
    if "cache_read_input_tokens" in fields or "cache_creation_input_tokens" in fields:
        extra = (cached or 0) + (_count(fields, "cache_creation_input_tokens") or 0)
        given = given + extra if given is not None else None
    if given is None and total is not None:
        given = total - (output or 0)
    if given is None and output is None:
        return None
    return Usage(source=UsageSource.ENGINE, input_tokens=given, output_tokens=output, cached_tokens=cached)


def read_timings(fields: Mapping[str, Any]) -> Usage | None:
    """Read the `timings` object that ends every streamed answer of llama.cpp, also where usage was not asked for.

    `prompt_n` are the tokens that had to be computed, `cache_n` those found in the slot's cache.
    """
    computed, output = _count(fields, "prompt_n"), _count(fields, "predicted_n")
    if computed is None or output is None:
        return None
    cached = _count(fields, "cache_n")
    return Usage(
        source=UsageSource.ENGINE, input_tokens=computed + (cached or 0), output_tokens=output, cached_tokens=cached
    )


def find_usage(head: bytes, tail: bytes) -> Usage | None:
    """Find the usage in the beginning and the end of a plain answer (they may overlap).

    A quote inside a JSON string is escaped, so the pattern matches a key alone; of several, the last in the answer's
    end is the answer's own in every engine that writes it after the content.
    """
    for part in (tail, head):
        text = part.decode("utf-8", errors="replace")
        for match in reversed(list(_USAGE.finditer(text))):
            try:
                fields, _ = _DECODER.raw_decode(text, match.end())
            except (ValueError, RecursionError):
                continue
            if isinstance(fields, dict) and (usage := read_usage(fields)):  # pyright: ignore[reportUnknownArgumentType]
                return usage
    return None


def _count(fields: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = fields.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None


def _cached(fields: Mapping[str, Any]) -> int | None:
    for name in ("prompt_tokens_details", "input_tokens_details"):
        details = fields.get(name)
        if isinstance(details, Mapping):
            return _count(details, "cached_tokens")  # pyright: ignore[reportUnknownArgumentType]
    return _count(fields, "cache_read_input_tokens")
