# SPDX-License-Identifier: Apache-2.0
"""Finds engine adapters by their entry point, so that a site can add one without a fork."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from firstkit.core.errors import ConfigError
from firstkit.ports.engine import Engine

GROUP = "firstkit.engines"
_NEEDED = ("check", "launch", "external", "served_name", "paths", "retryable", "models_info")


def load_engines() -> Mapping[str, Engine]:
    """Load every installed adapter, by kind; ConfigError names the distribution of one that cannot be used."""
    engines: dict[str, Engine] = {}
    for point in entry_points(group=GROUP):
        if point.name in engines:
            raise ConfigError(f"Two installed packages offer an engine of the kind {point.name}; remove one of them.")
        engines[point.name] = _load(point)
    return engines


def _load(point: EntryPoint) -> Engine:
    where = f"The engine {point.name} of the package {point.dist.name if point.dist else '(unknown)'}"
    try:
        adapter: Any = point.load()
    except Exception as error:
        raise ConfigError(f"{where} cannot be loaded: {type(error).__name__}: {error}") from error
    missing = [name for name in _NEEDED if not callable(getattr(adapter, name, None))]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}; it was written for another version of firstkit.")
    kind = getattr(getattr(adapter, "traits", None), "kind", None)
    if kind != point.name:
        raise ConfigError(f"{where} says that its kind is {kind}; entry point and traits must agree.")
    return adapter
