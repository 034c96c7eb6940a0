# SPDX-License-Identifier: Apache-2.0
"""Answers what a key means, what it may hold, and where its present value comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from firstkit.config.changes import PROCESS_SECTIONS
from firstkit.config.document import (
    ListNode,
    MapNode,
    Node,
    Path,
    ScalarNode,
    format_path,
    node_at,
    parse_path,
    place_of,
)
from firstkit.config.keys import ANY_NAME, Key, all_keys, key_at
from firstkit.config.loading import Loaded
from firstkit.config.report import did_you_mean
from firstkit.core.errors import ConfigError
from firstkit.ports.engine import Engine

_ENGINE = ("deployments", ANY_NAME, "engine")
_NEW_INSTANCES = (_ENGINE, ("deployments", ANY_NAME, "resources"), ("deployments", ANY_NAME, "model"))
_MOST_MATCHES = 6


def explain(key: str, *, loaded: Loaded | None = None, engines: Mapping[str, Engine] | None = None) -> str:
    """Explain a key, given whole (`deployments.llama.scaling.idle`) or by its end (`scaling.idle`, `idle`).

    Raises ConfigError with the nearest keys for one that there is not.
    """
    try:
        path = parse_path(key)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if not path:
        return _overview(all_keys(), "the keys of the file; `first config explain KEY` says more of one", depth=99)
    exact = key_at(path)
    if exact is not None:
        return _explain(exact, path, loaded)
    words = tuple(str(step) for step in path)
    matches = [item for item in all_keys() if item.path[-len(words) :] == words]
    options = _options(words, engines)
    if not matches and not options:
        raise _unknown(key, words, engines)
    if len(matches) > _MOST_MATCHES:
        return _overview(matches, f"keys that end in `{key}`; name one whole", depth=99)
    return "\n\n".join([*(_explain(item, item.path, loaded) for item in matches), *options])


def _unknown(key: str, words: tuple[str, ...], engines: Mapping[str, Engine] | None) -> ConfigError:
    names = {item.name for item in all_keys()}
    for adapter in (engines or {}).values():
        names |= adapter.traits.option_names
    hint = did_you_mean(words[-1], sorted(names))
    return ConfigError(f"there is no key `{key}`; {hint or '`first config explain` alone lists all keys'}")


def _options(words: tuple[str, ...], engines: Mapping[str, Engine] | None) -> list[str]:
    """Explain a key that only some engines have."""
    kinds = sorted(kind for kind, adapter in (engines or {}).items() if words[-1] in adapter.traits.option_names)
    inside = words[:-1] == () or words[-2] == "engine"
    if not kinds or not inside:
        return []
    where = ".".join((*_ENGINE, words[-1]))
    return [f"{where}\n  a key of the engine{'s' if len(kinds) > 1 else ''} {', '.join(kinds)}"]


def _explain(key: Key, path: Path, loaded: Loaded | None) -> str:
    if key.section is not None and len(path) != len(key.path):
        path = path[: len(key.path)]
    lines = [key.dotted, f"  {key.about}", f"  type      {key.type_name}"]
    if key.required:
        lines.append("  default   none: it must be given")
    elif key.section is None:
        lines.append(f"  default   {key.write(key.default) or 'none'}")
    if key.example and key.section is None:
        lines.append(f"  example   {_indent(key.name + ': ' + key.example)}")
    lines.append(f"  applies   {applies(key)}")
    if loaded is not None and key.section is None:
        found = list(_present(key, path, loaded))
        lines += [f"  {'now' if index == 0 else '':8}  {text}" for index, text in enumerate(found)]
    text = "\n".join(lines)
    if key.section is not None:
        inner = [item for item in all_keys() if item.path[: len(key.path)] == key.path and item.path != key.path]
        text += "\n" + _overview(inner, "  keys in it:", depth=len(key.path) + (2 if key.named else 1))
    return text


def applies(key: Key) -> str:
    """Say when another value of a key takes effect."""
    if key.path[0] in PROCESS_SECTIONS:
        return f"when started anew: {', '.join(key.restart)}" if key.restart else "when the file is read again (SIGHUP)"
    if key.name == "start_timeout":
        return "with the next job"
    replaced = any(key.path[: len(part)] == part for part in _NEW_INSTANCES)
    if replaced or key.path in {("deployments", ANY_NAME, "cluster"), ("clusters", ANY_NAME, "setup")}:
        return "at once: new instances take over, the old ones are drained"
    if key.path[:2] == ("clusters", ANY_NAME) and key.path[2:3] != ("limits",):
        return "with the next job"
    return "at once, in place"


def _overview(keys: tuple[Key, ...] | list[Key], title: str, *, depth: int) -> str:
    shown = [key for key in keys if len(key.path) <= depth]
    width = max((len(key.dotted) for key in shown), default=0)
    return "\n".join([title, *(f"  {key.dotted:{width}}  {key.about}" for key in shown)])


def _present(key: Key, path: Path, loaded: Loaded) -> Iterator[str]:
    """Say the value that holds now and where it comes from, for each name that the path leaves open."""
    for concrete in _concrete(loaded.tree, path):
        yield f"{format_path(concrete)}: {_value(key, concrete, loaded)}"


def _concrete(root: MapNode, path: Path) -> list[Path]:
    """Put the names of the file in the place of `NAME`."""
    paths: list[Path] = [()]
    for step in path:
        if step != ANY_NAME:
            paths = [(*done, step) for done in paths]
            continue
        names = ((done, node_at(root, done)) for done in paths)
        paths = [(*done, name) for done, node in names if isinstance(node, MapNode) for name in node.entries]
    return paths


def _value(key: Key, path: Path, loaded: Loaded) -> str:
    node = node_at(loaded.tree, path)
    if node is None and path == ("store", "url") and isinstance(node_at(loaded.tree, ("store",)), ScalarNode):
        path = ("store",)
        node = node_at(loaded.tree, path)
    if node is None:
        return f"{key.write(key.default) or 'none'}  (default)"
    place = place_of(loaded.tree, path)
    where = place.source or f"{loaded.source}:{place.line}:{place.column}"
    return f"{_indent(_written(node))}  ({where})"


def _written(node: Node) -> str:
    match node:
        case ScalarNode():
            return node.text.strip() if node.plain else f'"{node.text.strip()}"'
        case ListNode():
            return "[" + ", ".join(_written(item) for item in node.items) + "]"
        case MapNode():
            return "{" + ", ".join(f"{key}: {_written(item)}" for key, item in node.entries.items()) + "}"


def _indent(text: str) -> str:
    return text.replace("\n", "\n            ")
