# SPDX-License-Identifier: Apache-2.0
"""The api process: opens the store, listens on a Unix socket in the state folder, serves until told to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Generator
from pathlib import Path

import anyio
import uvicorn
from anyio.abc import TaskStatus

from firstkit.adapters.engines.registry import load_engines
from firstkit.adapters.store import open_store
from firstkit.adapters.store.nudge import Nudge, open_nudge
from firstkit.adapters.telemetry.journal import Journal, start_logging
from firstkit.apps.api.checking import checker
from firstkit.apps.api.parts import Parts
from firstkit.apps.api.service import Api
from firstkit.config.environment import read_environment
from firstkit.config.loading import catalog_from_document, load_settings
from firstkit.core.errors import SiteError
from firstkit.core.settings import Settings
from firstkit.ports.store import SchemaMismatch, Store, StoreUnavailable
from firstkit.services.store_thread import StoreThread

journal = Journal("api")

SOCKET = Path("run/api.sock")
"""Where the api listens, below the state folder."""

_DRAIN_S = 5
_PATH_LIMIT = 107  # sun_path holds 108 bytes, the last a NUL


class _Server(uvicorn.Server):
    """Leaves signals to whoever runs it, and is told when to end instead of looking ten times a second."""

    def __init__(self, config: uvicorn.Config, ended: anyio.Event) -> None:
        super().__init__(config)
        self._ended = ended

    async def main_loop(self) -> None:
        """Do once a second what is to be done then: the clock in the answers' heads."""
        while not await self.on_tick(0):
            with anyio.move_on_after(1.0):
                await self._ended.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def run_api(config: Path, data: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT; the entry of a process of its own."""
    start_logging()
    settings = load_settings(config, data_dir=data, environ=read_environment())
    anyio.run(_until_signalled, settings, backend_options={"use_uvloop": True})


async def _until_signalled(settings: Settings) -> None:
    stop = anyio.Event()

    async def watch(*, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number != signal.SIGHUP:  # for gateways and controllers: nothing here is read from the file twice
                    stop.set()

    async with anyio.create_task_group() as tasks:
        await tasks.start(watch)
        await serve_api(settings, stop=stop)
        tasks.cancel_scope.cancel()


async def serve_api(
    settings: Settings, *, stop: anyio.Event, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Serve until `stop` is set; started once the socket listens."""
    folder = Path(settings.data_dir)
    async with StoreThread("api-store") as thread:
        store = await _opened(settings, folder, thread=thread, stop=stop)
        if store is None:
            return
        try:
            async with open_nudge(settings.store, folder=folder) as nudge:
                await _serve(store, nudge, thread=thread, path=folder / SOCKET, stop=stop, task_status=task_status)
        finally:
            with anyio.CancelScope(shield=True):
                await thread.call(store.close)


async def _opened(settings: Settings, folder: Path, *, thread: StoreThread, stop: anyio.Event) -> Store | None:
    """Open the store, waiting until it is migrated and answers; None when told to stop."""
    pause_s, said = 0.05, ""
    while not stop.is_set():
        try:
            return await thread.call(open_store, settings.store, folder=folder)
        except (SchemaMismatch, StoreUnavailable) as error:
            if isinstance(error, SchemaMismatch) and error.code != "store_not_migrated":
                raise
            if error.code != said:
                journal("store_awaited", reason=error.code)
                said = error.code
        with anyio.move_on_after(pause_s):
            await stop.wait()
        pause_s = min(2.0, pause_s * 1.5)
    return None


async def _serve(
    store: Store,
    nudge: Nudge,
    *,
    thread: StoreThread,
    path: Path,
    stop: anyio.Event,
    task_status: TaskStatus[None],
) -> None:
    api = Api(
        Parts(
            store=store,
            thread=thread,
            nudges=nudge,
            read_catalog=catalog_from_document,
            check=checker(data_dir=path.parent.parent, engines=load_engines()),
            monotonic=time.monotonic,
        )
    )
    config = uvicorn.Config(
        api.app,
        lifespan="off",
        log_config=None,
        access_log=False,
        http="httptools",
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=120,
        timeout_graceful_shutdown=_DRAIN_S,
    )
    ended = anyio.Event()
    server = _Server(config, ended)
    with listening(path) as sock:
        async with anyio.create_task_group() as tasks:

            async def end() -> None:
                await stop.wait()
                api.close()
                server.should_exit = True
                ended.set()

            await tasks.start(api.run)
            nudge.listen(("snapshot", "catalog", "desired", "report"), api.nudged)
            tasks.start_soon(end)
            task_status.started()
            await server.serve(sockets=[sock])
            tasks.cancel_scope.cancel()


@contextlib.contextmanager
def listening(path: Path) -> Generator[socket.socket]:
    """Listen at a path that only this user can reach, taking the place of whatever socket lay there before."""
    if len(os.fsencode(path)) > _PATH_LIMIT:
        raise SiteError(
            f"the path {path} is longer than a Unix socket's may be ({_PATH_LIMIT} bytes); "
            "choose a state folder with a shorter path (`--data`)",
            code="path_too_long",
        )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f".{os.getpid()}")  # no longer than the name that it gets
    fresh.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o177)
        try:
            sock.bind(str(fresh))
        finally:
            os.umask(before)
        sock.listen(1024)
        mine = fresh.stat().st_ino
        fresh.replace(path)
        yield sock
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == mine:
                path.unlink()
    finally:
        sock.close()
        fresh.unlink(missing_ok=True)
