# SPDX-License-Identifier: Apache-2.0
"""What an engine's own /v1/models tells about the model it serves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

_LENGTHS = ("max_model_len", "context_length", "context_window", "max_context_length", "n_ctx")


def models_info(body: bytes, served_name: str) -> Mapping[str, Any]:
    """Read `max_model_len` of one served name, as vLLM, SGLang and llama.cpp spell it; {} when it is not said."""
    try:
        listing: Any = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    for entry in _objects(_object(listing).get("data")):
        if entry.get("id") == served_name:
            told = {**_object(entry.get("meta")), **entry}
            for key in _LENGTHS:
                value = told.get(key)
                if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                    return {"max_model_len": value}
    return {}


def _object(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [_object(item) for item in cast("list[Any]", value)] if isinstance(value, list) else []
