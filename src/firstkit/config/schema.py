# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema of the file, for editors and for `first config schema`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from firstkit.config.catalog_sections import File
from firstkit.ports.engine import Engine

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(engines: Mapping[str, Engine] | None = None) -> dict[str, Any]:
    """Describe the file; with adapters at hand also which kinds of engine there are and what keys each has."""
    described = File.model_json_schema()
    _untitle(described)
    schema: dict[str, Any] = {"$schema": DIALECT, "title": "firstkit configuration", **described}
    sections: dict[str, dict[str, Any]] = schema["properties"]
    _allow_nothing(sections["models"]["additionalProperties"])
    for section in sections.values():
        _allow_nothing(section)
    sections["store"]["anyOf"].append({"type": "string"})
    if engines:
        _add_engines(schema["$defs"]["Engine"], engines)
    return schema


def _allow_nothing(part: dict[str, Any]) -> None:
    """Let `key:` with nothing behind it stand for an empty mapping, as loading does."""
    inner = {key: part.pop(key) for key in list(part) if key not in {"description", "examples"}}
    part["anyOf"] = [inner, {"type": "null"}]


def _untitle(part: object) -> None:
    """Take out the titles that pydantic makes of names: they say nothing."""
    if isinstance(part, dict):
        node = cast("dict[str, Any]", part)
        if isinstance(node.get("title"), str):
            del node["title"]
        for item in node.values():
            _untitle(item)
    elif isinstance(part, list):
        for item in cast("list[Any]", part):
            _untitle(item)


def _add_engines(part: dict[str, Any], engines: Mapping[str, Engine]) -> None:
    part["properties"]["kind"]["enum"] = sorted(engines)
    kinds = {kind: adapter.traits.option_names for kind, adapter in engines.items()}
    for option in sorted(frozenset[str]().union(*kinds.values()) - set(part["properties"])):
        owners = sorted(kind for kind, names in kinds.items() if option in names)
        part["properties"][option] = {"description": f"a key of the engines {', '.join(owners)}"}
    if all(kinds.values()):
        part["additionalProperties"] = False
