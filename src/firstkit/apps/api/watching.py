# SPDX-License-Identifier: Apache-2.0
"""`/api/v1/events`: server-sent events with a whole listing whenever it has changed, for `--watch` and pages."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Literal, cast

import anyio
from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from firstkit.apps.api.callers import AnyCaller, Caller
from firstkit.apps.api.fleet import Fleet, read_fleet
from firstkit.apps.api.memory import Memory
from firstkit.apps.api.models import model_document
from firstkit.apps.api.parts import StoreCalls
from firstkit.core.errors import FirstError, Forbidden, Limited
from firstkit.ports.store import Store

WATCHERS = 200
BEAT_S = 15.0
BY_KEY = "key:"
"""How the subjects of those begin who have an API key."""
Topic = Literal["models", "instances", "jobs"]


@dataclass(slots=True)
class _Shared:
    """What one look found, for all who watch."""

    fleet: Fleet | None = None
    keys: dict[str, float | None] = field(default_factory=dict[str, float | None])
    keys_version: int = -1
    changed: anyio.Event = field(default_factory=anyio.Event)
    watchers: int = 0


class Watch:
    """Looks at the store once a second while anybody watches, and wakes all of them after each look."""

    def __init__(self, store: StoreCalls, memory: Memory, *, poll_s: float) -> None:
        self._store = store
        self._memory = memory
        self._poll_s = poll_s
        self._shared = _Shared()
        self._someone = anyio.Event()
        self._nudged = anyio.Event()
        self._closed = False

    def nudge(self) -> None:
        """Look at once."""
        self._nudged.set()

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        self._shared.changed.set()

    async def run(self) -> None:
        """Look for ever while anybody watches."""
        while True:
            if self._shared.watchers == 0:
                self._someone = anyio.Event()
                await self._someone.wait()
            self._nudged = anyio.Event()
            try:
                self._shared.fleet = await self._store.call(self._look)
            except FirstError:
                self._shared.fleet = None
            changed, self._shared.changed = self._shared.changed, anyio.Event()
            changed.set()
            with anyio.move_on_after(self._poll_s):
                await self._nudged.wait()

    def _look(self, store: Store) -> Fleet:
        """Read the fleet, and the keys where any has changed (in the store's thread, one look at a time)."""
        version = store.keys_version()
        if version != self._shared.keys_version:
            keys = store.keys()
            self._shared.keys = {row.principal.subject: row.expires_at for row in keys}
            self._shared.keys_version = version
        return read_fleet(store, ended_within_s=60.0)

    def _gone(self, caller: Caller) -> bool:
        """Tell whether the caller's key has been revoked or has expired, as of a look that was answered."""
        fleet, subject = self._shared.fleet, caller.principal.subject
        if fleet is None or not subject.startswith(BY_KEY):
            return False
        if subject not in self._shared.keys:
            return True
        expires_at = self._shared.keys[subject]
        return expires_at is not None and expires_at <= fleet.now

    async def stream(self, caller: Caller, topics: frozenset[Topic]) -> AsyncIterator[bytes]:
        """Yield an event for each topic at once and whenever it differs; a comment when nothing happens for a while."""
        shared = self._shared
        shared.watchers += 1
        self._someone.set()
        self.nudge()
        said: dict[str, str] = {}
        try:
            yield b"retry: 1000\n\n"
            while not self._closed:
                changed = shared.changed
                told = False
                with anyio.move_on_after(BEAT_S):
                    await changed.wait()
                    told = True
                if self._closed or self._gone(caller):
                    return
                sent = False
                for topic in sorted(topics) if told else ():
                    data = self._listing(topic, caller)
                    if data is not None and _steady(data) != said.get(topic):
                        said[topic] = _steady(data)
                        sent = True
                        yield f"event: {topic}\ndata: {json.dumps(data)}\n\n".encode()
                if not sent and not told:
                    yield b": nothing new\n\n"
        finally:
            shared.watchers -= 1

    def _listing(self, topic: Topic, caller: Caller) -> list[dict[str, object]] | None:
        known = self._memory.known()
        if topic == "models":
            age_s = self._memory.age_s()
            usable = [model for model in known.catalog.models.values() if caller.may_use(model)]
            return [model_document(known, model, caller, age_s=age_s) for model in usable]
        fleet = self._shared.fleet
        if fleet is None:
            return None
        if topic == "jobs":
            return [view.model_dump(mode="json") for view in fleet.job_views()]
        return [view.model_dump(mode="json") for view in fleet.instance_views(known, caller)]

    @property
    def watchers(self) -> int:
        """Count those who watch."""
        return self._shared.watchers


_AGES = frozenset({"for_s", "time_to_hot_s", "time_left_s", "starts_in_s", "drain_within_s"})


def _steady(data: object) -> str:
    """Write a listing without what changes by itself as time passes."""

    def strip(value: object) -> object:
        if isinstance(value, dict):
            fields = cast("dict[str, object]", value)
            return {key: strip(item) for key, item in fields.items() if key not in _AGES}
        if isinstance(value, list):
            return [strip(item) for item in cast("list[object]", value)]
        return value

    return json.dumps(strip(data), sort_keys=True)


def watching_router(watch: Watch) -> APIRouter:
    """Make the route."""
    router = APIRouter(prefix="/api/v1", tags=["fleet"])

    @router.get(
        "/events",
        response_class=StreamingResponse,
        summary="Watch listings: an event with the whole listing at once and whenever it has changed",
    )
    async def events(  # pyright: ignore[reportUnusedFunction]
        caller: AnyCaller, watch_: Annotated[list[Topic], Query(alias="watch", min_length=1)]
    ) -> StreamingResponse:
        topics = frozenset(watch_)
        if "jobs" in topics and not caller.operator:
            raise Forbidden("watching jobs is for operators", code="operator_only", param="watch")
        if watch.watchers >= WATCHERS:
            raise Limited(f"{WATCHERS} are watching already; try again later", retry_after_s=10.0)
        return StreamingResponse(
            watch.stream(caller, topics),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )

    return router
