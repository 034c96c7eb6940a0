# SPDX-License-Identifier: Apache-2.0
"""What one revision changes against another: which deployments change in place, and which get new instances."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum, StrEnum
from typing import Any, cast

from firstkit.core.catalog import Catalog, Cluster, Deployment
from firstkit.core.units import format_bytes, format_duration


class What(StrEnum):
    """What happened to a named part of the catalog."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """One key with another value; None where it is not there on a side."""

    path: str
    before: Any
    after: Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One cluster, model or deployment that is not as it was.

    `replaces` is for deployments: running instances no longer are what is wanted, so new ones take over and the old
    ones are drained, or, for a removed deployment, drained and not replaced.
    """

    kind: str
    name: str
    what: What
    fields: tuple[FieldChange, ...] = ()
    replaces: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CatalogDiff:
    """All that changes; empty when the two catalogs mean the same."""

    clusters: tuple[Change, ...] = ()
    models: tuple[Change, ...] = ()
    deployments: tuple[Change, ...] = ()

    @property
    def changes(self) -> tuple[Change, ...]:
        """Everything, in the order in which a person reads it."""
        return (*self.clusters, *self.models, *self.deployments)

    def __bool__(self) -> bool:
        return bool(self.changes)


def spec_digest(deployment: Deployment, cluster: Cluster | None) -> str:
    """Digest what an instance is made from: another digest means that a new instance is needed.

    That is the model, the engine, the resources, and of the cluster its name, where and by what it is run, how it is
    reached, and its setup lines. Scaling, access, aliases, limits, the start timeout and what the scheduler is told of
    every job act on running instances or on the next job and replace nothing. 16 hexadecimal digits of SHA-256.
    """
    return hashlib.sha256(_canonical(_plain(_made_from(deployment, cluster))).encode()).hexdigest()[:16]


def _canonical(plain: Any) -> str:
    """Write a value so that equal texts mean equal values; true and 1 are not."""
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def _made_from(deployment: Deployment, cluster: Cluster | None) -> dict[str, Any]:
    engine = deployment.engine
    return {
        "model": deployment.model,
        "engine": {
            "kind": engine.kind,
            "model": engine.model,
            "args": engine.args,
            "env": engine.env,
            "setup": engine.setup,
            "options": engine.options,
            **({} if engine.container is None else {"container": engine.container}),
        },
        "resources": deployment.resources,
        "cluster": cluster
        and {
            "name": cluster.name,
            "scheduler": cluster.scheduler.kind,
            "runner": cluster.runner,
            "link": cluster.link.kind,
            "setup": cluster.setup,
        },
    }


def diff(old: Catalog, new: Catalog) -> CatalogDiff:
    """Compare two catalogs; the revision's number does not count."""
    return CatalogDiff(
        clusters=tuple(_compare("cluster", old.clusters, new.clusters)),
        models=tuple(_compare("model", old.models, new.models)),
        deployments=tuple(_deployments(old, new)),
    )


def _compare(kind: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for name in _names(old, new):
        if name not in old:
            yield Change(kind=kind, name=name, what=What.ADDED)
        elif name not in new:
            yield Change(kind=kind, name=name, what=What.REMOVED)
        elif fields := tuple(_fields(old[name], new[name])):
            yield Change(kind=kind, name=name, what=What.CHANGED, fields=fields)


def _deployments(old: Catalog, new: Catalog) -> Iterator[Change]:
    """Compare deployments; an unchanged one is replaced when what it is made from on its cluster changed."""
    for name in _names(old.deployments, new.deployments):
        before, after = old.deployments.get(name), new.deployments.get(name)
        if before is None:
            yield Change(kind="deployment", name=name, what=What.ADDED)
        elif after is None:
            yield Change(kind="deployment", name=name, what=What.REMOVED, replaces=True)
        else:
            fields = tuple(_fields(before, after))
            there, here = old.clusters.get(before.cluster or ""), new.clusters.get(after.cluster or "")
            replaces = spec_digest(before, there) != spec_digest(after, here)
            if replaces and before.cluster == after.cluster:
                made = (_made_from(before, there)["cluster"], _made_from(after, here)["cluster"])
                fields += tuple(_fields(*made, path=f"clusters.{after.cluster}"))
            if fields:
                yield Change(kind="deployment", name=name, what=What.CHANGED, fields=fields, replaces=replaces)


def _names(old: Iterable[str], new: Iterable[str]) -> list[str]:
    """List the names in the new order, those that are gone at the end."""
    return list(dict.fromkeys([*new, *old]))


def _fields(old: Any, new: Any, path: str = "") -> Iterator[FieldChange]:
    """Find the leaves that differ; lists are compared whole."""
    left, right = _plain(old), _plain(new)
    if isinstance(left, dict) and isinstance(right, dict):
        first, second = cast("dict[str, Any]", left), cast("dict[str, Any]", right)
        for key in _names(first, second):
            yield from _fields(first.get(key), second.get(key), f"{path}.{key}" if path else key)
    elif _canonical(left) != _canonical(right):
        yield FieldChange(path=path, before=left, after=right)


def _plain(value: Any) -> Any:
    """Turn frozen values into what JSON knows; sets are sorted."""
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(item) for item in cast("frozenset[Any]", value))
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in cast("list[Any]", value)]
    return str(value) if isinstance(value, Enum) else value


def sentence(change: Change) -> str:
    """Say a change in one line, as `first deploy diff` shows it."""
    head = f"{change.kind} {change.name}: {change.what}"
    if change.what is What.REMOVED:
        return f"{head}; its instances are drained and end" if change.kind == "deployment" else head
    if change.what is What.ADDED:
        return head
    listed = ", ".join(_said(field) for field in change.fields)
    if change.kind != "deployment":
        return f"{head}: {listed}"
    effect = "new instances take over, the old ones are drained" if change.replaces else "in place"
    return f"{head} ({effect}): {listed}"


_DURATIONS = ("start_timeout_s", "walltime_s", "idle_s", "linger_s")


def _said(field: FieldChange) -> str:
    """Say one field as it stands in the file: durations with their unit, names without it."""
    sides = (field.before, field.after)
    if field.path.endswith(_DURATIONS):
        words = [format_duration(side) if isinstance(side, float) else "never" for side in sides]
    elif field.path.endswith("memory_bytes"):
        words = [format_bytes(side) if isinstance(side, int) else "none" for side in sides]
    else:
        return f"{field.path} {_short(field.before)} → {_short(field.after)}"
    return f"{field.path.removesuffix('_s').removesuffix('_bytes')} {words[0]} → {words[1]}"


def _short(value: Any) -> str:
    text = "none" if value is None else json.dumps(_plain(value), ensure_ascii=False, sort_keys=True)
    return text if len(text) <= 60 else text[:57] + "…"
