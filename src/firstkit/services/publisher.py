# SPDX-License-Identifier: Apache-2.0
"""Publish what the controller wants, and only what changed: routes for gateways, desired documents for launchers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from firstkit.core.catalog import Catalog, Deployment
from firstkit.core.instance.record import InstanceState
from firstkit.core.job.record import Job, JobState
from firstkit.core.snapshot import View, routes, statuses
from firstkit.core.topology import ModelStatus, Snapshot
from firstkit.ports.engine import Engine
from firstkit.ports.store import ControllerStore, Term
from firstkit.services import membership
from firstkit.services.world import World
from firstkit.wire import control

FRESH_FOR_S = 10.0
TOUCH_EVERY_S = 3.0


class Publisher:
    """Remember what was published last, so that an idle installation writes next to nothing."""

    def __init__(self, *, engines: Mapping[str, Engine], gateways: list[str]) -> None:
        self._engines = engines
        self._gateways = gateways
        self._signature: object = None
        self._touched_at = float("-inf")
        self._desired: dict[str, tuple[int, object]] = {}
        self._draining_since: dict[str, int] = {}
        self.version = 0

    def snapshot(
        self,
        world: World,
        catalog: Catalog,
        *,
        views: Sequence[View],
        cordoned: frozenset[str],
        term: Term,
        now: float,
    ) -> Callable[[ControllerStore], bool] | None:
        """Build the snapshot; return what writes it (True: gateways must be told), or None when nothing is due."""
        live = [item for item in world.instances.values() if item.state is not InstanceState.ENDED]
        found = routes(
            live,
            jobs=world.jobs,
            catalog=catalog,
            cordoned=cordoned,
            paths=self._paths,
            served_name=self._served_name,
            now=now,
        )
        models = statuses(views, instances=live, jobs=world.jobs, catalog=catalog, paths=self._paths, now=now)
        signature = (
            catalog.revision,
            tuple(replace(route, ends_in_s=_coarse(route.ends_in_s, now)) for route in found),
            tuple(_signature(model, now) for model in models),
        )
        if signature == self._signature:
            if now - self._touched_at < TOUCH_EVERY_S:
                return None
            self._touched_at = now

            def touch(store: ControllerStore) -> bool:
                store.touch_snapshot(term)
                return False

            return touch
        self._signature = signature
        self._touched_at = now
        self.version += 1
        for route in found:
            if route.draining:
                self._draining_since.setdefault(route.instance, self.version)
        snapshot = Snapshot(
            version=self.version,
            epoch=term.epoch,
            revision=catalog.revision,
            fresh_for_s=FRESH_FOR_S,
            routes=found,
            models=models,
        )

        def write(store: ControllerStore) -> bool:
            store.write_snapshot(term, snapshot)
            return True

        return write

    def _paths(self, deployment: Deployment) -> frozenset[str]:
        return self._engines[deployment.engine.kind].paths(deployment)

    def _served_name(self, deployment: Deployment) -> str:
        return self._engines[deployment.engine.kind].served_name(deployment)

    def go_on_from(self, version: int) -> None:
        """Number snapshots on from the last one of the controller before."""
        self.version = version

    def forget(self) -> None:
        """Write everything anew at the next opportunity (after a failed write)."""
        self._signature = None
        self._desired.clear()

    def drain_published(self, instance: str) -> int | None:
        """Return the snapshot version that first said an instance drains; None while none has."""
        return self._draining_since.get(instance)

    def desired(self, world: World, *, now: float) -> list[tuple[Job, int, bytes]]:
        """List the desired documents that have changed, with their new versions."""
        changed: list[tuple[Job, int, bytes]] = []
        live = {job.id: job for job in world.jobs.values() if job.state not in {JobState.ENDED, JobState.PLANNED}}
        for job in live.values():
            instances = world.instances_of_job(job.id)
            document = membership.desired(job, instances, now=now, gateways=self._gateways)
            drains = tuple(sorted((item.id, item.drain_by) for item in instances if item.drain_by is not None))
            wants = tuple(sorted((name, part.want) for name, part in document.instances.items()))
            signature = (wants, drains, document.stop_job)
            version, known = self._desired.get(job.id, (0, None))
            if known == signature:
                continue
            # from the store's clock, so that a restarted controller's documents are newer than its predecessor's
            version = max(version + 1, int(now * 1000))
            self._desired[job.id] = (version, signature)
            changed.append((job, version, control.encode(document.model_copy(update={"version": version}))))
        for job_id in [one for one in self._desired if one not in live]:
            del self._desired[job_id]
        return changed


def _coarse(ends_in_s: float | None, now: float) -> float | None:
    """Turn a duration into a moment coarse enough that the passing of time alone is no change."""
    return None if ends_in_s is None else round((now + ends_in_s) / 2.0)


def _signature(model: ModelStatus, now: float) -> ModelStatus:
    """Leave out of a status what changes by the passing of time alone."""
    eta = None if model.to_hot_s is None else round((now + model.to_hot_s) / 5.0)
    if model.to_hot_s is not None and model.for_s == 0.0:
        eta = round(model.to_hot_s)  # nothing has begun: the prediction stands still
    return replace(model, for_s=round((now - model.for_s) / 5.0) if model.for_s else 0.0, to_hot_s=eta)
