# SPDX-License-Identifier: Apache-2.0
"""What pydantic finds wrong with a tree, said with its place and with what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from firstkit.config.catalog_sections import File
from firstkit.config.document import OLD_BOOL, Path, ScalarNode, format_path, plain_value, scalars
from firstkit.config.keys import ANY_NAME, Key, key_at, places_of, section_at
from firstkit.config.process_sections import Section
from firstkit.config.report import Report, did_you_mean
from firstkit.core.nearest import nearest, or_list

SectionT = TypeVar("SectionT", bound=Section)
Fault: TypeAlias = ErrorDetails

SYNONYMS: Mapping[str, str] = {
    "api_key": "key_file",
    "bind": "listen",
    "command": "argv",
    "database": "store",
    "environment": "env",
    "gpu_count": "gpus",
    "host": "listen",
    "idle_timeout": "idle",
    "key": "key_file",
    "max_instances": "max",
    "max_replicas": "max",
    "mem": "memory",
    "min_instances": "min",
    "min_replicas": "min",
    "modules": "setup",
    "path": "model",
    "port": "listen",
    "project": "account",
    "queue": "partition",
    "replicas": "min",
    "time_limit": "walltime",
    "timeout": "start_timeout",
    "weights": "model",
    "workdir": "run_dir",
}
"""Words of other systems for keys of ours."""


def check_shape(report: Report) -> File | None:
    """Validate the whole tree; the model when nothing is wrong, else None and every mistake in the report."""
    _check_empty(report)
    try:
        return File.model_validate(plain_value(report.root))
    except ValidationError as error:
        faults = error.errors(include_url=False)
    unknown_kinds = {_path(fault)[:-1] for fault in faults if _is_unknown_kind(fault)}
    for fault in faults:
        path = _path(fault)
        # Of a scheduler, runner or link that does not exist here nothing else can be judged.
        if _is_unknown_kind(fault) or not any(path[: len(parent)] == parent for parent in unknown_kinds):
            _describe(report, fault, path)
    return None


def _check_empty(report: Report) -> None:
    """Report keys with nothing behind the colon, where that stands for nothing in particular."""
    for path, scalar in scalars(report.root):
        key = key_at(path) if scalar.value is None else None
        if key is not None and len(key.path) == len(path) and not key.may_be_empty:
            report.add(path, "has no value", expected=_expected(key), hint="" if key.required else _LEAVE_OUT)


def salvage(section: type[SectionT], value: object) -> SectionT | None:
    """Build a section from what is right in a value, so that it can be judged further; None without what it needs."""
    value = _copy({} if value is None else value)
    for _ in range(20):
        try:
            return section.model_validate(value)
        except ValidationError as error:
            faults = error.errors(include_url=False)
        if not all(_remove(value, _path(fault)) for fault in faults if fault["type"] != "missing"):
            return None
        if all(fault["type"] == "missing" for fault in faults):
            return None
    return None


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_copy(item) for item in cast("list[Any]", value)]
    return value


def _remove(value: Any, path: Path) -> bool:
    """Take out what is at a path; True also when it is gone already."""
    if not path:
        return False
    holder: Any = value
    for step in path[:-1]:
        try:
            holder = holder[step]
        except (KeyError, IndexError, TypeError):
            return True
    if isinstance(holder, dict):
        cast("dict[Any, Any]", holder).pop(path[-1], None)
    elif isinstance(holder, list) and len(cast("list[Any]", holder)) > int(path[-1]):
        # The others keep their places until the next round.
        cast("list[Any]", holder).pop(int(path[-1]))
    return True


def _path(fault: Fault) -> Path:
    return tuple(step for step in fault["loc"] if step != "[key]")


def _is_unknown_kind(fault: Fault) -> bool:
    return fault["type"] == "literal_error" and fault["loc"][-1] == "kind"


def _describe(report: Report, fault: Fault, path: Path) -> None:
    kind, given = fault["type"], fault["input"]
    key = key_at(path)
    if kind == "extra_forbidden":
        describe_unknown_key(report, path, known=_known(path[:-1]))
    elif kind == "missing":
        _describe_missing(report, path, key)
    elif given is None:
        if not report.has(path):
            report.add(path, "has no value", expected=_expected(key))
    elif kind == "literal_error":
        words = [part.strip("'") for part in re.findall(r"'[^']*'", str(fault.get("ctx", {}).get("expected", "")))]
        problem = f"`{given}` is not known here"
        if path[-1] == "kind":
            problem = f"this version of firstkit has no {path[-2]} of the kind `{given}`"
        report.add(path, problem, expected=or_list(f"`{word}`" for word in words), hint=did_you_mean(str(given), words))
    elif kind == "value_error":
        sentence = str(fault.get("ctx", {}).get("error", fault["msg"]))
        problem, _, hint = sentence.partition("; ")
        report.add(path, problem, hint=hint, key=fault["loc"][-1:] == ("[key]",))
    elif kind in _WRONG_TYPE:
        report.add(
            path,
            f"{_show(report, path, given)} is {_kind_of(given)}",
            expected=_WRONG_TYPE[kind],
            hint=_convert(kind, given, kinds="kind" in _known(path)),
        )
    else:
        bounds = _bound(fault)
        report.add(path, f"{_show(report, path, given)} {bounds[0]}", expected=bounds[1])


def _describe_missing(report: Report, path: Path, key: Key | None) -> None:
    expected = _expected(key)
    example = f"for example `{path[-1]}: {key.example}`" if key and key.example else ""
    report.add(path[:-1], f"`{path[-1]}` is missing", expected=expected, hint=example, key=True)


_LEAVE_OUT = "or leave the key out"
_MAPPINGS = ("dict_type", "model_type", "model_attributes_type")
_WRONG_TYPE: dict[str, str] = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
}


def _kind_of(value: object) -> str:
    kinds: dict[type, str] = {
        bool: "a truth value",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "a mapping",
    }
    return kinds.get(type(value), "something else")


def _show(report: Report, path: Path, value: object) -> str:
    if isinstance(value, list):
        return "this"
    if isinstance(value, dict):
        return "this"
    node = report.node(path)
    text = node.text if isinstance(node, ScalarNode) else str(value)
    short = text if len(text) <= 40 else text[:37] + "…"
    return f'"{short}"' if isinstance(node, ScalarNode) and not node.plain else f"`{short}`"


def _convert(kind: str, value: object, *, kinds: bool) -> str:
    """Say how the given value is written as the wanted type, where that is plain; `kinds`: a mapping with a `kind`."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if kind in {"int_type", "float_type"} and isinstance(value, str):
        return f"write {text.strip()} without quotes" if re.fullmatch(r"\s*\d+(\.\d+)?\s*", text) else ""
    if kind in {"int_type", "int_from_float"} and isinstance(value, float) and value.is_integer():
        return f"write {value:.0f}"
    if kind == "bool_type" and isinstance(value, str):
        return _as_boolean(text.strip())
    if kind == "bool_type" and isinstance(value, int) and value in {0, 1}:
        return f"write {'true' if value else 'false'}"
    if kind == "string_type" and isinstance(value, (bool, int, float)):
        return f'write "{text}" in quotes'
    if kind in _MAPPINGS and isinstance(value, str) and kinds:
        return f"write {{kind: {text}}}"
    if kind == "list_type" and isinstance(value, str):
        items = ", ".join(part for part in re.split(r"[,;\s]+", text) if part)
        return f"write [{items}]"
    if isinstance(value, list) and kind in _MAPPINGS:
        return "write `key: value`, without the hyphen in front"
    return ""


