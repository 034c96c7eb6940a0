# SPDX-License-Identifier: Apache-2.0
"""What the names in requests mean under the catalog in force, and what is told of those that mean nothing."""

from __future__ import annotations

from collections.abc import Iterable

from firstkit.core.access import Directory, may_see, may_use
from firstkit.core.catalog import Catalog, Deployment, Model
from firstkit.core.errors import FirstError
from firstkit.core.principal import Principal
from firstkit.core.request import RequestFacts
from firstkit.services import refusals


class Names:
    """The current catalog's models and their deployments, indexed; empty and not `ready` until one has been read."""

    def __init__(self) -> None:
        self._directory = Directory.of(Catalog())
        self._deployments: dict[str, list[Deployment]] = {}
        self.ready = False

    def set(self, catalog: Catalog) -> None:
        """Take in a revision."""
        self._directory = Directory.of(catalog)
        self._deployments = {}
        for deployment in catalog.deployments.values():
            self._deployments.setdefault(deployment.model, []).append(deployment)
        self.ready = True

    @property
    def models(self) -> frozenset[str]:
        """List the names of the catalog's models."""
        return frozenset(self._directory.catalog.models)

    def resolve(self, asked: str, principal: Principal, cluster: str | None) -> Model:
        """Find the model that a name means to this caller and that something at the cluster serves, or raise."""
        directory = self._directory
        if not self.ready:
            raise refusals.not_ready()
        model = directory.by_name.get(asked)
        if model is None or not may_see(principal, model):
            raise refusals.unknown_model(asked, directory.suggestions(asked, principal))
        if not may_use(principal, model):
            raise refusals.not_allowed(asked)
        if cluster is not None and cluster not in directory.catalog.clusters:
            usable = [it for model in directory.usable(principal) for it in self._deployments.get(model.name, ())]
            raise refusals.unknown_cluster(cluster, _clusters(usable))
        if error := self._unserved(model.name, asked, cluster):
            raise error
        return model

    def gone(self, facts: RequestFacts) -> FirstError | None:
        """Say what a request that waits is told if the catalog no longer offers what it waits for."""
        if facts.model not in self._directory.catalog.models:
            return refusals.unknown_model(facts.asked, ())
        return self._unserved(facts.model, facts.asked, facts.cluster)

    def _unserved(self, model: str, asked: str, cluster: str | None) -> FirstError | None:
        deployments = self._deployments.get(model)
        if not deployments:
            return refusals.no_deployment(asked)
        if cluster is not None and all(deployment.cluster != cluster for deployment in deployments):
            return refusals.not_at_cluster(asked, cluster, _clusters(deployments))
        return None


def _clusters(deployments: Iterable[Deployment]) -> list[str]:
    return sorted({deployment.cluster for deployment in deployments if deployment.cluster is not None})
