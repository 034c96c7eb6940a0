# SPDX-License-Identifier: Apache-2.0
"""Composition of the controller: the only decider of desired state; it listens nowhere."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anyio

from firstkit.adapters.clock import SystemClock
from firstkit.adapters.engines.registry import load_engines
from firstkit.adapters.launcher_zip import build
from firstkit.adapters.links.authority import Authority
from firstkit.adapters.probe import HttpProbe
from firstkit.adapters.store import SqlStore, migrate_store, open_store
from firstkit.adapters.store.nudge import open_nudge
from firstkit.adapters.telemetry.journal import Journal, start_logging
from firstkit.apps.children import Insistence
from firstkit.apps.clusters import connections, runner_for, scheduler_for
from firstkit.apps.naming import leave_installation
from firstkit.config.environment import read_environment
from firstkit.config.loading import Loaded, catalog_from_document, load
from firstkit.core.catalog import Cluster
from firstkit.core.catalog_diff import spec_digest
from firstkit.core.errors import ConfigError, FirstError
from firstkit.ports.store import Revision, Store
from firstkit.services.external import ExternalWatch
from firstkit.services.job_watcher import ClusterWorker, Happening
from firstkit.services.publisher import RENEWALS_PER_FENCE, Publisher
from firstkit.services.reconciler import Parts, Reconciler
from firstkit.services.store_thread import StoreThread
from firstkit.services.submission import Launcher, Preparer
from firstkit.wire.control import JsonDocuments

API_SOCKET = "run/api.sock"
BY_FILE = "configuration file"


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerOptions:
    """What the command line says. `retire_on_stop`: end every job when stopped, which `first up` alone does."""

    config: Path
    data: Path
    retire_on_stop: bool = False


def run_controller(options: ControllerOptions) -> int:
    """Run until TERM or INT; SIGHUP applies the configuration file again. Returns the exit code."""
    start_logging()
    loaded = load(options.config, data_dir=options.data, environ=read_environment(), engines=load_engines())
    return asyncio.run(_Controller(options, loaded).run())


class _Controller:
    """One controller process."""

    def __init__(self, options: ControllerOptions, loaded: Loaded) -> None:
        self._options = options
        self._loaded = loaded
        self._data = Path(loaded.settings.data_dir)
        self._journal = Journal("controller")
        self._clock = SystemClock()
        self._engines = load_engines()
        self._documents = JsonDocuments()
        self._authority: Authority | None = None
        self._masters = connections(self._data, keeper=True)
        self._stopping = False

    async def run(self) -> int:
        """Compose and run."""
        settings = self._loaded.settings
        before, after = migrate_store(settings.store, folder=self._data)
        if before != after:
            self._journal("store_migrated", before=before, after=after)
        store = open_store(settings.store, folder=self._data)
        try:
            leave_installation(self._data, store.installation())
            self._apply_at_start(store)
            async with StoreThread() as thread, open_nudge(settings.store, folder=self._data) as nudge:
                reconciler = Reconciler(self._parts(store, thread, nudge.send))
                nudge.listen(("demand", "report", "catalog"), lambda _topic: reconciler.wake())
                async with anyio.create_task_group() as group:
                    group.start_soon(self._obey_signals, reconciler, group.cancel_scope, thread, store)
                    await reconciler.run(ready=self._ready)
                    group.cancel_scope.cancel()
                await reconciler.give_up()
        finally:
            store.close()
            await self._masters.close()
        return 0

    def _apply_at_start(self, store: SqlStore) -> None:
        """Apply the file, unless a newer revision has come over it since."""
        revision, applied = apply_file(store, self._loaded.document)
        if applied:
            self._journal("applied", revision=revision.number)
        elif not revision.applied_by.startswith(BY_FILE):
            self._journal("newer_revision_kept", revision=revision.number, by=revision.applied_by)

    def _ready(self) -> None:
        self._journal("ready")

    async def _obey_signals(
        self, reconciler: Reconciler, scope: anyio.CancelScope, thread: StoreThread, store: SqlStore
    ) -> None:
        """TERM and INT stop (a second one at once), HUP applies the configuration again."""
        insistence = Insistence()
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                if number == signal.SIGHUP:
                    await self._apply_again(thread, store)
                    reconciler.wake()
                    continue
                again = insistence.heard(number)
                if self._options.retire_on_stop and not self._stopping:
                    self._stopping = True
                    self._journal("retiring")
                    reconciler.retire(within_s=10.0)
                elif self._stopping:
                    if again:
                        reconciler.retire(within_s=0.0)
                else:
                    self._journal("stopping")
                    scope.cancel()

    async def _apply_again(self, thread: StoreThread, store: SqlStore) -> None:
        """Apply the file as a new revision; a broken one is refused whole and the running one stays."""
        try:
            loaded = load(
                self._options.config, data_dir=self._options.data, environ=read_environment(), engines=self._engines
            )
            revision = await thread.call(add_revision, store, loaded.document, by=f"{BY_FILE}, SIGHUP")
            self._journal("applied", revision=revision.number)
        except FirstError as error:
            self._journal("apply_refused", detail=error.message)

    def _parts(self, store: SqlStore, thread: StoreThread, nudge: Callable[[str], None]) -> Parts:
        """Put together what the reconciler needs."""
        settings = self._loaded.settings
        archive = build()
        installation = store.installation()
        fence_s = settings.controller.fence_s
        preparer = Preparer(
            installation=installation,
            launcher=Launcher(name=archive.name, data=archive.data),
            engines=self._engines,
            documents=self._documents,
            authority=self._certificates,
            control_urls=self._control_urls,
            fence_s=fence_s if fence_s > 0 else None,
        )

        def worker(cluster: Cluster, deliver: Callable[[Happening], None]) -> ClusterWorker:
            return ClusterWorker(
                cluster=cluster.name,
                run_dir=cluster.run_dir,
                scheduler=scheduler_for(cluster, installation=installation),
                runner=runner_for(cluster, masters=self._masters),
                clock=self._clock,
                deliver=deliver,
                random=random.random,
            )

        return Parts(
            store=store,
            thread=thread,
            clock=self._clock,
            settings=settings.controller,
            drain_s=settings.gateway.drain_s,
            holder=new_holder(),
            engines=self._engines,
            documents=self._documents,
            preparer=preparer,
            publisher=Publisher(
                engines=self._engines,
                documents=self._documents,
                renew_s=fence_s / RENEWALS_PER_FENCE if fence_s > 0 else None,
            ),
            worker=worker,
            read_catalog=lambda revision: catalog_from_document(revision.document, revision=revision.number),
            spec_of=spec_digest,
            read_key=_read_key,
            external=lambda deliver: ExternalWatch(probe=HttpProbe(), clock=self._clock, deliver=deliver),
            random=os.urandom,
            nudge=nudge,
            journal=self._journal,
        )

    def _certificates(self) -> Authority:
        """Make the authority when a door first needs it."""
        if self._authority is None:
            self._authority = Authority(self._data / "ca")
        return self._authority

    def _control_urls(self) -> list[str]:
        """Say where launchers on this machine report: the api's socket, gateway or not."""
        return [f"unix:{self._data / API_SOCKET}"]


def apply_file(store: Store, document: str) -> tuple[Revision, bool]:
    """Apply a controller's file, unless it is what controllers applied last; return what holds, and whether it is new.

    So what an operator applies after it holds until the file changes, however often a controller starts.
    """
    mine, current = store.last_applied(BY_FILE), store.current_revision()
    if mine is not None and current is not None and mine.document == document:
        return current, False
    return add_revision(store, document, by=f"{BY_FILE} on {socket.gethostname()}"), True


def add_revision(store: Store, document: str, *, by: str) -> Revision:
    """Add the file's revision; also where an operator's says the same: what comes after that comes after the file."""
    current = store.current_revision()
    theirs = current is not None and current.document == document and not current.applied_by.startswith(BY_FILE)
    return store.add_revision(document=document, by=by, repeat=theirs)


def new_holder() -> str:
    """Name this start of a controller; in containers, host name and process id may be another one's as well."""
    return f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"


def _read_key(path: str) -> str:
    """Read an external engine's key."""
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise ConfigError(f"key_file {path} cannot be read: {error.strerror}") from error
