# SPDX-License-Identifier: Apache-2.0
"""The api as one object: the app that answers, and the loops that keep what it answers from fresh."""

from __future__ import annotations

from typing import Any

import anyio
from anyio.abc import TaskStatus
from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer

from firstkit import __version__
from firstkit.apps.api.answers import install_answers
from firstkit.apps.api.asking import asking_router, logs_router
from firstkit.apps.api.bodies import BodyLimit
from firstkit.apps.api.control import control_router
from firstkit.apps.api.desired_feed import DesiredFeed
from firstkit.apps.api.keys import keys_router
from firstkit.apps.api.listings import fleet_router, health_router, own_router
from firstkit.apps.api.memory import Memory
from firstkit.apps.api.models import models_router
from firstkit.apps.api.overrides import overrides_router
from firstkit.apps.api.pages import pages_router
from firstkit.apps.api.parts import Parts, StoreCalls
from firstkit.apps.api.revisions import applying_router, revisions_router
from firstkit.apps.api.watching import Watch, watching_router

_ABOUT = """
Management of one firstkit installation: models, clusters, instances, jobs, keys, usage. Inference itself is at `/v1`.

Send an API key as `Authorization: Bearer fk-…`. Routes marked *operator* want a key with that role, or the admin
listener.
Every error has the body `{"error": {"message", "type", "code", "param"}}`.
"""

_BEARER = HTTPBearer(auto_error=False, scheme_name="API key", description="fk-…")
"""For the description alone: the gateway has checked the key and hands on who it belongs to."""


class Api:
    """Make one, run `run` in a task group, and serve `app`. `nudged` is to be called with each topic that arrives."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.store = StoreCalls(parts.store, parts.thread)
        self.memory = Memory(
            self.store, read_catalog=parts.read_catalog, monotonic=parts.monotonic, poll_s=parts.poll_s
        )
        self.feed = DesiredFeed(self.store, poll_s=parts.poll_s)
        self.watch = Watch(self.store, self.memory, poll_s=parts.watch_s)
        self.app = self._app()

    def _app(self) -> FastAPI:
        app = FastAPI(
            title="firstkit",
            version=__version__,
            description=_ABOUT,
            openapi_url="/api/openapi.json",
            docs_url=None,
            redoc_url=None,
        )
        install_answers(app)
        app.add_middleware(BodyLimit)

        @app.get("/healthz", include_in_schema=False)
        async def healthz() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
            return {"status": "ok", "store": "away" if self.memory.away else "ok"}

        store, memory, nudges = self.store, self.memory, self._parts.nudges
        for router in (
            models_router(memory),
            own_router(store, memory),
            fleet_router(store, memory),
            health_router(store, memory, self.feed),
            asking_router(store, memory),
            logs_router(store, memory),
            watching_router(self.watch),
            keys_router(store, memory, nudges),
            revisions_router(store),
            applying_router(store, memory, nudges, check=self._parts.check),
            overrides_router(store, memory, nudges),
        ):
            app.include_router(router, dependencies=[Depends(_BEARER)])
        app.include_router(pages_router())
        app.include_router(control_router(store, self.feed, nudges, hold_limit_s=self._parts.hold_limit_s))
        return app

    def nudged(self, topic: str) -> None:
        """Look at once where a nudge says that something has changed."""
        if topic in {"snapshot", "catalog"}:
            self.memory.nudge()
        if topic in {"snapshot", "desired"}:
            self.feed.nudge()
        if topic in {"snapshot", "report"}:
            self.watch.nudge()

    def close(self) -> None:
        """Let go of everything that is held, so that the server can end."""
        self.feed.close()
        self.watch.close()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep fresh for ever; started once the first look is over, whether or not the store answered."""
        await self.memory.refresh()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.memory.run)
            tasks.start_soon(self.feed.run)
            tasks.start_soon(self.watch.run)
            task_status.started()