def _as_boolean(text: str) -> str:
    if text.lower() in {"true", "false"}:
        return f"write {text.lower()} without quotes"
    if OLD_BOOL.fullmatch(text):
        meant = "true" if text.lower() in {"yes", "on", "y"} else "false"
        return f"{text} is a word in YAML 1.2: write {meant}"
    return did_you_mean(text, ("true", "false"))


def _bound(fault: Fault) -> tuple[str, str]:
    context = fault.get("ctx", {})
    described: dict[str, Callable[[], tuple[str, str]]] = {
        "greater_than_equal": lambda: ("is too small", f"{context['ge']} or more"),
        "greater_than": lambda: ("is too small", f"more than {context['gt']:g}"),
        "less_than_equal": lambda: ("is too large", f"{context['le']} or less"),
        "less_than": lambda: ("is too large", f"less than {context['lt']:g}"),
        "string_too_short": lambda: ("is empty", "a text"),
        "finite_number": lambda: ("is no number to count with", "a finite number"),
    }
    describe = described.get(fault["type"])
    return describe() if describe else (f"is wrong: {fault['msg']}", "")


def _expected(key: Key | None) -> str:
    if key is None:
        return ""
    article = "" if key.type_name.startswith("`") else "an " if key.type_name[0] in "aeiou" else "a "
    return f"{article}{key.type_name}: {key.about}"


def _known(path: Path) -> list[str]:
    section = section_at(path)
    return list(section.model_fields) if section else []


def describe_unknown_key(report: Report, path: Path, *, known: list[str]) -> None:
    """Report an unknown key: the nearest right word here, else where it belongs."""
    word = str(path[-1])
    hints = [did_you_mean(word, known)]
    meant = SYNONYMS.get(word.lower().replace("-", "_"))
    if not hints[0] and meant in known:
        hints = [f"did you mean `{meant}`?"]
    homes = [key for key in places_of(word) if not _same_parent(key, path)]
    if hints[0]:
        homes = [key for key in homes if key.path[0] == path[0]]
    if not hints[0] and not homes and meant:
        homes = [key for key in places_of(meant) if not _same_parent(key, path)]
    if homes:
        near = [key for key in homes if key.path[0] == path[0]] or homes
        belongs = or_list(f"`{key.dotted}`" for key in near[:3])
        hints.append(f"it belongs under {_home(near[0])} ({belongs})" if near[0].name == word else f"that is {belongs}")
    if not any(hints) and known:
        hints.append(f"known here: {', '.join(known)}")
    where = f"`{format_path(path[:-1])}`" if len(path) > 1 else "the file"
    report.add(path, f"{where} has no key `{word}`", hint=" ".join(hint for hint in hints if hint), key=True)


def _home(key: Key) -> str:
    holders = [step for step in key.path[:-1] if step != ANY_NAME]
    return f"`{holders[-1]}`" if holders else "the top of the file"


def _same_parent(key: Key, path: Path) -> bool:
    return section_at(key.path[:-1]) is section_at(path[:-1])


def near_names(word: str, names: list[str], *, what: str) -> tuple[str, str]:
    """Say (expected, hint) for a name that is not among the known ones."""
    if not names:
        return f"a name from `{what}`, which is empty", ""
    found = nearest(word, names)
    shown = ", ".join(sorted(names)[:8]) + (", …" if len(names) > 8 else "")
    return f"a name from `{what}` ({shown})", did_you_mean(word, found) if found else ""
