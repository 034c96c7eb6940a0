# SPDX-License-Identifier: Apache-2.0
"""Every key of the file, taken from the section models: the one source for hints, `explain` and the reference."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic.fields import FieldInfo

from firstkit.config.catalog_sections import File
from firstkit.config.document import resolve_plain
from firstkit.config.process_sections import Section
from firstkit.config.values import EmptyForNothing, NoListForNothing, Shown
from firstkit.core.nearest import or_list

ANY_NAME = "NAME"
"""Stands in a path for a name that people choose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key: where it belongs, and what it may hold."""

    path: tuple[str, ...]
    field: FieldInfo
    section: type[Section] | None
    """The mapping of keys that it holds, if it holds one."""
    named: bool = False
    """Whether there is a level of names between it and that section."""

    @property
    def name(self) -> str:
        """The key itself."""
        return self.path[-1]

    @property
    def dotted(self) -> str:
        """The path, `NAME` where a name goes."""
        return ".".join(self.path)

    @property
    def about(self) -> str:
        """What it means."""
        return self.field.description or ""

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.field.is_required()

    @property
    def may_be_empty(self) -> bool:
        """Whether `key:` with nothing behind it stands for an empty mapping or list."""
        return _is_among(self.field.annotation, self.field.metadata, (EmptyForNothing, NoListForNothing))

    @property
    def type_name(self) -> str:
        """What it may hold, in words."""
        return _type_name(self.field.annotation, self.field.metadata)

    @property
    def default(self) -> Any:
        """The value where the file gives none."""
        return None if self.required else self.field.get_default(call_default_factory=True)

    @property
    def restart(self) -> tuple[str, ...]:
        """Processes that must be started anew when it changes."""
        extra = self.field.json_schema_extra
        return tuple(cast("list[str]", extra["restart"])) if isinstance(extra, dict) and "restart" in extra else ()

    def write(self, value: Any) -> str:
        """Write a value of this key as it may stand in the file."""
        return write_value(value, _shown(self.field.annotation, self.field.metadata))

    @property
    def example(self) -> str:
        """An example, or the default where that says enough."""
        if self.field.examples:
            return write_value(self.field.examples[0], None)
        return "" if self.section else self.write(self.default)


def write_value(value: Any, shown: Shown | None) -> str:
    """Write a value in YAML's flow style."""
    if value is None:
        return shown.none if shown else ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return "{" + ", ".join(f"{key}: {write_value(item, None)}" for key, item in items) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(write_value(item, None) for item in cast("list[Any]", value)) + "]"
    text = shown.write(value) if shown else str(value)
    if isinstance(value, str) and "\n" in text:
        return "|\n  " + text.strip().replace("\n", "\n  ")
    ambiguous = isinstance(value, str) and (
        not isinstance(resolve_plain(text), str) or text[0] in "*&!|>%@`-#{[\"'" or ": " in text
    )
    return f'"{text}"' if ambiguous else text


@cache
def all_keys() -> tuple[Key, ...]:
    """List every key of the file, in the order of the models."""
    return tuple(_walk(File, ()))


@cache
def places_of(name: str) -> tuple[Key, ...]:
    """List the keys of that name, wherever they belong."""
    return tuple(key for key in all_keys() if key.name == name)


def _walk(section: type[Section], path: tuple[str, ...]) -> Iterator[Key]:
    for name, field in section.model_fields.items():
        inner, named = _inner(field.annotation)
        key = Key(path=(*path, name), field=field, section=inner, named=named)
        yield key
        if inner is not None:
            yield from _walk(inner, (*key.path, ANY_NAME) if named else key.path)


def section_at(path: tuple[str | int, ...]) -> type[Section] | None:
    """Find the section whose keys may stand below a path of the file; None where there is none."""
    section: type[Section] | None = File
    steps = list(path)
    while steps and section is not None:
        field = section.model_fields.get(str(steps.pop(0)))
        if field is None:
            return None
        section, named = _inner(field.annotation)
        if named:
            if not steps:
                return None
            steps.pop(0)
    return section


def key_at(path: tuple[str | int, ...]) -> Key | None:
    """Find the key that a path of the file names."""
    pattern: list[str] = []
    section: type[Section] | None = File
    found: Key | None = None
    steps = list(path)
    while steps:
        if section is None:
            return None
        name = str(steps.pop(0))
        field = section.model_fields.get(name)
        if field is None:
            return None
        pattern.append(name)
        section, named = _inner(field.annotation)
        found = Key(path=tuple(pattern), field=field, section=section, named=named)
        if named and steps:
            steps.pop(0)
            pattern.append(ANY_NAME)
            if not steps:
                return found
    return found


def _inner(annotation: Any) -> tuple[type[Section] | None, bool]:
    """Find the section inside an annotation, and whether it is one of many by name."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation, False
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _inner(args[0])
    if origin in {Union, types.UnionType}:
        return next((found for arg in args if (found := _inner(arg))[0] is not None), (None, False))
    if origin is dict:
        section, _ = _inner(args[1])
        return section, section is not None
    return None, False


def _shown(annotation: Any, metadata: list[Any]) -> Shown | None:
    for item in metadata:
        if isinstance(item, Shown):
            return item
    if get_origin(annotation) is Annotated:
        return _shown(get_args(annotation)[0], list(get_args(annotation)[1:]))
    if get_origin(annotation) in {Union, types.UnionType}:
        return next((found for arg in get_args(annotation) if (found := _shown(arg, []))), None)
    return None


def _is_among(annotation: Any, metadata: list[Any], wanted: tuple[Any, ...]) -> bool:
    if any(item is one for item in metadata for one in wanted):
        return True
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _is_among(args[0], list(args[1:]), wanted)
    return origin in {Union, types.UnionType} and any(_is_among(arg, [], wanted) for arg in args)


_NAMES = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`", Any: "value"}


def _type_name(annotation: Any, metadata: list[Any]) -> str:
    if shown := _shown(annotation, metadata):
        return shown.name
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(args[0], list(args[1:]))
    if origin in {Union, types.UnionType}:
        return or_list(_type_name(arg, []) for arg in args if arg is not type(None))
    if origin is Literal:
        return or_list(f"`{arg}`" for arg in args)
    if origin is list:
        return f"list of {_type_name(args[0], [])}s"
    if origin is dict:
        return f"mapping of {ANY_NAME} to {_type_name(args[1], [])}"
    if _inner(annotation)[0] is not None:
        return "mapping"
    return next((name for known, name in _NAMES.items() if known is annotation), "value")
