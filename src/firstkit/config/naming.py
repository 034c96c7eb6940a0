# SPDX-License-Identifier: Apache-2.0
"""The public names of models: what is given, and the name without slash that is always there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def derived_alias(model: str, aliases: Sequence[str]) -> str | None:
    """Name the alias that is added because no given name is without slash: the last part of the model's name."""
    return None if any("/" not in name for name in (model, *aliases)) else model.rpartition("/")[2]


def with_derived(models: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Give every model its aliases, the derived one last."""
    return {
        model: (*aliases, *([alias] if (alias := derived_alias(model, aliases)) else []))
        for model, aliases in models.items()
    }
