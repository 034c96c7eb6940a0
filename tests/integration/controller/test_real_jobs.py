# SPDX-License-Identifier: Apache-2.0
"""The real controller with the local scheduler, real launchers and a small engine: one process tree, no simulation."""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from firstkit.adapters.clock import SystemClock
from firstkit.adapters.engines.registry import load_engines
from firstkit.adapters.launcher_zip import build
from firstkit.adapters.probe import HttpProbe
from firstkit.adapters.runners.local import LocalRunner
from firstkit.adapters.schedulers.local import LocalScheduler
from firstkit.adapters.store import SqlStore, migrate_store, open_store
from firstkit.core.catalog import Catalog, Cluster, Deployment, EngineSpec, Resources, Scaling
from firstkit.core.catalog_diff import spec_digest
from firstkit.core.job.record import Job, JobState
from firstkit.core.reasons import Reason
from firstkit.core.settings import ControllerSettings, StoreSettings
from firstkit.core.topology import ModelStatus, Route
from firstkit.services.external import ExternalWatch
from firstkit.services.job_watcher import ClusterWorker, Happening
from firstkit.services.publisher import Publisher
from firstkit.services.reconciler import Parts, Reconciler
from firstkit.services.store_thread import StoreThread
from firstkit.services.submission import Launcher, Preparer
from firstkit.testing.records import make_catalog, make_cluster, make_deployment
from firstkit.wire.control import JsonDocuments

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ENGINE = """
import json, socket, sys
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen(16)
body = json.dumps({"object": "list", "data": [{"id": "demo-model"}]}).encode()
while True:
    connection, _ = listening.accept()
    with connection:
        connection.recv(65536)
        head = b"HTTP/1.1 200 OK\\r\\nconnection: close\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(body)
        connection.sendall(head + body)
"""
QUICK = ControllerSettings(tick_s=0.2, observe_s=0.5, observe_idle_s=1.0, settle_s=5.0, backoff_first_s=0.2)


@dataclass(slots=True)
class Installation:
    """One installation in a folder; controllers come and go."""

    folder: Path
    store: SqlStore
    catalog: Catalog
    events: list[tuple[str, dict[str, object]]]

    def routes(self) -> tuple[Route, ...]:
        found, _ = self.store.snapshot(newer_than=(-1, -1))
        return found.routes if found is not None else ()

    def model(self) -> ModelStatus | None:
        found, _ = self.store.snapshot(newer_than=(-1, -1))
        return found.models[0] if found is not None else None

    def jobs(self, *states: JobState) -> list[Job]:
        return [job for job in self.store.jobs(ended_since=0.0) if not states or job.state in states]

    async def until(self, holds: Callable[[], object], within_s: float = 40.0) -> None:
        deadline = time.monotonic() + within_s
        while not await anyio.to_thread.run_sync(holds):
            assert time.monotonic() < deadline, (self.jobs(), self.events[-10:])
            await anyio.sleep(0.05)

    def compose(self, thread: StoreThread) -> Reconciler:
        clock, engines, documents, archive = SystemClock(), load_engines(), JsonDocuments(), build()
        installation = self.store.installation()

        def worker(cluster: Cluster, deliver: Callable[[Happening], None]) -> ClusterWorker:
            environment = {**os.environ, "HOME": str(self.folder)}
            return ClusterWorker(
                cluster=cluster.name,
                run_dir=cluster.run_dir,
                scheduler=LocalScheduler(cluster, installation=installation, python=sys.executable),
                runner=LocalRunner(environment),
                clock=clock,
                deliver=deliver,
            )

        def note(event: str, **facts: object) -> None:
            self.events.append((event, facts))

        return Reconciler(
            Parts(
                store=self.store,
                thread=thread,
                clock=clock,
                settings=QUICK,
                drain_s=5.0,
                holder="test",
                engines=engines,
                documents=documents,
                preparer=Preparer(
                    installation=installation,
                    launcher=Launcher(name=archive.name, data=archive.data),
                    engines=engines,
                    documents=documents,
                    authority=lambda: pytest.fail("no door is needed"),
                    control_urls=list,
                    fence_s=None,
                ),
                publisher=Publisher(engines=engines, documents=documents),
                worker=worker,
                read_catalog=lambda _: self.catalog,
                spec_of=spec_digest,
                read_key=str,
                external=lambda deliver: ExternalWatch(probe=HttpProbe(), clock=clock, deliver=deliver),
                random=os.urandom,
                nudge=lambda _: None,
                journal=note,
            )
        )

    async def cancel_all(self) -> None:
        """End whatever a failed test left."""
        scheduler = LocalScheduler(
            self.catalog.clusters["local"], installation=self.store.installation(), python=sys.executable
        )
        runner = LocalRunner(os.environ)
        with anyio.move_on_after(30, shield=True):
            while True:
                seen = scheduler.parse(await runner.run(scheduler.observe(), deadline_s=20))
                alive = [job.scheduler_id for job in seen.jobs if job.phase.value != "ended"]
                if not alive:
                    return
                await runner.run(scheduler.cancel(alive), deadline_s=20)
                await anyio.sleep(0.1)


@asynccontextmanager
async def installation(folder: Path, deployment: Deployment, *, setup: str = "") -> AsyncGenerator[Installation]:
    """Make an installation with a local cluster and this deployment."""
    settings = StoreSettings(url="sqlite:///first.db")
    migrate_store(settings, folder=folder)
    store = open_store(settings, folder=folder)
    catalog = make_catalog([deployment], clusters=[make_cluster(run_dir=f"{folder}/run", setup=setup, control="files")])
    store.add_revision(document="one", by="test")
    one = Installation(folder, store, catalog, [])
    try:
        yield one
    finally:
        await one.cancel_all()
        store.close()


