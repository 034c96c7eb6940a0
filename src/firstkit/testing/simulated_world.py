# SPDX-License-Identifier: Apache-2.0
"""A whole installation on virtual time: the real controller and store, simulated clusters, a simulated gateway."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.abc

from firstkit.adapters.engines.registry import load_engines
from firstkit.adapters.store import SqlStore
from firstkit.adapters.store.database import connect
from firstkit.adapters.store.versions import migrate
from firstkit.core.catalog import Catalog, Cluster, Deployment
from firstkit.core.catalog_diff import spec_digest
from firstkit.core.errors import ConfigError
from firstkit.core.instance.record import Instance, InstanceState
from firstkit.core.job.record import Job, JobState
from firstkit.core.settings import ControllerSettings
from firstkit.core.topology import Address, ModelStatus, Route, Snapshot
from firstkit.ports.probe import Probed
from firstkit.ports.store import Demand, Fenced, Override, Revision
from firstkit.services.external import ExternalWatch
from firstkit.services.job_watcher import ClusterWorker, Happening
from firstkit.services.publisher import RENEWALS_PER_FENCE, Publisher
from firstkit.services.reconciler import Parts, Reconciler
from firstkit.services.submission import Launcher, Preparer
from firstkit.testing.records import make_catalog, make_cluster, make_deployment
from firstkit.testing.simulated_cluster import SimulatedCluster
from firstkit.testing.simulated_scheduler import SimulatedScheduler
from firstkit.testing.virtual_time import InlineStoreThread, VirtualClock
from firstkit.wire.control import JsonDocuments

SETTINGS = ControllerSettings(tick_s=1.0, observe_s=5.0, observe_idle_s=30.0, settle_s=60.0)
FENCE_S = 900.0


class SimulatedGateway:
    """Writes demand once a second as a gateway does, and acknowledges the snapshot it has read."""

    def __init__(self, store: SqlStore, name: str = "gw-1") -> None:
        self._store = store
        self.name = name
        self.waiting: dict[str, int] = {}
        self.oldest_wait_s = 0.0
        self.in_flight: dict[str, int] = {}
        self.lost: set[str] = set()
        self.wanted: set[str] = set()
        self.reads = True
        self.acked = 0
        self.snapshot: Snapshot | None = None

    def exchange(self) -> None:
        """Read the snapshot, write the demand."""
        if self.reads:
            found, _ = self._store.snapshot(newer_than=(-1, -1))
            if found is not None:
                self.snapshot, self.acked = found, found.version
        models = {*self.waiting, *self.wanted, "demo-model"}
        rows = [
            Demand(
                gateway=self.name,
                model=model,
                waiting=self.waiting.get(model, 0),
                oldest_wait_s=self.oldest_wait_s if self.waiting.get(model) else None,
                in_flight=self._in_flight_of(model),
                wanted_ago_s=0.0 if self.waiting.get(model) or model in self.wanted else None,
                lost=tuple(sorted(self.lost)),
            )
            for model in sorted(models)
        ]
        self._store.write_demand(gateway=self.name, acked=self.acked, demand=rows)

    def _in_flight_of(self, model: str) -> dict[str, int]:
        routes = self.snapshot.routes if self.snapshot is not None else ()
        mine = {route.instance for route in routes if route.model == model}
        return {name: count for name, count in self.in_flight.items() if name in mine or not mine}


class SimulatedWorld:
    """Drive it with `advance`; look at `jobs`, `instances`, `routes`, `model`; let things go wrong on `clusters`."""

    def __init__(
        self, folder: Path, group: anyio.abc.TaskGroup, *, settings: ControllerSettings, drain_s: float, seed: int
    ) -> None:
        self.clock = VirtualClock()
        self._group = group
        self._settings = settings
        self._drain_s = drain_s
        self._random = random.Random(seed)  # noqa: S311 — a test's chance, to be repeated
        self._catalogs: dict[str, Catalog | None] = {}
        database = connect("sqlite:///sim.db", folder=folder, machine_s=self.clock.wall_s)
        migrate(database)
        self.store = SqlStore(database)
        self.installation = self.store.installation()
        self.clusters: dict[str, SimulatedCluster] = {}
        self.gateways = [SimulatedGateway(self.store)]
        self.engines = load_engines()
        self.external: dict[str, Probed] = {}
        self.questions: list[tuple[str, str | None]] = []
        self.journal: list[tuple[str, dict[str, object]]] = []
        self.writes: dict[str, int] = {}
        self.around_store: Callable[[str], Awaitable[None]] | None = None
        self.reconciler: Reconciler | None = None
        self.fenced = False
        self.retired = False
        self.ready = False
        self._scope: anyio.CancelScope | None = None

    # --------------------------------------------------------------------------------------------------- installation
    def cluster(self, name: str = "local", **manners: Any) -> SimulatedCluster:
        """Add a cluster to the world."""
        cluster = SimulatedCluster(now=self.clock.monotonic_s, report=self._report, **manners)
        self.clusters[name] = cluster
        self._group.start_soon(cluster.live)
        return cluster

    def _report(self, job: str, seq: int, data: bytes) -> None:
        self.store.put_report(job=job, seq=seq, document=data)
        if self.reconciler is not None:
            self.reconciler.wake()

    def apply(self, *deployments: Deployment, clusters: Iterable[Cluster] = ()) -> Revision:
        """Apply a catalog of these deployments; on the cluster `local` unless others are given."""
        places = list(clusters) or [make_cluster(name) for name in self.clusters] or [make_cluster()]
        for place in places:
            if place.name not in self.clusters:
                self.cluster(place.name)
        return self._add(make_catalog(deployments, clusters=places))

    def apply_unreadable(self) -> Revision:
        """Apply a revision that this version cannot read."""
        return self._add(None)

    def _add(self, catalog: Catalog | None) -> Revision:
        document = f"revision {len(self._catalogs)}"
        self._catalogs[document] = catalog
        revision = self.store.add_revision(document=document, by="test")
        if self.reconciler is not None:
            self.reconciler.wake()
        return revision

    def read_catalog(self, revision: Revision) -> Catalog:
        """Read a revision, as the configuration does."""
        catalog = self._catalogs[revision.document]
        if catalog is None:
            raise ConfigError("this revision is beyond this version")
        return catalog

    def override(self, kind: str, subject: str, **value: int) -> Override:
        """Set an operator's override."""
        return self.store.set_override(kind=kind, subject=subject, value=value, by="test", until=None, note="")

    # ----------------------------------------------------------------------------------------------------- controller
    async def start(self) -> Reconciler:
        """Start a controller, and let it tick for the first time."""
        reconciler = self.compose()
        self.begin(reconciler)
        await self.advance(1.0)
        return reconciler

    def begin(self, reconciler: Reconciler) -> None:
        """Let a controller run."""
        self.reconciler = reconciler
        self._scope = anyio.CancelScope()
        self._group.start_soon(self._run, reconciler, self._scope)

    async def _run(self, reconciler: Reconciler, scope: anyio.CancelScope) -> None:
        def ready() -> None:
            self.ready = True

        with scope:
            try:
                await reconciler.run(ready=ready)
                self.retired = True
            except Fenced:
                self.fenced = True

    def kill(self) -> None:
        """Stop the controller where it stands, as -9 does; the term stays taken."""
        if self._scope is not None:
            self._scope.cancel()
        self.reconciler = None

    async def restart(self) -> Reconciler:
        """Kill the controller and start another, which has to wait for the term unless it is its own."""
        self.kill()
        return await self.start()

    def compose(self, holder: str = "controller") -> Reconciler:
        """Make a controller of the real parts."""
        documents = JsonDocuments()

        def worker(cluster: Cluster, deliver: Callable[[Happening], None]) -> ClusterWorker:
            return ClusterWorker(
                cluster=cluster.name,
                run_dir=cluster.run_dir,
                scheduler=SimulatedScheduler(installation=self.installation),
                runner=self.clusters[cluster.name],
                clock=self.clock,
                deliver=deliver,
            )

        parts = Parts(
            store=self.store,
            thread=InlineStoreThread(self._around),
            clock=self.clock,
            settings=self._settings,
            drain_s=self._drain_s,
            holder=holder,
            engines=self.engines,
            documents=documents,
            preparer=Preparer(
                documents=documents,
                installation=self.installation,
                launcher=Launcher(name="launcher-sim.pyz", data=b"zip"),
                engines=self.engines,
                authority=_no_authority,
                control_urls=lambda: ["unix:/run/api.sock"],
                fence_s=FENCE_S,
            ),
            publisher=Publisher(engines=self.engines, documents=documents, renew_s=FENCE_S / RENEWALS_PER_FENCE),
            worker=worker,
            read_catalog=self.read_catalog,
            spec_of=spec_digest,
            read_key=lambda path: f"key of {path}",
            external=lambda deliver: ExternalWatch(probe=self._probe, clock=self.clock, deliver=deliver),
            random=self._random.randbytes,
            nudge=lambda _topic: None,
            journal=self._note,
        )
        return Reconciler(parts)

    async def _around(self, name: str) -> None:
        if name.startswith("after"):
            self.writes[name[6:]] = self.writes.get(name[6:], 0) + 1
        if self.around_store is not None:
            await self.around_store(name)

    async def _probe(self, address: Address, *, authorization: str | None, path: str) -> Probed:
        self.questions.append((path, authorization))
        await anyio.sleep(0.01)
        return self.external.get(address.host, Probed(ready=False, detail="no answer"))

    def _note(self, event: str, **facts: object) -> None:
        self.journal.append((event, facts))

    # ---------------------------------------------------------------------------------------------------------- time
    async def advance(self, seconds: float) -> None:
        """Let time pass; gateways exchange once a second, or less often where the controller is slow on purpose."""
        step_s = 1.0 if self._settings.tick_s <= 1.0 else 2.5
        end = self.clock.monotonic_s() + seconds
        while self.clock.monotonic_s() < end - 1e-9:
            for gateway in self.gateways:
                gateway.exchange()
            await anyio.sleep(min(step_s, end - self.clock.monotonic_s()))

    async def until(self, holds: Callable[[], bool], *, within_s: float = 600.0) -> float:
        """Let time pass until something holds; return how long that took. Fails after `within_s`."""
        begun = self.clock.monotonic_s()
        while not holds():
            if self.clock.monotonic_s() - begun >= within_s:
                raise AssertionError(f"not within {within_s:g} s; {self.describe()}")
            await self.advance(1.0)
        return self.clock.monotonic_s() - begun

    # ----------------------------------------------------------------------------------------------------------- looks
    def jobs(self, *states: JobState) -> list[Job]:
        """List the jobs in the store, in these states only if any are given."""
        found = self.store.jobs(ended_since=0.0)
        return [job for job in found if not states or job.state in states]

    def instances(self, *states: InstanceState) -> list[Instance]:
        """List the instances in the store, in these states only if any are given."""
        found = self.store.instances(ended_since=0.0)
        return [item for item in found if not states or item.state in states]

    def snapshot(self) -> Snapshot:
        """Read the snapshot."""
        found, _ = self.store.snapshot(newer_than=(-1, -1))
        return found if found is not None else Snapshot()

    def routes(self, *, draining: bool = False) -> list[Route]:
        """List the routes that take new requests, or those that drain."""
        return [route for route in self.snapshot().routes if route.draining == draining]

    def model(self, name: str = "demo-model") -> ModelStatus:
        """Say how a model is doing."""
        return next(model for model in self.snapshot().models if model.model == name)

    def events(self, name: str) -> list[Mapping[str, object]]:
        """List what the controller's journal says of one kind."""
        return [facts for event, facts in self.journal if event == name]

    def describe(self) -> str:
        """Say how things stand, for a failure's message."""
        jobs = [(job.id, job.state.value, job.reason.value, job.scheduler_id) for job in self.jobs()]
        items = [(item.id, item.state.value, item.reason.value) for item in self.instances()]
        real = {
            name: [(job.number, job.tag[-4:], job.state, job.why) for job in cluster.jobs.values()]
            for name, cluster in self.clusters.items()
        }
        return json.dumps({"jobs": jobs[-8:], "instances": items[-8:], "real": real, "journal": str(self.journal[-8:])})

    def check(self) -> None:
        """Check what must hold at every moment."""
        claims = [job.run_dir for cluster in self.clusters.values() for job in cluster.live_jobs() if job.launcher]
        assert len(claims) == len(set(claims)), "a job runs twice"
        for route in self.snapshot().routes:
            item = next(one for one in self.instances() if one.id == route.instance)
            assert item.state in {InstanceState.READY, InstanceState.DRAINING}, f"a route to {item.state}"


def _no_authority() -> Any:
    raise AssertionError("no door is needed here")


@contextlib.asynccontextmanager
async def simulated_world(
    folder: Path, *, settings: ControllerSettings = SETTINGS, drain_s: float = 60.0, seed: int = 1, **changes: Any
) -> AsyncGenerator[SimulatedWorld]:
    """Make a world; everything in it ends with the block."""
    async with anyio.create_task_group() as group:
        world = SimulatedWorld(folder, group, settings=replace(settings, **changes), drain_s=drain_s, seed=seed)
        try:
            yield world
        finally:
            group.cancel_scope.cancel()
            world.store.close()


__all__ = ["SETTINGS", "SimulatedGateway", "SimulatedWorld", "make_cluster", "make_deployment", "simulated_world"]
