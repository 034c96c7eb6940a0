# SPDX-License-Identifier: Apache-2.0
"""Composition of a gateway: the data plane on one loop, the store in one thread, the api as one more upstream."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import random
import signal
import socket
import ssl
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import uvloop

from firstkit.adapters.clock import SystemClock
from firstkit.adapters.engines.registry import load_engines
from firstkit.adapters.identity.api_keys import ApiKeyIdentity
from firstkit.adapters.links.authority import Authority
from firstkit.adapters.store import SqlStore, open_store
from firstkit.adapters.store.nudge import Nudge, open_nudge
from firstkit.adapters.telemetry.journal import Journal, start_logging
from firstkit.adapters.telemetry.metrics import PrometheusTelemetry
from firstkit.apps.children import Child, Insistence, Part
from firstkit.apps.door_pass import DoorPass
from firstkit.apps.listening import admin_socket, doors_socket, leave_address, public_socket, release
from firstkit.config.environment import read_environment
from firstkit.config.loading import catalog_from_document, load_settings
from firstkit.core.errors import FirstError, SiteError, Unavailable
from firstkit.core.ids import encode
from firstkit.core.settings import GatewaySettings, Settings, TlsFiles
from firstkit.core.topology import Address, AddressKind, Heat, Snapshot
from firstkit.dataplane import PARK, REPORT, LocalAnswer, Plane, Wheel
from firstkit.ports.store import SchemaMismatch
from firstkit.services.admission import Admission
from firstkit.services.dispatcher import Dispatcher, Lease
from firstkit.services.gateway_feed import GatewayFeed, Sinks
from firstkit.services.refusals import not_ready
from firstkit.services.settlement import Settlement
from firstkit.services.spool import Spool
from firstkit.services.store_thread import StoreThread

STORE_PATIENCE_S = 60.0
PICTURE_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """What the command line says.

    `listen_fd`, `admin_fd`, `doors_fd`: inherited listening sockets, used instead of binding. `ready_fd`: a pipe that
    is written to once requests are taken; this gateway succeeds another one, so that it listens only when it knows the
    catalog.
    """

    config: Path
    data: Path
    listen_fd: int | None = None
    admin_fd: int | None = None
    doors_fd: int | None = None
    ready_fd: int | None = None
    own_api: bool = True


def run_gateway(options: GatewayOptions) -> int:
    """Run until TERM, INT or QUIT, then drain; HUP reads settings and certificates again. Returns the exit code."""
    start_logging()
    settings = _read(options)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Gateway(options, settings).run())


def _read(options: GatewayOptions) -> Settings:
    return load_settings(options.config, data_dir=options.data, environ=read_environment())


class _Gateway:
    """One gateway process."""

    def __init__(self, options: GatewayOptions, settings: Settings) -> None:
        self._options = options
        self._settings = settings
        self._data = Path(settings.data_dir)
        self._name = f"gw-{encode(os.urandom(5), 8)}"
        self._journal = Journal("gateway")
        self._clock = SystemClock()
        self._server_tls = _server_context(settings.gateway.tls)
        self._known = anyio.Event()
        self._stop = anyio.Event()
        self._refusing = False
        self._hurry = anyio.Event()
        self._snapshot = Snapshot()

    async def run(self) -> int:
        """Compose, serve, drain."""
        store = await self._open_store()
        api = self._own_api()
        try:
            async with StoreThread() as thread, open_nudge(self._settings.store, folder=self._data) as nudge:
                if api is not None:
                    await api.start()
                await self._serve(store, thread, nudge)
        finally:
            if api is not None:
                await api.stop(within_s=15.0)
            store.close()
        return 0

    async def _open_store(self) -> SqlStore:
        """Open the store, waiting for the controller to bring it to this version's schema."""
        deadline = time.monotonic() + STORE_PATIENCE_S
        while True:
            try:
                return open_store(self._settings.store, folder=self._data)
            except SchemaMismatch as error:
                if error.code != "store_not_migrated" or time.monotonic() > deadline:
                    raise
                self._journal("waiting_for_migration", detail=error.message)
                await anyio.sleep(0.5)

    def _own_api(self) -> Child | None:
        """Make the api a child of this gateway, unless it is somebody else's."""
        if not self._options.own_api:
            return None
        logs = self._data / "logs"
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        arguments = ("api", "--config", str(self._options.config), "--data", str(self._data))
        return Child(
            Part(name="api", arguments=arguments), logs=logs, say=lambda text: self._journal("api", detail=text)
        )

    async def _serve(self, store: SqlStore, thread: StoreThread, nudge: Nudge) -> None:
        """Run the plane and the feed until asked to stop, then drain."""
        gateway = self._settings.gateway
        self._identity = ApiKeyIdentity(
            load=lambda: thread.call(store.keys),
            wall_s=self._clock.wall_s,
            monotonic_s=self._clock.monotonic_s,
        )
        wheel = Wheel(asyncio.get_running_loop())
        self._dispatcher = Dispatcher(
            settings=gateway,
            now=time.monotonic,
            random=random.Random(),  # noqa: S311 — spreads load, guards nothing
            later=wheel.later,
            on_demand=self._wanted,
            gateway=self._name,
            cut=self._cut,
        )
        spool = Spool(self._data / "spool", owner=self._name)
        settlement = Settlement(spool, store, folder=self._data / "spool", journal=self._journal)
        self._feed = self._make_feed(store, thread, nudge)
        telemetry = PrometheusTelemetry()
        self._watch_state(telemetry, settlement)
        self._plane = self._make_plane(gateway, spool, wheel, telemetry)
        doors_tls = self._pass_doors(gateway)
        options = self._options
        public = public_socket(gateway.listen, options.listen_fd)
        admin = admin_socket(gateway.admin, self._data, options.admin_fd)
        doors = doors_socket(gateway.doors, options.doors_fd)
        nudge.listen(("snapshot", "catalog", "keys"), lambda _topic: self._feed.wake())
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._obey_signals)
                group.start_soon(self._run_feed)
                group.start_soon(settlement.run, thread)
                if options.ready_fd is not None:
                    with anyio.move_on_after(PICTURE_PATIENCE_S):
                        await self._known.wait()
                    if not self._dispatcher.ready:
                        raise SiteError(
                            "This gateway cannot read the catalog, so it does not take over; its log says why.",
                            code="no_catalog",
                        )
                await self._listen(public, admin)
                if doors is not None and doors_tls is not None:
                    await self._plane.listen_for_doors(doors, doors_tls)
                _settle_memory()
                self._journal("listening", gateway=self._name)
                self._tell_ready()
                await self._stop.wait()
                await self._drain()
                group.cancel_scope.cancel()
        finally:
            for sock, given in ((public, options.listen_fd), (admin, options.admin_fd), (doors, options.doors_fd)):
                if sock is not None:
                    release(sock, inherited=given is not None)
        await settlement.finish(thread)
        with anyio.move_on_after(5.0, shield=True), contextlib.suppress(FirstError):
            await self._feed.leave()

    async def _listen(self, public: socket.socket, admin: socket.socket | None) -> None:
        """Take requests from now on."""
        await self._plane.listen(public)
        leave_address(self._data, public, tls=self._settings.gateway.tls is not None)
        if admin is not None:
            await self._plane.listen(admin, admin=True)

    def _pass_doors(self, gateway: GatewaySettings) -> ssl.SSLContext | None:
        """Look after the certificates for doors; return the context for those that arrive, if any may."""
        folder = self._data / "ca"
        arriving = Authority(folder).doors_context([PARK, REPORT]) if gateway.doors else None
        self._door_pass = DoorPass(
            folder,
            use=self._plane.use_client_tls,
            journal=self._journal,
            monotonic_s=time.monotonic,
            doors=arriving,
        )
        return arriving

    def _tell_ready(self) -> None:
        """Tell whoever started this process as a successor; it may be gone."""
        if self._options.ready_fd is not None:
            with contextlib.suppress(OSError):
                os.write(self._options.ready_fd, b"1")
            os.close(self._options.ready_fd)

    def _make_feed(self, store: SqlStore, thread: StoreThread, nudge: Nudge) -> GatewayFeed:
        return GatewayFeed(
            gateway=self._name,
            store=store,
            thread=thread,
            clock=self._clock,
            sinks=Sinks(
                snapshot=self._take_snapshot,
                still_holds=self._still_holds,
                catalog=self._dispatcher.set_catalog,
                keys=self._identity.take,
                used_keys=self._identity.used,
                demand=self._dispatcher.demand,
                acked=lambda: self._dispatcher.acked,
            ),
            read_catalog=lambda revision: catalog_from_document(revision.document, revision=revision.number),
            nudge=nudge.send,
            journal=self._journal,
        )

    def _wanted(self, model: str) -> None:
        self._feed.demand_changed(model)

    def _cut(self, lease: Lease) -> None:
        self._plane.cut(lease)

    async def _run_feed(self) -> None:
        def ready() -> None:
            self._journal("ready")
            self._known.set()

        await self._feed.run(ready=ready)

    def _take_snapshot(self, snapshot: Snapshot) -> None:
        """Act on a snapshot; the first route to a door has this gateway make its certificate."""
        self._snapshot = snapshot
        self._door_pass.check(snapshot.routes)
        self._dispatcher.set_snapshot(snapshot)
        self._plane.set_snapshot(snapshot)

    def _still_holds(self, age_s: float) -> None:
        self._door_pass.check(self._snapshot.routes)
        self._dispatcher.still_holds(age_s=age_s)

    def _watch_state(self, telemetry: PrometheusTelemetry, settlement: Settlement) -> None:
        """Show what an operator is to be woken for."""

        def models(state: str) -> int:
            return sum(("held" if item.held else item.heat) == state for item in self._snapshot.models)

        for state in ("held", *Heat):
            telemetry.gauge("first_models", partial(models, state), state=state)
        telemetry.gauge("first_snapshot_fresh", lambda: self._dispatcher.fresh)
        telemetry.gauge("first_store_away", lambda: self._feed.away)
        telemetry.gauge("first_spool_bytes", lambda: settlement.behind_bytes)

    def _make_plane(
        self, gateway: GatewaySettings, spool: Spool, wheel: Wheel, telemetry: PrometheusTelemetry
    ) -> Plane:
        Path(gateway.uploads).mkdir(mode=0o700, parents=True, exist_ok=True)
        health = {"/healthz": self._healthz, "/readyz": self._readyz}

        def exposition() -> LocalAnswer:
            kind, body = telemetry.scrape()
            return LocalAnswer(status=200, body=body, content_type=kind)

        return Plane(
            settings=gateway,
            wheel=wheel,
            dispatcher=self._dispatcher,
            admission=Admission(),
            identity=self._identity,
            engines=load_engines(),
            records=spool.append,
            records_together=spool.append_all,
            telemetry=telemetry,
            api=Address(kind=AddressKind.UNIX, path=str(self._data / "run" / "api.sock")),
            server_tls=self._server_tls,
            local=health,
            admin_local={**health, "/metrics": exposition},
        )

    def _healthz(self) -> LocalAnswer:
        """Say that this process answers; nothing else is looked at."""
        return LocalAnswer(status=200, body=b'{"status":"ok"}\n')

    def _readyz(self) -> LocalAnswer:
        """Say whether requests are taken: catalog read, not stopping. A stale store is told and is no reason."""
        ready = self._dispatcher.ready and not self._stop.is_set()
        state: dict[str, object] = {
            "ready": ready,
            "snapshot": list(self._dispatcher.acked),
            "fresh": self._dispatcher.fresh,
        }
        if not ready:
            state["detail"] = "This gateway is stopping." if self._stop.is_set() else not_ready().message
        return LocalAnswer(status=200 if ready else 503, body=json.dumps(state).encode() + b"\n")

    async def _obey_signals(self) -> None:
        """TERM and INT drain (again: end at once); QUIT drains for a successor; HUP reads the settings again."""
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
        insistence = Insistence()
        with anyio.open_signal_receiver(*numbers) as signals:
            async for number in signals:
                if number == signal.SIGHUP:
                    self._reload()
                    continue
                if number != signal.SIGQUIT:
                    if insistence.heard(number):
                        self._hurry.set()
                    self._refuse_who_waits()
                self._stop.set()

    def _refuse_who_waits(self) -> None:
        """Send away who has no place yet; where a successor has come, they keep their places to the end."""
        self._refusing = True
        self._dispatcher.close(
            Unavailable("This gateway is stopping; try again.", code="gateway_stopping", retry_after_s=1.0)
        )

    def _reload(self) -> None:
        """Take new settings and certificates; broken ones are refused whole and said."""
        try:
            settings = _read(self._options)
            if self._server_tls is not None and settings.gateway.tls is not None:
                _load_certificate(self._server_tls, settings.gateway.tls)
        except FirstError as error:
            self._journal("reload_refused", detail=error.message)
            return
        self._settings = settings
        self._dispatcher.reload(settings.gateway)
        self._plane.reload(settings.gateway)
        self._journal("reloaded")

    async def _drain(self) -> None:
        """Stop accepting, let requests in flight finish within the time, or until hurried."""
        self._journal("draining", in_flight=self._dispatcher.in_flight, waiting=self._dispatcher.waiting)
        async with anyio.create_task_group() as group:

            async def hurry() -> None:
                await self._hurry.wait()
                await self._plane.close()
                group.cancel_scope.cancel()

            group.start_soon(hurry)
            finished = await self._plane.drain(self._settings.gateway.drain_s)
            self._journal("drained", finished=finished)
            group.cancel_scope.cancel()


def _settle_memory() -> None:
    """Have the collector never again go through what imports and wiring have made: it lives as long as the process."""
    gc.collect()
    gc.freeze()


def _server_context(tls: TlsFiles | None) -> ssl.SSLContext | None:
    """Make the context of the public listener."""
    if tls is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load_certificate(context, tls)
    return context


def _load_certificate(context: ssl.SSLContext, tls: TlsFiles) -> None:
    """Load the gateway's own certificate; connections to come use it."""
    try:
        context.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ssl.SSLError) as error:
        raise SiteError(f"The certificate {tls.certificate} or its key cannot be used: {error}.", code="tls") from error
