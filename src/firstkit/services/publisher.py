# SPDX-License-Identifier: Apache-2.0
"""Publish what the controller wants, and only what changed: routes for gateways, desired documents for launchers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from firstkit.core.catalog import Catalog, Deployment
from firstkit.core.instance.record import Instance, InstanceState
from firstkit.core.job.record import Job, JobState
from firstkit.core.scaling.walltime import End
from firstkit.core.snapshot import View, ends_at, routes, statuses
from firstkit.core.topology import ModelStatus, Route, Snapshot
from firstkit.ports.control import ControlDocuments
from firstkit.ports.engine import Engine
from firstkit.ports.store import ControllerStore, Term
from firstkit.services import membership
from firstkit.services.world import World

FRESH_FOR_S = 10.0
TOUCH_EVERY_S = 3.0
RENEWALS_PER_FENCE = 3
"""How often a launcher without HTTP sees a new desired.json in the time after which it would end itself."""
_STARTED = frozenset({JobState.RUNNING, JobState.ENDING})
_NOTABLE_S = 2.0
_NOTABLE = 0.1
"""A prediction is told anew when it has moved by more than this many seconds and this part of itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Published:
    """What the last snapshot said, so that the passing of time alone is no change."""

    at: float
    revision: int
    routes: tuple[Route, ...]
    ends: tuple[float | None, ...]
    models: tuple[ModelStatus, ...]


@dataclass(slots=True)
class _Document:
    """The newest desired document of a job; `content` None: it has to be written anew."""

    version: int
    content: object = None
    written_at: float = 0.0


class Publisher:
    """Remember what was published last, so that an idle installation writes next to nothing."""

    def __init__(
        self,
        *,
        engines: Mapping[str, Engine],
        documents: ControlDocuments,
        renew_s: float | None = None,
    ) -> None:
        self._engines = engines
        self._documents = documents
        self._renew_s = float("inf") if renew_s is None else renew_s
        self._published: _Published | None = None
        self._touched_at = float("-inf")
        self._desired: dict[str, _Document] = {}
        self._draining_since: dict[str, int] = {}
        self._features: dict[int, tuple[Deployment, frozenset[str], str]] = {}
        self.version = 0

    def resume(self, *, version: int, desired: Mapping[str, int]) -> None:
        """Go on from what the store holds: versions only grow, whoever writes them."""
        self.version = version
        self._desired = {job: _Document(known) for job, known in desired.items()}

    def snapshot(
        self,
        world: World,
        catalog: Catalog,
        *,
        views: Sequence[View],
        ends: Mapping[str, End],
        cordoned: frozenset[str],
        made_from: Callable[[Instance], Deployment | None],
        term: Term,
        now: float,
    ) -> Callable[[ControllerStore], bool] | None:
        """Build the snapshot; return what writes it (True: gateways must be told), or None when nothing is due."""
        live = world.live_instances()
        found = routes(
            live,
            ends=ends,
            made_from=made_from,
            cordoned=cordoned,
            paths=self._paths,
            served_name=self._served_name,
            now=now,
        )
        new = _Published(
            at=now,
            revision=catalog.revision,
            routes=found,
            ends=tuple(ends_at(world.instances[route.instance], ends) for route in found),
            models=statuses(views, instances=live, jobs=world.jobs, catalog=catalog, paths=self._paths, now=now),
        )
        if self._published is not None and _same(self._published, new):
            self._note_drains(live, found)
            return self._touch(term, now)
        self._published, self._touched_at = new, now
        self.version += 1
        self._note_drains(live, found)
        snapshot = Snapshot(
            version=self.version,
            epoch=term.epoch,
            revision=catalog.revision,
            fresh_for_s=FRESH_FOR_S,
            routes=found,
            models=new.models,
        )

        def write(store: ControllerStore) -> bool:
            store.write_snapshot(term, snapshot)
            return True

        return write

    def _touch(self, term: Term, now: float) -> Callable[[ControllerStore], bool] | None:
        """Say now and then that the snapshot still holds."""
        if now - self._touched_at < TOUCH_EVERY_S:
            return None
        self._touched_at = now

        def touch(store: ControllerStore) -> bool:
            store.touch_snapshot(term)
            return False

        return touch

    def _note_drains(self, live: Sequence[Instance], found: Sequence[Route]) -> None:
        """Keep for each instance since which version nothing new is sent to it: its route drains, or there is none."""
        taking = {route.instance for route in found if not route.draining}
        since = self._draining_since
        self._draining_since = {item.id: since.get(item.id, self.version) for item in live if item.id not in taking}

    def _paths(self, deployment: Deployment) -> frozenset[str]:
        return self._feature(deployment)[1]

    def _served_name(self, deployment: Deployment) -> str:
        return self._feature(deployment)[2]

    def _feature(self, deployment: Deployment) -> tuple[Deployment, frozenset[str], str]:
        """Ask an engine's adapter once for each deployment object, not at every tick."""
        known = self._features.get(id(deployment))
        if known is None or known[0] is not deployment:
            if len(self._features) > 10_000:
                self._features.clear()
            engine = self._engines[deployment.engine.kind]
            known = (deployment, engine.paths(deployment), engine.served_name(deployment))
            self._features[id(deployment)] = known
        return known

    def forget(self) -> None:
        """Write everything anew at the next opportunity (after a failed write), under newer versions."""
        self._published = None
        for document in self._desired.values():
            document.content = None

    def drain_published(self, instance: str) -> int | None:
        """Return the first snapshot version since which nothing new is sent to an instance; None while none is."""
        return self._draining_since.get(instance)

    def desired(
        self, world: World, *, gateways: Mapping[str, tuple[str, ...]], now: float
    ) -> list[tuple[Job, int, bytes]]:
        """List the desired documents that have changed, with their new versions.

        `gateways`: where the jobs of each cluster reach gateways by themselves, if they do. Documents of running jobs
        are written anew now and then as well (`renew_s`): where only files reach a launcher, a new desired.json is all
        that tells it, before its fence is over, that it still has a controller.
        """
        changed: list[tuple[Job, int, bytes]] = []
        live = {job.id: job for job in world.live_jobs() if job.state is not JobState.PLANNED}
        for job in live.values():
            instances = world.instances_of_job(job.id)
            told = gateways.get(job.cluster, ())
            content = (
                tuple((item.id, _want(item), item.drain_by) for item in instances if item.drain_by or _want(item)),
                job.ending_for is not None,
                told,
            )
            known = self._desired.get(job.id)
            stale = known is not None and now - known.written_at >= self._renew_s and job.state in _STARTED
            if known is not None and known.content == content and not stale:
                continue
            # from the store's clock, so that a restarted controller's documents are newer than its predecessor's
            version = max(known.version + 1 if known else 1, int(now * 1000))
            self._desired[job.id] = _Document(version, content, now)
            document = membership.desired(job, instances, version=version, now=now, gateways=told)
            changed.append((job, version, self._documents.write_desired(document)))
        for job_id in [one for one in self._desired if one not in live]:
            del self._desired[job_id]
        return changed


