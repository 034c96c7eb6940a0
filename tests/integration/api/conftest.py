# SPDX-License-Identifier: Apache-2.0
"""The real api over an SQLite store, reached through ASGI; requests carry what a gateway would add."""

import base64
import hashlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from firstkit.adapters.engines.registry import load_engines
from firstkit.adapters.store import SqlStore, migrate_store, open_store
from firstkit.apps.api.checking import checker
from firstkit.apps.api.parts import Parts
from firstkit.apps.api.service import Api
from firstkit.config.loading import catalog_from_document
from firstkit.core.instance.record import Instance, InstanceState
from firstkit.core.job.record import Job, JobState
from firstkit.core.principal import Principal, Role
from firstkit.core.reasons import Reason
from firstkit.core.settings import StoreSettings
from firstkit.core.topology import Snapshot
from firstkit.ports.store import Term
from firstkit.services.store_thread import StoreThread
from firstkit.wire.caller import encode_principal

CATALOG = """\
clusters:
  here:
    scheduler: {kind: local}
    runner: {kind: local}
    link: {kind: local}
    run_dir: RUN_DIR
models:
  org/Small-1B:
    aliases: [small]
    max_model_len: 2048
  org/Secret-70B:
    access: {groups: [insiders]}
deployments:
  small-here:
    model: org/Small-1B
    cluster: here
    engine: {kind: command, argv: [serve, "{socket}"], health: /health, paths: [/v1/chat/completions]}
    scaling: {min: 0, max: 2}
  secret-here:
    model: org/Secret-70B
    cluster: here
    engine: {kind: command, argv: [serve, "{socket}"], health: /health, paths: [/v1/chat/completions]}
"""


class Nudges:
    """Keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def send(self, topic: str) -> None:
        self.sent.append(topic)


class OpenStore:
    """A store that can be taken away, as a database is that does not answer."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self.away: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        if self.away is not None:
            raise self.away
        return getattr(self._store, name)


@dataclass
class World:
    """One api with its store, and the clients that tests use."""

    api: Api
    store: Any
    term: Term
    nudges: Nudges
    folder: Path
    client: httpx.AsyncClient
    document: str
    operator: dict[str, str] = field(default_factory=lambda: {"x-first-admin": "1"})

    def user(self, *, groups: tuple[str, ...] = (), models: tuple[str, ...] | None = None) -> dict[str, str]:
        principal = Principal(
            subject="key:u1",
            name="ada",
            groups=frozenset(groups),
            models=None if models is None else frozenset(models),
        )
        return {"x-first-principal": encode_principal(principal)}

    def job(
        self,
        name: str = "j-000000000001",
        *,
        token: str = "tok",
        state: JobState = JobState.RUNNING,
        nodes: tuple[str, ...] = (),
    ) -> Job:
        job = Job(
            id=name,
            cluster="here",
            deployment="small-here",
            revision=1,
            spec="s",
            run_dir=str(self.folder / "jobs" / name),
            state=state,
            reason=Reason.DEMAND if state is not JobState.ENDED else Reason.SCALED_IN,
            state_at=self.store.now(),
            created_at=self.store.now(),
            ended_at=self.store.now() if state is JobState.ENDED else None,
            nodes=nodes,
            token_digest=hashlib.sha256(token.encode()).hexdigest(),
        )
        self.store.save(self.term, jobs=[job])
        return job

    def instance(self, name: str = "i-000000000001", **changes: Any) -> Instance:
        fields: dict[str, Any] = {
            "id": name,
            "deployment": "small-here",
            "model": "org/Small-1B",
            "cluster": "here",
            "job": "j-000000000001",
            "slot": 0,
            "revision": 1,
            "spec": "s",
            "state": InstanceState.LOADING,
            "reason": Reason.LOADING,
            "state_at": self.store.now(),
            "created_at": self.store.now(),
        }
        instance = Instance(**(fields | changes))
        self.store.save(self.term, instances=[instance])
        return instance

    async def publish(self, snapshot: Snapshot) -> None:
        self.store.write_snapshot(self.term, snapshot)
        await self.api.memory.refresh()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path, applied=True) as it:
        yield it


@pytest.fixture
async def new_world(tmp_path: Path) -> AsyncIterator[World]:
    """An api whose store has seen no revision yet."""
    async with open_world(tmp_path, applied=False) as it:
        yield it


@asynccontextmanager
async def open_world(tmp_path: Path, *, applied: bool) -> AsyncGenerator[World]:
    settings = StoreSettings(url="sqlite:///first.db")
    migrate_store(settings, folder=tmp_path)
    sql = open_store(settings, folder=tmp_path)
    document = CATALOG.replace("RUN_DIR", str(tmp_path / "run"))
    if applied:
        sql.add_revision(document=document, by="test")
    term = sql.take_term(holder="test", ttl_s=600.0)
    assert term is not None
    store = OpenStore(sql)
    nudges = Nudges()
    async with StoreThread("test-store") as thread:
        api = Api(
            Parts(
                store=store,  # pyright: ignore[reportArgumentType]
                thread=thread,
                nudges=nudges,
                read_catalog=catalog_from_document,
                check=checker(data_dir=tmp_path, engines=load_engines()),
                monotonic=time.monotonic,
                poll_s=0.05,
            )
        )
        await api.memory.refresh()
        transport = httpx.ASGITransport(app=api.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            yield World(
                api=api, store=store, term=term, nudges=nudges, folder=tmp_path, client=client, document=document
            )
    sql.close()


@pytest.fixture
def operator_principal() -> dict[str, str]:
    principal = Principal(subject="key:o", name="op", roles=frozenset({Role.USER, Role.OPERATOR}))
    return {"x-first-principal": encode_principal(principal)}


def unreadable_principal() -> str:
    return base64.urlsafe_b64encode(json.dumps({"no": "subject"}).encode()).decode()


__all__ = ["World", "anyio", "unreadable_principal"]
