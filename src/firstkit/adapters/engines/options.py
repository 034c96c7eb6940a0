# SPDX-License-Identifier: Apache-2.0
"""What may stand below a deployment's `engine`: option models and `args` as flags, and what is wrong with either."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Collection, Mapping
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from firstkit.core.catalog import Deployment
from firstkit.core.nearest import nearest, or_list
from firstkit.ports.engine import Mistake

_WORDS = {
    "string_type": "must be a text",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "missing": "is required",
}


class Options(BaseModel):
    """The keys that one engine kind knows beside `kind`, `model`, `args`, `env`, `setup` and `start_timeout`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    paths: list[str] | None = None
    """The inference paths that this deployment serves, where the adapter's own list is not right for the model."""


OptionsT = TypeVar("OptionsT", bound=Options)


def read_options(kind: type[OptionsT], deployment: Deployment) -> OptionsT:
    """Read a deployment's options; pydantic's ValidationError if `option_mistakes` was not asked before."""
    return kind.model_validate(dict(deployment.engine.options))


def option_mistakes(kind: type[Options], deployment: Deployment, allowed_paths: frozenset[str]) -> list[Mistake]:
    """List unknown and ill-typed option keys, and paths that this kind of engine does not serve."""
    try:
        options = read_options(kind, deployment)
    except ValidationError as error:
        return [_mistake(detail, kind, deployment.engine.kind) for detail in error.errors(include_url=False)]
    return [
        (f"paths.{number}", f"{path} is no path of this engine{meant(path, allowed_paths)}")
        for number, path in enumerate(options.paths or ())
        if path not in allowed_paths
    ]


def _mistake(detail: Any, kind: type[Options], name: str) -> Mistake:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = sorted(kind.model_fields)
        return (
            key,
            f"is no key of the engine {name}{meant(key, known)}; beside the general ones it has {', '.join(known)}",
        )
    return key, _WORDS.get(detail["type"]) or str(detail["msg"])


def meant(word: str, known: Collection[str]) -> str:
    """Give ` (did you mean …?)` for the known words that are most like this one, or nothing."""
    found = nearest(word, known)
    return f" (did you mean {or_list(found)}?)" if found else ""


def flag_name(key: str) -> str:
    """Write a key of `args` as its flag is named: `max_model_len` and `--max-model-len` are the same."""
    return key.strip().lstrip("-").replace("_", "-")


def argument_mistakes(args: Mapping[str, Any], owned: Mapping[str, str]) -> list[Mistake]:
    """List args that firstkit sets itself (`owned`: flag to reason), are given twice, or have no value to pass on."""
    found: list[Mistake] = []
    seen: set[str] = set()
    for key, value in args.items():
        name = flag_name(key)
        path = f"args.{key}"
        if not name or any(character.isspace() or character in "={}" for character in name):
            found.append((path, "is no name of a flag; write it as on the command line, without the dashes in front"))
        elif name in seen:
            found.append((path, f"{name} is given twice"))
        elif (reason := owned.get(name) or owned.get(name.removeprefix("no-"))) is not None:
            found.append((path, f"must not be set: {reason}"))
        elif value is None:
            found.append((path, "has no value; write true for a flag that takes none, or leave it out"))
        elif isinstance(value, list) and not value:
            found.append((path, "is an empty list; leave it out"))
        elif isinstance(value, list) and any(isinstance(item, list | bool) or item is None for item in _items(value)):
            found.append((path, "may list texts, numbers and mappings only"))
        seen.add(name)
    return found


def environment_mistakes(env: Mapping[str, str], owned: Mapping[str, str]) -> list[Mistake]:
    """List variables that must not be set for this engine."""
    return [(f"env.{name}", f"must not be set: {owned[name]}") for name in env if name in owned]


def flags(args: Mapping[str, Any], *, switches: Collection[str] = ()) -> list[str]:
    """Write args as flags: true → `--name`, false → `--no-name`, a list → several values, a mapping → JSON.

    `switches` are flags without a `--no-` form: false leaves them out.
    """
    argv: list[str] = []
    for key, value in args.items():
        name = flag_name(key)
        if value is True:
            argv.append(f"--{name}")
        elif value is False:
            argv += [] if name in switches else [f"--no-{name}"]
        elif isinstance(value, list):
            argv += [f"--{name}", *(_text(item) for item in _items(value))]
        else:
            text = _text(value)
            argv += [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]
    return argv


def _items(value: Any) -> list[Any]:
    return cast("list[Any]", value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"))


def weights_mistakes(deployment: Deployment, what: str) -> list[Mistake]:
    """Say what is wrong with `model` where it must be a path on the cluster."""
    path = deployment.engine.model
    if not path:
        return [("model", f"is required: {what}")]
    if not posixpath.isabs(path):
        return [("model", f"must be an absolute path, not {path}: {what}")]
    return []


def program(venv: str | None, name: str) -> str:
    """Name an executable of a virtual environment, or one to be found on the job's PATH."""
    return posixpath.join(venv, "bin", name) if venv else name


def venv_mistakes(venv: str | None) -> list[Mistake]:
    """Say what is wrong with `venv`."""
    if venv is not None and not posixpath.isabs(venv):
        return [("venv", f"must be the absolute path of a virtual environment on the cluster, not {venv}")]
    return []


def serving(options: Options, default: frozenset[str]) -> frozenset[str]:
    """Choose the paths of a deployment: its own list, or what its kind serves."""
    return default if options.paths is None else frozenset(options.paths)
