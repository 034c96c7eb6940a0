# SPDX-License-Identifier: Apache-2.0
"""The controller's loop: gather, apply, decide, save, act, publish; by level, hastened by nudges (law 4)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import anyio
import anyio.abc

from firstkit.core.catalog import Catalog, Cluster, Deployment
from firstkit.core.errors import FirstError
from firstkit.core.instance.record import InstanceState
from firstkit.core.job.record import Job, JobState
from firstkit.core.scaling.failures import Patience
from firstkit.core.settings import ControllerSettings
from firstkit.core.snapshot import View
from firstkit.ports.clock import Clock
from firstkit.ports.engine import Engine
from firstkit.ports.probe import Probed
from firstkit.ports.runner import RemoteFile
from firstkit.ports.scheduler import Rejected
from firstkit.ports.store import ControllerStore, Fenced, GatewayRow, Override, Report, Revision, Store, Term
from firstkit.services import autoscaler
from firstkit.services.external import ExternalWatch, Target
from firstkit.services.intake import Intake, Journal
from firstkit.services.job_watcher import ClusterWorker, Happening, Submitted
from firstkit.services.lifecycle import Lifecycle
from firstkit.services.publisher import Publisher
from firstkit.services.store_thread import StoreThread
from firstkit.services.submission import Preparer
from firstkit.services.world import World

MEMORY_S = 24 * 3600.0
"""Ended jobs and instances are remembered this long, for failures in a row and for people who ask why."""
GATEWAY_LIVE_S = 5.0
_MOVING = frozenset({JobState.SUBMITTING, JobState.QUEUED, JobState.ENDING})
_CHANGING = frozenset({InstanceState.PLANNED, InstanceState.LOADING, InstanceState.DRAINING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """One look at the store."""

    now: float
    term: Term | None
    revision: Revision | None
    overrides: tuple[Override, ...]
    gateways: tuple[GatewayRow, ...]
    reports: tuple[Report, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything the reconciler is composed of."""

    store: Store
    thread: StoreThread
    clock: Clock
    settings: ControllerSettings
    drain_s: float
    holder: str
    engines: Mapping[str, Engine]
    preparer: Preparer
    publisher: Publisher
    worker: Callable[[Cluster, Callable[[Happening], None]], ClusterWorker]
    read_catalog: Callable[[Revision], Catalog]
    spec_of: Callable[[Deployment, Cluster | None], str]
    read_key: Callable[[str], str]
    external: Callable[[Callable[[Target, Probed], None]], ExternalWatch]
    random: Callable[[int], bytes]
    nudge: Callable[[str], None]
    journal: Journal