def engine(folder: Path, code: str = ENGINE, **fields: Any) -> Deployment:
    path = folder / "engine.py"
    path.write_text(code)
    spec = EngineSpec(
        kind="command",
        options={"argv": ["{python}", "-I", "-S", str(path), "{socket}"], "health": "/health", "stop_grace": 1},
    )
    return make_deployment(**{"engine": spec, "scaling": Scaling(min=1, max=1), **fields})


def asks(path: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(path)
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")
        return connection.recv(4096)


async def test_an_engine_comes_up_is_adopted_by_the_next_controller_and_ends_with_nothing_left(tmp_path: Path) -> None:
    async with installation(tmp_path, engine(tmp_path)) as one, StoreThread() as thread:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: one.compose(thread).run(ready=lambda: None))
            await one.until(one.routes)
            group.cancel_scope.cancel()
        (first,) = one.routes()
        assert b"demo-model" in await anyio.to_thread.run_sync(asks, first.address.path)
        (job,) = one.jobs()
        assert job.scheduler_id == "1"
        second = one.compose(thread)
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: second.run(ready=lambda: None))
            await anyio.sleep(2)
            assert [route.instance for route in one.routes()] == [first.instance]
            second.retire(within_s=5.0)
            await one.until(lambda: all(job.state is JobState.ENDED for job in one.jobs()))
        assert [job.reason for job in one.jobs()] == [Reason.STOPPED]
        assert one.routes() == ()
        assert not is_there(first.address.path)


async def test_an_engine_that_is_killed_is_started_again(tmp_path: Path) -> None:
    async with (
        installation(tmp_path, engine(tmp_path)) as one,
        StoreThread() as thread,
        anyio.create_task_group() as group,
    ):
        group.start_soon(lambda: one.compose(thread).run(ready=lambda: None))
        await one.until(one.routes)
        first = one.routes()[0].instance
        await anyio.to_thread.run_sync(kill_engine, str(tmp_path / "engine.py"))
        await one.until(lambda: any(route.instance != first for route in one.routes()))
        ended = next(job for job in one.jobs() if job.state is JobState.ENDED)
        assert ended.reason is Reason.ENGINE_EXIT
        group.cancel_scope.cancel()


def read_json(path: str) -> dict[str, Any]:
    return json.loads(Path(path).read_text())


def is_there(path: str) -> bool:
    return Path(path).exists()


def readable_to_others(folder: str) -> list[Path]:
    paths = [Path(folder), *Path(folder).rglob("*")]
    return [path for path in paths if path.lstat().st_mode & 0o077 and not path.is_socket()]


def kill_engine(script: str) -> None:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                argv = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if script.encode() in argv:
                os.kill(int(entry.name), signal.SIGKILL)


async def test_a_failing_setup_line_reaches_people_in_its_own_words(tmp_path: Path) -> None:
    setup = "echo loading modules\nmodule() { echo the module $2 is unknown >&2; return 3; }\nmodule load conda"
    async with installation(tmp_path, engine(tmp_path), setup=setup) as one, StoreThread() as thread:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: one.compose(thread).run(ready=lambda: None))
            await one.until(lambda: one.model() is not None and one.model().held)  # pyright: ignore[reportOptionalMemberAccess]
            group.cancel_scope.cancel()
        model = one.model()
        assert model is not None
        assert model.reason is Reason.SETUP_FAILED
        assert model.detail.startswith("exit code 3 at line ")
        assert model.detail.endswith(" of start.sh: module load conda")
        tails = {item.exit_tail for item in one.store.instances(ended_since=0.0)}
        assert tails == {("loading modules", "the module conda is unknown")}
        assert len(one.jobs()) == 2


async def test_an_engine_that_cannot_start_is_held_with_the_last_words_of_its_log(tmp_path: Path) -> None:
    broken = engine(tmp_path, "raise SystemExit('ModuleNotFoundError: no engine here')")
    async with installation(tmp_path, broken) as one, StoreThread() as thread:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: one.compose(thread).run(ready=lambda: None))
            await one.until(lambda: one.model() is not None and one.model().held)  # pyright: ignore[reportOptionalMemberAccess]
            group.cancel_scope.cancel()
        model = one.model()
        assert model is not None
        assert model.reason is Reason.SETUP_FAILED
        assert any("no engine here" in line for item in one.store.instances(ended_since=0.0) for line in item.exit_tail)


async def test_the_end_of_the_walltime_is_no_failure_and_brings_a_new_instance(tmp_path: Path) -> None:
    short = engine(tmp_path, resources=Resources(walltime_s=34.0))  # the launcher begins its end 30 s before
    async with installation(tmp_path, short) as one, StoreThread() as thread, anyio.create_task_group() as group:
        group.start_soon(lambda: one.compose(thread).run(ready=lambda: None))
        await one.until(one.routes)
        first = one.routes()[0].instance
        await one.until(lambda: any(job.state is JobState.ENDED for job in one.jobs()))
        await one.until(lambda: any(route.instance != first for route in one.routes()))
        ended = next(job for job in one.jobs() if job.state is JobState.ENDED)
        assert ended.reason is Reason.WALLTIME
        group.cancel_scope.cancel()


async def test_what_lies_on_the_cluster_is_private_and_readable_to_its_owner(tmp_path: Path) -> None:
    async with installation(tmp_path, engine(tmp_path)) as one, StoreThread() as thread:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: one.compose(thread).run(ready=lambda: None))
            await one.until(one.routes)
            group.cancel_scope.cancel()
        (job,) = one.jobs()
        assert readable_to_others(job.run_dir) == []
        assert read_json(f"{job.run_dir}/job.json")["job"] == job.id
        assert is_there(f"{job.run_dir}/claim")
