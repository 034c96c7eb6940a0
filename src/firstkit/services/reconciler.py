# SPDX-License-Identifier: Apache-2.0
"""The controller's loop: gather, apply, decide, save, act, publish; by level, hastened by nudges (law 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import anyio
import anyio.abc

from firstkit.core.catalog import Catalog, Cluster, Deployment
from firstkit.core.errors import FirstError
from firstkit.core.instance.record import InstanceState
from firstkit.core.job.record import Job
from firstkit.core.reasons import Reason
from firstkit.core.scaling.failures import Patience
from firstkit.core.settings import ControllerSettings
from firstkit.core.snapshot import View
from firstkit.ports.clock import Clock
from firstkit.ports.control import ControlDocuments
from firstkit.ports.engine import Engine
from firstkit.ports.probe import Probed
from firstkit.ports.runner import RemoteFile
from firstkit.ports.scheduler import Observation, Rejected
from firstkit.ports.store import Fenced, Revision, Store
from firstkit.ports.telemetry import Journal
from firstkit.services import autoscaler
from firstkit.services.cadence import Pace, pace
from firstkit.services.external import ExternalWatch, Target, target_of
from firstkit.services.foresight import Foresight, Horizon
from firstkit.services.intake import Intake
from firstkit.services.job_watcher import ClusterWorker, Happening, Reserved, Submitted
from firstkit.services.ledger import MEMORY_S, Inputs, Ledger
from firstkit.services.lifecycle import Lifecycle
from firstkit.services.publisher import Publisher
from firstkit.services.revisions import Revisions
from firstkit.services.store_thread import StoreThread
from firstkit.services.submission import Preparer
from firstkit.services.troubles import Troubles
from firstkit.services.workforce import Workforce
from firstkit.services.world import World

SHORTEST_REST_S = 0.02
REST_PER_WORK = 4
"""After a tick, rest this many times as long as it took, whoever calls: a storm of nudges must not eat a core."""


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
    documents: ControlDocuments
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
        self._ledger = Ledger(
            store=parts.store,
            thread=parts.thread,
            clock=parts.clock,
            holder=parts.holder,
            ttl_s=parts.settings.term_ttl_s,
        )
        self._revisions = Revisions(
            read_catalog=parts.read_catalog,
            spec_of=parts.spec_of,
            list_all=self._ledger.revisions,
            journal=parts.journal,
        )
        self._heritage = self._revisions.heritage
        self._workers = Workforce(
            make=lambda cluster: parts.worker(cluster, self._deliver),
            pace=self._pace,
            missing=self._missing,
            wanted_files=self._wanted_files,
        )
        self._inbox: list[Happening] = []
        self._probed: list[tuple[Target, Probed]] = []
        self._begun: list[tuple[Job, str]] = []
        self._cancels: list[tuple[str, str]] = []
        self._readmitted: dict[str, float] = {}
        self._wake = anyio.Event()
        self._external = parts.external(self._deliver_probe)
        self._foresight = Foresight()
        self._horizon = Horizon()
        self._now = 0.0
        self._retiring_s: float | None = None
        self._troubles = Troubles(parts.journal)
        self._use(World(jobs=[], instances=[], starts=[]))

    def _use(self, world: World) -> None:
        """Work on this world from now on."""
        self._world = world
        self._intake = Intake(
            world,
            engines=self._p.engines,
            documents=self._p.documents,
            look=self._workers.look,
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
        if not await self._take_over():
            return
        fenced: Fenced | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(self._external.run)
            first = True
            while True:
                self._wake = anyio.Event()
                begun_at = self._p.clock.monotonic_s()
                try:
                    empty = await self._tick(group)
                except Fenced as error:
                    fenced = error
                    break
                except FirstError as error:
                    self._troubles.store(error)
                else:
                    self._troubles.store(None)
                    if first:
                        first = False
                        ready()
                    if empty:
                        break
                await self._rest(self._p.clock.monotonic_s() - begun_at)
            group.cancel_scope.cancel()
        if fenced is not None:
            self._p.journal("fenced")
            raise fenced

    async def _rest(self, worked_s: float) -> None:
        """Wait for the next tick: the time for one, or a call, but never without a pause."""
        pause_s = min(self._p.settings.tick_s, max(SHORTEST_REST_S, REST_PER_WORK * worked_s))
        await self._p.clock.sleep_s(pause_s)
        with anyio.move_on_after(self._p.settings.tick_s - pause_s):
            await self._wake.wait()

    async def _take_over(self) -> bool:
        """Wait for the term, then take in everything: a restart re-adopts what runs. False: told to stop first."""
        while True:
            try:
                found = await self._ledger.take_over()
                if found is not None:
                    break
            except FirstError as error:
                if not error.retryable:
                    raise
                self._troubles.store(error)
            if self._retiring_s is not None:
                return False  # what runs is another controller's
            await self._p.clock.sleep_s(0.5)
        self._now = found.now
        self._use(found.world)
        self._p.publisher.resume(version=found.snapshot_version, desired=found.desired_versions)
        self._p.journal("took_over", epoch=found.term.epoch, jobs=len(found.world.live_jobs()))
        return True

    async def give_up(self) -> None:
        """Let the next controller take over at once."""
        await self._ledger.give_up()

    # ------------------------------------------------------------------------------------------------------ one tick
    async def _tick(self, group: anyio.abc.TaskGroup) -> bool:
        """Do one round; True: retired, nothing is left.

        Nothing outside is touched before what led to it is saved under a term that still holds.
        """
        inputs = await self._ledger.gather()
        self._now = inputs.now
        overrides = autoscaler.Overrides(inputs.overrides)
        self._readmitted = {row.subject: row.at for row in inputs.overrides if row.kind == "readmit"}
        await self._revisions.take(inputs.revision, self._world)
        self._workers.staff(self._heritage.clusters, group)
        self._take_in(inputs)
        views = self._decide(inputs, overrides)
        empty = self._carry_out(views, inputs, overrides)
        self._begun += self._lifecycle.begin_submissions(self._workers.__contains__, now=self._now)
        patience_s = self._p.settings.lost_after_s
        self._cancels += self._lifecycle.due_cancels(patience_s=patience_s, now=self._now) + self._intake.orphans
        self._intake.orphans.clear()
        await self._ledger.save(self._world, check=bool(self._begun or self._cancels))
        self._act()
        self._workers.reconsider()
        self._troubles.clusters(self._workers.troubles())
        await self._publish(views, overrides)
        self._forget()
        await self._ledger.prune(self._now)
        return empty

    def _take_in(self, inputs: Inputs) -> None:
        """Apply everything that has arrived since the last tick."""
        inbox, self._inbox = self._inbox, []
        for happening in inbox:
            if isinstance(happening, Submitted):
                self._intake.submitted(happening, now=self._now)
                continue
            begun_at = self._now - (self._p.clock.monotonic_s() - happening.begun_at)
            if isinstance(happening, Reserved):
                self._foresight.reserved(happening, begun_at=begun_at)
            else:
                self._intake.observed(happening, now=self._now, begun_at=begun_at)
        probed, self._probed = self._probed, []
        for target, result in probed:
            self._intake.probed(target, result, now=self._now)
        self._intake.reports(inputs.reports, now=self._now)
        self._intake.contact(inputs.gateways, now=self._now)

    def _decide(self, inputs: Inputs, overrides: autoscaler.Overrides) -> list[View]:
        """Ask the policies."""
        settings = self._p.settings
        self._horizon = self._foresight.look(
            self._world, overrides=inputs.overrides, made_from=self._heritage.of, now=self._now
        )
        return autoscaler.views(
            self._world,
            self._revisions.catalog,
            specs=self._heritage.specs,
            gateways=inputs.gateways,
            overrides=overrides,
            patience=Patience(
                failures_to_hold=settings.failures_to_hold,
                backoff_first_s=settings.backoff_first_s,
                backoff_max_s=settings.backoff_max_s,
            ),
            horizon=self._horizon,
            drain_s=self._p.drain_s,
            now=self._now,
        )

    def _carry_out(self, views: list[View], inputs: Inputs, overrides: autoscaler.Overrides) -> bool:
        """Bring decisions into the records; True when everything has been retired."""
        empty = False
        if self._retiring_s is not None:
            empty = self._lifecycle.retire_all(within_s=self._retiring_s, now=self._now)
        elif self._revisions.known:
            for view in views:
                spec = self._heritage.specs[view.deployment.name]
                self._lifecycle.carry_out(view, catalog=self._revisions.catalog, spec=spec, now=self._now)
            self._lifecycle.retire(self._revisions.catalog, overrides, now=self._now)
        published = self._p.publisher.drain_published
        self._lifecycle.finish_drains(inputs.gateways, published=published, now=self._now)
        self._lifecycle.watch_jobs(self._intake.mute_at, patience_s=self._p.settings.lost_after_s, now=self._now)
        self._aim_probes()
        return empty

    def _act(self) -> None:
        """Hand what has been saved to the clusters' workers."""
        begun, self._begun = self._begun, []
        for job, token in begun:
            self._submit(job, token)
        cancels, self._cancels = self._cancels, []
        for cluster, scheduler_id in cancels:
            self._workers.cancel(cluster, scheduler_id)

    # ------------------------------------------------------------------------------------------------------ clusters
    def _pace(self, name: str) -> Pace:
        cluster = self._heritage.cluster(name)
        files_only = cluster is not None and cluster.control == "files"
        return pace(self._world, name, files_only=files_only, settings=self._p.settings, now=self._now)

    def _missing(self, name: str, found: Observation) -> dict[str, str]:
        return self._intake.missing(name, found, self._now)

    def _wanted_files(self, name: str, found: Observation) -> list[str]:
        return self._intake.wanted_files(name, found, self._now)

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
        for item in self._world.live_instances():
            deployment = self._heritage.of(item) if item.job is None else None
            if deployment is not None:
                target = target_of(item, deployment, self._p.engines[deployment.engine.kind])
                if target is not None:
                    targets[item.id] = target
        self._external.set_targets(targets)

    def _submit(self, job: Job, token: str) -> None:
        """Hand a saved intent to the cluster's worker."""
        deployment, cluster = self._heritage.made(job.deployment, job.spec), self._heritage.cluster(job.cluster)
        if deployment is None or cluster is None or job.cluster not in self._workers:
            detail = "its deployment or cluster has been taken out of the catalog"
            self._deliver(Submitted(job=job.id, answer=Rejected(detail=detail, reason=Reason.SUBMIT_FAILED)))
            return
        try:
            prepared = self._p.preparer.prepare(
                job,
                self._world.instances_of_job(job.id),
                deployment=deployment,
                cluster=cluster,
                scheduler=self._workers.scheduler(job.cluster),
                token=token,
                exclude=self._world.excluded(job.cluster, cleared_at=self._readmitted.get(job.cluster), now=self._now),
            )
        except (FirstError, OSError) as error:
            self._deliver(Submitted(job=job.id, answer=Rejected(detail=str(error))))
            return
        self._workers.submit(job.cluster, job.id, prepared)

    # ---------------------------------------------------------------------------------------------------- publishing
    async def _publish(self, views: list[View], overrides: autoscaler.Overrides) -> None:
        """Write routes and desired documents that have changed, and tell those who wait for them.

        Without a catalog nothing is known that could be published: gateways go on with what they have.
        """
        if not self._revisions.known:
            return
        publisher = self._p.publisher
        snapshot = publisher.snapshot(
            self._world,
            self._revisions.catalog,
            views=views,
            ends=self._horizon.ends,
            cordoned=overrides.subjects("cordon"),
            made_from=self._heritage.of,
            term=self._ledger.term,
            now=self._now,
        )
        gateways = {name: cluster.gateways for name, cluster in self._revisions.catalog.clusters.items()}
        documents = publisher.desired(self._world, gateways=gateways, now=self._now)
        try:
            news = await self._ledger.publish(documents, snapshot)
        except FirstError:
            publisher.forget()
            raise
        if news:
            self._p.nudge("snapshot")
        if documents:
            self._p.nudge("desired")
        for job, _, document in documents:
            self._workers.put(job.cluster, RemoteFile(path=f"{job.run_dir}/desired.json", data=document))

    def _forget(self) -> None:
        """Drop what is over long since."""
        self._workers.tidy(self._world.forget(ended_before=self._now - MEMORY_S))
        self._intake.forget()
        if self._revisions.known:
            self._heritage.forget(self._world)