class Reconciler:
    """Keep jobs and instances as the catalog, the overrides and the demand want them."""

    def __init__(self, parts: Parts) -> None:
        self._p = parts
        self._catalog = Catalog()
        self._specs: dict[str, str] = {}
        self._revision = -1
        self._workers: dict[str, tuple[ClusterWorker, anyio.CancelScope]] = {}
        self._inbox: list[Happening] = []
        self._probed: list[tuple[Target, Probed]] = []
        self._wake = anyio.Event()
        self._external = parts.external(self._deliver_probe)
        self._term: Term | None = None
        self._now = 0.0
        self._retiring_s: float | None = None
        self._use(World(jobs=[], instances=[], starts=[]))

    def _use(self, world: World) -> None:
        """Work on this world from now on."""
        self._world = world
        self._intake = Intake(
            world,
            engines=self._p.engines,
            cancel=lambda cluster, scheduler_id: self._workers[cluster][0].cancel(scheduler_id),
            look=self._look,
            journal=self._p.journal,
            settle_s=self._p.settings.settle_s,
        )
        self._lifecycle = Lifecycle(
            world,
            engines=self._p.engines,
            random=self._p.random,
            read_key=self._p.read_key,
            journal=self._p.journal,
            drain_s=self._p.drain_s,
        )

    # ------------------------------------------------------------------------------------------------------- running
    def wake(self) -> None:
        """Tick at once: something has changed."""
        self._wake.set()

    def retire(self, *, within_s: float) -> None:
        """Drain and end everything, then return from `run` (`first up` alone does this, law of one process tree)."""
        self._retiring_s = within_s
        self.wake()

    async def run(self, *, ready: Callable[[], None]) -> None:
        """Hold the term and reconcile until cancelled, fenced or retired; `ready` is called after the first tick."""
        await self._take_over()
        async with anyio.create_task_group() as group:
            group.start_soon(self._external.run)
            first = True
            while True:
                self._wake = anyio.Event()
                try:
                    empty = await self._tick(group)
                except Fenced:
                    self._p.journal("fenced")
                    raise
                except FirstError as error:
                    self._p.journal("tick_failed", code=error.code, detail=error.message)
                    self._p.publisher.forget()
                else:
                    if first:
                        first = False
                        ready()
                    if empty:
                        group.cancel_scope.cancel()
                        return
                with anyio.move_on_after(self._p.settings.tick_s):
                    await self._wake.wait()

    async def _take_over(self) -> None:
        """Wait for the term, then load everything: a restart re-adopts what runs."""
        store, call = self._p.store, self._p.thread.call
        while self._term is None:
            self._term = await call(store.take_term, holder=self._p.holder, ttl_s=self._p.settings.term_ttl_s)
            if self._term is None:
                await self._p.clock.sleep_s(0.5)
        self._now = await call(store.now)
        since = self._now - MEMORY_S
        jobs = await call(store.jobs, ended_since=since)
        instances = await call(store.instances, ended_since=since)
        self._use(World(jobs=jobs, instances=instances, starts=await call(store.starts)))
        snapshot, _ = await call(store.snapshot, newer_than=(-1, -1))
        self._p.publisher.go_on_from(snapshot.version if snapshot is not None else 0)
        self._p.journal("took_over", epoch=self._term.epoch, jobs=len(self._world.live_jobs()))

    async def give_up(self) -> None:
        """Let the next controller take over at once."""
        if self._term is not None:
            with contextlib.suppress(FirstError):
                await self._p.thread.call(self._p.store.give_up_term, self._term)

    # ------------------------------------------------------------------------------------------------------ one tick
    async def _tick(self, group: anyio.abc.TaskGroup) -> bool:
        """Do one round; nothing outside is touched before what led to it is saved. True: retired, nothing is left."""
        inputs = await self._p.thread.call(self._gather)
        if inputs.term is None or (self._term is not None and inputs.term.epoch != self._term.epoch):
            raise Fenced("Another controller has taken over; this one stops.")
        self._term, self._now = inputs.term, inputs.now
        overrides = autoscaler.Overrides(rows=inputs.overrides)
        self._take_revision(inputs.revision, group)
        self._take_in(inputs)
        views = self._decide(inputs, overrides)
        empty = self._carry_out(views, inputs, overrides)
        begun = self._lifecycle.begin_submissions(self._workers.__contains__, now=self._now)
        cancels = self._lifecycle.due_cancels(now=self._now)
        await self._save()
        for job, token in begun:
            self._submit(job, token)
        for cluster, scheduler_id in cancels:
            if cluster in self._workers:
                self._workers[cluster][0].cancel(scheduler_id)
        await self._publish(views, overrides)
        self._world.forget(ended_before=self._now - MEMORY_S)
        self._intake.forget()
        return empty

    def _gather(self) -> Inputs:
        """Read everything that the tick looks at (store thread)."""
        store = self._p.store
        return Inputs(
            now=store.now(),
            term=store.take_term(holder=self._p.holder, ttl_s=self._p.settings.term_ttl_s),
            revision=store.current_revision(),
            overrides=tuple(store.overrides()),
            gateways=tuple(store.gateways(within_s=GATEWAY_LIVE_S)),
            reports=tuple(store.reports()),
        )

    def _take_in(self, inputs: Inputs) -> None:
        """Apply everything that has arrived since the last tick."""
        inbox, self._inbox = self._inbox, []
        for happening in inbox:
            if isinstance(happening, Submitted):
                self._intake.submitted(happening, now=self._now)
            else:
                begun_at = self._now - (self._p.clock.monotonic_s() - happening.begun_at)
                self._intake.observed(happening, now=self._now, begun_at=begun_at)
        probed, self._probed = self._probed, []
        for target, result in probed:
            self._intake.probed(target, result, now=self._now)
        self._intake.reports(inputs.reports, now=self._now)
        self._intake.contact(inputs.gateways, now=self._now)

    def _decide(self, inputs: Inputs, overrides: autoscaler.Overrides) -> list[View]:
        """Ask the policies."""
        settings = self._p.settings
        return autoscaler.views(
            self._world,
            self._catalog,
            specs=self._specs,
            gateways=inputs.gateways,
            overrides=overrides,
            patience=Patience(
                failures_to_hold=settings.failures_to_hold,
                backoff_first_s=settings.backoff_first_s,
                backoff_max_s=settings.backoff_max_s,
            ),
            drain_s=self._p.drain_s,
            now=self._now,
        )

    def _carry_out(self, views: list[View], inputs: Inputs, overrides: autoscaler.Overrides) -> bool:
        """Bring decisions into the records; True when everything has been retired."""
        empty = False
        if self._retiring_s is not None:
            empty = self._lifecycle.retire_all(within_s=self._retiring_s, now=self._now)
        else:
            for view in views:
                spec = self._specs[view.deployment.name]
                self._lifecycle.carry_out(view, catalog=self._catalog, spec=spec, now=self._now)
            if self._revision >= 0:
                self._lifecycle.retire(self._catalog, overrides, now=self._now)
        published = self._p.publisher.drain_published
        self._lifecycle.finish_drains(inputs.gateways, published=published, now=self._now)
        self._lifecycle.watch_boots(patience_s=self._p.settings.lost_after_s, now=self._now)
        self._aim_probes()
        return empty

    # ---------------------------------------------------------------------------------------------- catalog, clusters
    def _take_revision(self, revision: Revision | None, group: anyio.abc.TaskGroup) -> None:
        """Act on a new catalog; one that cannot be read is refused whole and the old one stays."""
        if revision is None or revision.number == self._revision:
            return
        known, self._revision = self._catalog, revision.number
        try:
            self._catalog = replace(self._p.read_catalog(revision), revision=revision.number)
        except FirstError as error:
            self._p.journal("revision_refused", revision=revision.number, detail=error.message)
            return
        clusters = self._catalog.clusters
        self._specs = {
            item.name: self._p.spec_of(item, clusters.get(item.cluster or ""))
            for item in self._catalog.deployments.values()
        }
        self._p.journal("revision_applied", revision=revision.number, deployments=len(self._specs))
        for name, cluster in clusters.items():
            if known.clusters.get(name) != cluster or name not in self._workers:
                self._start_worker(name, cluster, group)

    def _start_worker(self, name: str, cluster: Cluster, group: anyio.abc.TaskGroup) -> None:
        """(Re)start the worker of a cluster; the worker of a cluster that is gone stays until its jobs have ended."""
        if name in self._workers:
            self._workers[name][1].cancel()
        worker = self._p.worker(cluster, self._deliver)
        worker.configure(
            interval_s=lambda: self._interval_s(name),
            wanted_files=lambda: self._intake.stale_status_files(name, self._now),
        )
        scope = anyio.CancelScope()
        self._workers[name] = (worker, scope)

        async def work() -> None:
            with scope:
                await worker.run()

        group.start_soon(work)

    def _interval_s(self, name: str) -> float:
        """Look often only while something is on its way."""
        cluster = self._catalog.clusters.get(name)
        jobs = self._world.live_jobs(name)
        busy = any(job.state in _MOVING for job in jobs)
        if not busy and cluster is not None and cluster.control == "files":
            busy = any(item.state in _CHANGING for job in jobs for item in self._world.instances_of_job(job.id))
        return self._p.settings.observe_s if busy else self._p.settings.observe_idle_s

    def _look(self, cluster: str) -> None:
        if cluster in self._workers:
            self._workers[cluster][0].look()

    def _deliver(self, happening: Happening) -> None:
        self._inbox.append(happening)
        self.wake()

    def _deliver_probe(self, target: Target, probed: Probed) -> None:
        self._probed.append((target, probed))
        item = self._world.instances.get(target.instance)
        if item is not None and (item.state is InstanceState.READY) != probed.ready:
            self.wake()

    def _aim_probes(self) -> None:
        """Keep the list of external engines to ask."""
        targets: dict[str, Target] = {}
        for item in self._world.instances.values():
            deployment = self._catalog.deployments.get(item.deployment)
            if item.job is not None or item.state is InstanceState.ENDED or deployment is None:
                continue
            engine = self._p.engines[deployment.engine.kind]
            spec = engine.external(deployment)
            if spec is not None:
                targets[item.id] = Target(
                    instance=item.id,
                    engine=deployment.engine.kind,
                    address=spec.address,
                    authorization=f"Bearer {item.engine_key}" if item.engine_key else None,
                    path=spec.serves_path or spec.health_path,
                    served_name=spec.serves_name or engine.served_name(deployment),
                )
        self._external.set_targets(targets)

    def _submit(self, job: Job, token: str) -> None:
        """Hand a saved intent to the cluster's worker."""
        worker = self._workers[job.cluster][0]
        try:
            prepared = self._p.preparer.prepare(
                job,
                self._world.instances_of_job(job.id),
                deployment=self._catalog.deployments[job.deployment],
                cluster=self._catalog.clusters[job.cluster],
                scheduler=worker.scheduler,
                token=token,
            )
        except FirstError as error:
            self._deliver(Submitted(job=job.id, answer=Rejected(detail=error.message)))
            return
        worker.submit(job.id, prepared)

    # --------------------------------------------------------------------------------------------- saving, publishing
    async def _save(self) -> None:
        """Save what has changed in one transaction; what cannot be saved is kept for the next tick."""
        dirty = self._world.take_dirty()
        if not dirty or self._term is None:
            return
        try:
            await self._p.thread.call(
                self._p.store.save,
                self._term,
                jobs=list(dirty.jobs.values()),
                instances=list(dirty.instances.values()),
                events=dirty.events,
                starts=dirty.starts,
            )
        except FirstError:
            self._world.put_back(dirty)
            raise

    async def _publish(self, views: list[View], overrides: autoscaler.Overrides) -> None:
        """Write routes and desired documents that have changed, and tell those who wait for them."""
        if self._term is None:
            return
        term = self._term
        write = self._p.publisher.snapshot(
            self._world,
            self._catalog,
            views=views,
            cordoned=overrides.subjects("cordon"),
            term=term,
            now=self._now,
        )
        documents = self._p.publisher.desired(self._world, now=self._now)
        if write is None and not documents:
            return

        def store_all(store: ControllerStore) -> bool:
            for job, version, document in documents:
                store.set_desired(term, job=job.id, version=version, document=document)
            return write(store) if write is not None else False

        if await self._p.thread.call(store_all, self._p.store):
            self._p.nudge("snapshot")
        if documents:
            self._p.nudge("desired")
        for job, _, document in documents:
            if job.cluster in self._workers:
                self._workers[job.cluster][0].put(RemoteFile(path=f"{job.run_dir}/desired.json", data=document))
