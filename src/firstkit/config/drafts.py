# SPDX-License-Identifier: Apache-2.0
"""What can be understood of a file that may have mistakes, so that the cross checks find all of theirs at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from firstkit.config.catalog_sections import Engine, Limits, Link, Model, Resources, Scaling, Scheduler
from firstkit.config.document import MapNode, plain_value
from firstkit.config.process_sections import Controller, Gateway, Identity, Store
from firstkit.config.runner_section import Runner
from firstkit.config.shape import salvage

KINDS = {"scheduler": ("local", "pbs", "slurm"), "runner": ("local", "ssh"), "link": ("local", "direct", "reverse")}
"""What exists in this version; a cluster that asks for something else is not judged further."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftCluster:
    """A cluster as far as it is understood."""

    scheduler: str
    scheduler_words: Scheduler | None
    runner: str
    runner_words: Runner | None
    link: Link | None
    limits: Limits
    run_dir: str
    gateways: bool
    """Whether it says where its nodes reach gateways."""
    known: bool
    """Whether its scheduler, runner and link exist in this version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftDeployment:
    """A deployment as far as it is understood; "" and None where something is not."""

    model: str
    cluster: str
    engine: Engine | None
    resources: Resources | None
    scaling: Scaling


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A file as far as it is understood."""

    gateway: Gateway
    store: Store | None
    identity: Identity
    controller: Controller
    clusters: Mapping[str, DraftCluster] = field(default_factory=dict[str, DraftCluster])
    models: Mapping[str, Model] = field(default_factory=dict[str, Model])
    deployments: Mapping[str, DraftDeployment] = field(default_factory=dict[str, DraftDeployment])

    @classmethod
    def of(cls, root: MapNode) -> Draft:
        """Understand a tree."""
        value = cast("dict[str, Any]", plain_value(root))
        store = value.get("store")
        return cls(
            gateway=salvage(Gateway, value.get("gateway")) or Gateway(),
            store=salvage(Store, {"url": store} if isinstance(store, str) else store),
            identity=salvage(Identity, value.get("identity")) or Identity(),
            controller=salvage(Controller, value.get("controller")) or Controller(),
            clusters={name: _cluster(item) for name, item in _mapping(value.get("clusters")).items()},
            models={name: salvage(Model, item) or Model() for name, item in _mapping(value.get("models")).items()},
            deployments={name: _deployment(item) for name, item in _mapping(value.get("deployments")).items()},
        )


def _cluster(value: object) -> DraftCluster:
    given = _mapping(value)
    kinds = {part: _text(_mapping(given.get(part)).get("kind")) for part in KINDS}
    return DraftCluster(
        scheduler=kinds["scheduler"],
        scheduler_words=salvage(Scheduler, given.get("scheduler")),
        runner=kinds["runner"],
        runner_words=salvage(Runner, given.get("runner")),
        link=salvage(Link, given.get("link")),
        limits=salvage(Limits, given.get("limits")) or Limits(),
        run_dir=_text(given.get("run_dir")),
        gateways=bool(given.get("gateways")),
        known=all(kinds[part] in known for part, known in KINDS.items()),
    )


def _deployment(value: object) -> DraftDeployment:
    given = _mapping(value)
    resources = given.get("resources")
    return DraftDeployment(
        model=_text(given.get("model")),
        cluster=_text(given.get("cluster")),
        engine=salvage(Engine, given.get("engine")),
        resources=None if resources is None else salvage(Resources, resources),
        scaling=salvage(Scaling, given.get("scaling")) or Scaling(),
    )


def _mapping(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
