# SPDX-License-Identifier: Apache-2.0
"""The usage of a plain answer that came in one piece, decoded without looking at the rest."""

from __future__ import annotations

import msgspec

from firstkit.core.request import Usage, UsageSource
from firstkit.core.stream.usage import HEAD_BYTES, TAIL_BYTES, find_usage

_ENGINE = UsageSource.ENGINE


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None


_decode = msgspec.json.Decoder(_Answer).decode


def plain_usage(body: bytes) -> Usage:
    """Read the usage as chat and completions write it; any other answer is searched instead."""
    try:
        found = _decode(body).usage
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = None
    if found is not None and found.prompt_tokens is not None:
        details = found.prompt_tokens_details
        return Usage(
            source=_ENGINE,
            input_tokens=found.prompt_tokens,
            output_tokens=found.completion_tokens,
            cached_tokens=details.cached_tokens if details is not None else None,
        )
    return find_usage(body[:HEAD_BYTES], body[-TAIL_BYTES:]) or Usage()
