# SPDX-License-Identifier: Apache-2.0
"""What running instances were made from, when the catalog has moved on: their deployments and clusters as they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from firstkit.core.catalog import Catalog, Cluster, Deployment
from firstkit.core.errors import FirstError
from firstkit.core.instance.record import Instance
from firstkit.ports.store import Revision
from firstkit.services.world import World


class Heritage:
    """Remember every deployment by name and digest, and every cluster by name, as long as something of it lives.

    An instance of an older digest is routed by what it was made from; a removed deployment's instances are still routed
    while they drain, and a removed cluster is still looked at while it has jobs of ours.
    """

    def __init__(
        self,
        *,
        read_catalog: Callable[[Revision], Catalog],
        spec_of: Callable[[Deployment, Cluster | None], str],
    ) -> None:
        self._read_catalog = read_catalog
        self._spec_of = spec_of
        self._deployments: dict[tuple[str, str], Deployment] = {}
        self._clusters: dict[str, Cluster] = {}
        self._catalog = Catalog()
        self.specs: dict[str, str] = {}

    def take(self, catalog: Catalog) -> None:
        """Make this the present catalog."""
        self._catalog = catalog
        self.specs = self._learn(catalog)

    def _learn(self, catalog: Catalog, *, older: bool = False) -> dict[str, str]:
        specs: dict[str, str] = {}
        for item in catalog.deployments.values():
            specs[item.name] = self._spec_of(item, catalog.clusters.get(item.cluster or ""))
            key = (item.name, specs[item.name])
            self._deployments[key] = self._deployments.get(key, item) if older else item
        known = self._clusters
        self._clusters = {**catalog.clusters, **known} if older else {**known, **catalog.clusters}
        return specs

    def missing(self, world: World) -> bool:
        """Tell whether something lives whose origin is unknown (after a restart)."""
        return any((item.deployment, item.spec) not in self._deployments for item in world.live_instances()) or any(
            job.cluster not in self._clusters for job in world.live_jobs()
        )

    def read_older(self, revisions: Sequence[Revision]) -> None:
        """Learn from earlier revisions, newest first; one that cannot be read any more tells nothing."""
        for revision in revisions:
            try:
                self._learn(self._read_catalog(revision), older=True)
            except FirstError:
                continue

    def forget(self, world: World) -> None:
        """Drop what nothing lives of any more."""
        live = {(item.deployment, item.spec) for item in world.live_instances()} | set(self.specs.items())
        self._deployments = {key: item for key, item in self._deployments.items() if key in live}
        clusters = {job.cluster for job in world.live_jobs()} | set(self._catalog.clusters)
        self._clusters = {name: item for name, item in self._clusters.items() if name in clusters}

    def made(self, deployment: str, spec: str) -> Deployment | None:
        """Return the deployment of that name as it was with that digest."""
        return self._deployments.get((deployment, spec))

    def cluster(self, name: str) -> Cluster | None:
        """Return a cluster as it is, or as it last was."""
        return self._clusters.get(name)

    @property
    def clusters(self) -> dict[str, Cluster]:
        """All clusters that are in the catalog or still have jobs."""
        return self._clusters

    def of(self, instance: Instance) -> Deployment | None:
        """Return what an instance was made from, with the scaling that holds now."""
        made = self.made(instance.deployment, instance.spec)
        now = self._catalog.deployments.get(instance.deployment)
        if made is None or now is None or now.scaling == made.scaling:
            return made or now
        return replace(made, scaling=now.scaling)