def _want(item: Instance) -> str:
    """Reduce an instance to what its launcher is asked: drain, serve, or nothing any more."""
    if item.state is InstanceState.ENDED:
        return ""
    return "drain" if item.state is InstanceState.DRAINING else "serve"


def _same(old: _Published, new: _Published) -> bool:
    """Tell whether a reader who lets time pass by itself would learn nothing from the new one."""
    if old.revision != new.revision or old.ends != new.ends or len(old.models) != len(new.models):
        return False
    if old.routes != new.routes and _endless(old.routes) != _endless(new.routes):
        return False
    passed_s = new.at - old.at
    return all(_same_model(before, after, passed_s) for before, after in zip(old.models, new.models, strict=True))


def _endless(found: Sequence[Route]) -> list[Route]:
    return [replace(one, ends_in_s=None) for one in found]


def _same_model(old: ModelStatus, new: ModelStatus, passed_s: float) -> bool:
    """Compare two statuses of a model, the older one grown older by itself."""
    timeless = {"for_s": 0.0, "to_hot_s": None, "relief_s": None}
    if replace(old, **timeless) != replace(new, **timeless):  # pyright: ignore[reportArgumentType]
        return False
    begun = old.for_s > 0.0 or new.for_s > 0.0
    if begun and abs(old.for_s + passed_s - new.for_s) > _NOTABLE_S:
        return False
    return _as_foreseen(old.to_hot_s, new.to_hot_s, passed_s if begun else 0.0) and _as_foreseen(
        old.relief_s, new.relief_s, passed_s
    )


def _as_foreseen(old: float | None, new: float | None, passed_s: float) -> bool:
    """Tell whether a prediction is what the older one has come to."""
    if old is None or new is None:
        return old is new
    return abs(max(0.0, old - passed_s) - new) <= max(_NOTABLE_S, _NOTABLE * new)
