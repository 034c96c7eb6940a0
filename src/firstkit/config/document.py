# SPDX-License-Identifier: Apache-2.0
"""YAML 1.2 text as a tree that knows where every key and value stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

Scalar: TypeAlias = str | int | float | bool | None
Path: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where something stands; `line` and `column` count from 1, `source` is set where it is not the file itself."""

    line: int
    column: int
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalarNode:
    """A word, number, boolean or nothing; `plain` tells that it was not quoted, `text` is as written."""

    place: Place
    value: Scalar
    text: str
    plain: bool = True


@dataclass(slots=True, kw_only=True)
class ListNode:
    """A list."""

    place: Place
    items: list[Node] = field(default_factory=list["Node"])


@dataclass(slots=True, kw_only=True)
class MapNode:
    """A mapping; `keys` tells where each key stands."""

    place: Place
    entries: dict[str, Node] = field(default_factory=dict[str, "Node"])
    keys: dict[str, Place] = field(default_factory=dict[str, Place])


Node: TypeAlias = ScalarNode | ListNode | MapNode

_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]{1,100}")
_OCTAL = re.compile(r"0o[0-7]{1,100}")
_HEX = re.compile(r"0x[0-9a-fA-F]{1,100}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,5})?")
_SPECIAL = {".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan")}
OLD_BOOL = re.compile(r"yes|no|on|off|y|n", re.IGNORECASE)
"""Words that YAML 1.1 took for booleans; in 1.2 they are words."""
LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
"""Numbers that YAML 1.1 took for octal; in 1.2 they are decimal."""


def resolve_plain(text: str) -> Scalar:
    """Turn an unquoted scalar into a value by the core schema of YAML 1.2.2, section 10.3.2."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text):
        return int(text, 0)
    if _HEX.fullmatch(text):
        return int(text, 0)
    if text.lower() in _SPECIAL:
        return _SPECIAL[text.lower()]
    if _FLOAT.fullmatch(text) and any(mark in text for mark in ".eE"):
        return float(text)
    return text


def plain_value(node: Node) -> object:
    """Turn a tree into dictionaries, lists and scalars."""
    match node:
        case ScalarNode():
            return node.value
        case ListNode():
            return [plain_value(item) for item in node.items]
        case MapNode():
            return {key: plain_value(value) for key, value in node.entries.items()}


def node_at(root: Node, path: Path) -> Node | None:
    """Find the node at a path; None when there is none."""
    node: Node = root
    for step in path:
        if isinstance(node, MapNode) and isinstance(step, str) and step in node.entries:
            node = node.entries[step]
        elif isinstance(node, ListNode) and isinstance(step, int) and 0 <= step < len(node.items):
            node = node.items[step]
        else:
            return None
    return node


def place_of(root: Node, path: Path, *, key: bool = False) -> Place:
    """Say where the value at a path stands, or its key; where there is none, what encloses it."""
    place = root.place
    node: Node | None = root
    for index, step in enumerate(path):
        last = index == len(path) - 1
        if isinstance(node, MapNode) and isinstance(step, str) and step in node.entries:
            child = node.entries[step]
            # An empty value stands nowhere in particular, and a block's place is its first key: the key says more.
            at_key = key or not last or isinstance(child, MapNode) or _is_empty(child)
            place = node.keys[step] if at_key else child.place
            node = child
        elif isinstance(node, ListNode) and isinstance(step, int) and 0 <= step < len(node.items):
            node = node.items[step]
            place = node.place
        else:
            break
    return place


def _is_empty(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.value is None and node.text == ""


def scalars(node: Node, path: Path = ()) -> Iterator[tuple[Path, ScalarNode]]:
    """Walk over every scalar value below a node."""
    match node:
        case ScalarNode():
            yield path, node
        case ListNode():
            for index, item in enumerate(node.items):
                yield from scalars(item, (*path, index))
        case MapNode():
            for key, value in node.entries.items():
                yield from scalars(value, (*path, key))


def format_path(path: Path) -> str:
    """Write a path with dots; keys that hold other than letters, digits, - and _ are quoted."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            word = step if re.fullmatch(r"[A-Za-z0-9_-]+", step) else f'"{step}"'
            text += f".{word}" if text else word
    return text


def parse_path(text: str) -> Path:
    """Read what `format_path` writes; raises ValueError with a sentence."""
    steps: list[str | int] = []
    rest = text.strip()
    while rest:
        match = re.match(r'"([^"]*)"|\[(\d{1,6})\]|([^."\[\]]+)', rest)
        if match is None:
            raise ValueError(f"{text!r} is no path of keys; write for example gateway.listen")
        quoted, index, word = match.groups()
        steps.append(int(index) if index is not None else quoted if quoted is not None else word)
        rest = rest[match.end() :]
        if rest.startswith("."):
            rest = rest[1:]
            if not rest:
                raise ValueError(f"{text!r} ends in a dot")
        elif rest and not rest.startswith("["):
            raise ValueError(f"{text!r} is no path of keys; write for example gateway.listen")
    return tuple(steps)
