# SPDX-License-Identifier: Apache-2.0
"""Who may see and use which model, under which names, and what a mistaken name was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from firstkit.core.catalog import Catalog, Model
from firstkit.core.principal import Principal

ASKED_SHOWN = 100
"""How much of a name that a client made up is looked at and shown back."""

NAMES_COMPARED = 500
"""How many names a mistaken one is compared with at most: the comparison runs on the data plane's loop."""


def may_see(principal: Principal, model: Model) -> bool:
    """Tell whether the model exists as far as this caller is concerned.

    Each list of the model's access that is not empty must be met: naming groups and domains asks for both.
    """
    access = model.access
    if access.groups and access.groups.isdisjoint(principal.groups):
        return False
    return not access.domains or principal.domain in access.domains


def may_use(principal: Principal, model: Model) -> bool:
    """Tell whether the caller may send requests: the model may be seen and the credential is not confined to others."""
    if principal.models is not None and not _listed(principal.models, model):
        return False
    return may_see(principal, model)


def _listed(names: frozenset[str], model: Model) -> bool:
    return model.name in names or bare(model.name) in names or not names.isdisjoint(model.aliases)


def bare(name: str) -> str:
    """Return the name without what stands before its last slash: the name that every model has besides its own."""
    return name.rpartition("/")[2]


def nearest(asked: str, names: Iterable[str], *, limit: int = 3) -> list[str]:
    """List the names most like the one asked for, the likest first; upper and lower case count alike."""
    folded: dict[str, str] = {}
    for name in names:
        folded.setdefault(name.casefold(), name)
        if len(folded) >= NAMES_COMPARED:
            break
    close = difflib.get_close_matches(asked[:ASKED_SHOWN].casefold(), folded, n=limit, cutoff=0.5)
    return [folded[name] for name in close]


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """The names of one catalog revision: what each leads to. An explicit name or alias wins over a bare one."""

    catalog: Catalog
    by_name: Mapping[str, Model]

    @staticmethod
    def of(catalog: Catalog) -> Directory:
        """Index a catalog. A bare name that two models would share leads nowhere."""
        explicit: dict[str, Model] = {}
        implied: dict[str, list[Model]] = {}
        for model in catalog.models.values():
            for alias in model.aliases:
                explicit.setdefault(alias, model)
            implied.setdefault(bare(model.name), []).append(model)
        explicit |= {model.name: model for model in catalog.models.values()}
        single = {name: models[0] for name, models in implied.items() if len(models) == 1}
        return Directory(catalog=catalog, by_name=single | explicit)

    def usable(self, principal: Principal) -> list[Model]:
        """List the models that the caller may use, in the catalog's order."""
        return [model for model in self.catalog.models.values() if may_use(principal, model)]

    def suggestions(self, asked: str, principal: Principal) -> list[str]:
        """List the nearest of the names that the caller may use; never a hidden one."""
        usable = {model.name for model in self.usable(principal)}
        names = [name for name, model in self.by_name.items() if model.name in usable]
        return nearest(asked, names)
