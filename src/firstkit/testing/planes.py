# SPDX-License-Identifier: Apache-2.0
"""A whole data plane on free ports with the real dispatcher, for tests; leaving it checks that nothing is left over."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from firstkit.adapters.telemetry.metrics import PrometheusTelemetry
from firstkit.core.catalog import Catalog, Cluster, Deployment, EngineSpec, LinkSpec, Model, RunnerSpec, SchedulerSpec
from firstkit.core.errors import FirstError
from firstkit.core.principal import Principal
from firstkit.core.reasons import Reason
from firstkit.core.request import AttemptRecord
from firstkit.core.settings import GatewaySettings
from firstkit.core.topology import Address, Heat, ModelStatus, Route, Snapshot
from firstkit.dataplane import LocalAnswer, Plane, Wheel
from firstkit.dataplane.routes import INFERENCE
from firstkit.ports.engine import EngineTraits
from firstkit.services.admission import Admission
from firstkit.services.dispatcher import Dispatcher
from firstkit.testing.links import Doorway
from firstkit.testing.raw_client import RawClient, raw_client
from firstkit.testing.raw_engine import RawEngine

MODEL = "org/demo"
LINK = "local"
"""The link over which `serve` has engines reached where a test does not say; `direct` and `reverse` have real doors."""
PATIENCE_S = 30.0


class PlainEngine:
    """An engine's adapter as far as the data plane needs it."""

    def __init__(self, **traits: object) -> None:
        self.traits = replace(
            EngineTraits(
                kind="raw", paths=frozenset(INFERENCE), usage_on_request=False, reserved=frozenset({"priority"})
            ),
            **traits,  # type: ignore[arg-type]
        )

    def retryable(self, status: int, body_start: bytes) -> bool:
        """Take 503, and 500 with the words of a draining engine, for worth another try."""
        return status == 503 or (status == 500 and b"after shutdown" in body_start)


class Keys:
    """An identity provider with fixed keys; those in `slow` are known only to `resolve`."""

    def __init__(self, keys: dict[str, Principal], *, slow: dict[str, Principal] | None = None) -> None:
        self._known = {hashlib.sha256(key.encode()).digest(): who for key, who in keys.items()}
        self._slow = slow or {}
        self.asked: list[str] = []
        self.let_go = asyncio.Event()
        self.let_go.set()
        self.error: FirstError | None = None

    def lookup(self, digest: bytes) -> Principal | None:
        """Answer from memory."""
        return self._known.get(digest)

    async def resolve(self, credential: str) -> Principal | None:
        """Answer later."""
        self.asked.append(credential)
        await self.let_go.wait()
        if self.error is not None:
            raise self.error
        return self._slow.get(credential)


ANN = Principal(subject="key:ann", name="ann", project="p1")


def make_catalog(*models: Model) -> Catalog:
    """Make a catalog whose models have one deployment each, at one cluster."""
    cluster = Cluster(
        name="here",
        scheduler=SchedulerSpec(kind="local"),
        runner=RunnerSpec(kind="local"),
        link=LinkSpec(kind="local"),
        run_dir="/run/here",
    )
    return Catalog(
        revision=1,
        clusters={"here": cluster, "there": replace(cluster, name="there")},
        models={model.name: model for model in models},
        deployments={
            f"d{number}": Deployment(name=f"d{number}", model=model.name, cluster="here", engine=EngineSpec(kind="raw"))
            for number, model in enumerate(models)
        },
    )


@dataclass
class PlaneWorld:
    """The plane under test and what it has written."""

    plane: Plane
    dispatcher: Dispatcher
    records: list[AttemptRecord]
    telemetry: PrometheusTelemetry
    keys: Keys
    where: tuple[str, int]
    admin: str
    routes: dict[str, Route] = field(default_factory=dict[str, Route])
    version: int = 0
    heat: Heat = Heat.HOT
    status: dict[str, object] = field(default_factory=dict[str, object])
    doorway: Doorway | None = None

    def publish(self, *routes: Route) -> None:
        """Make these routes, and no others, the current snapshot."""
        self.version += 1
        self.routes = {route.instance: route for route in routes}
        heat = Heat.HOT if routes else self.heat
        reason = Reason.SERVING if routes else Reason.LOADING
        status = replace(
            ModelStatus(model=MODEL, heat=heat, reason=reason, paths=frozenset(INFERENCE)),
            **(self.status if not routes else {}),  # type: ignore[arg-type]
        )
        snapshot = Snapshot(version=self.version, epoch=1, routes=routes, models=(status,), fresh_for_s=3600.0)
        self.dispatcher.set_snapshot(snapshot)
        self.plane.set_snapshot(snapshot)

    def serve(self, *engines: RawEngine, **more: object) -> None:
        """Make these engines the model's instances: i-0, i-1 and so on."""
        addresses = [
            self.doorway.before(engine.address, f"i-{number}") if self.doorway else engine.address
            for number, engine in enumerate(engines)
        ]
        self.publish(*[make_route(f"i-{number}", address, **more) for number, address in enumerate(addresses)])

    def engine_ended(self, instance: str) -> None:
        """Have a door that has parked here learn of its engine's end; through any other door the plane sees it."""
        if self.doorway is not None and self.doorway.kind == "reverse":
            self.doorway.ended(instance)

    def hears_of(self, instance: str, engine: RawEngine) -> bool:
        """Tell whether the plane would notice an instance's end: it watches it, or its door has parked here."""
        if self.doorway is not None and self.doorway.kind == "reverse":
            return self.plane.pools.parked(instance).unused > 0
        return engine.connections > 0

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[RawClient]:
        """Connect to the public listener."""
        async with raw_client(self.where) as client:
            yield client

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until something holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds():  # noqa: ASYNC110 what it waits for is anything at all
                await asyncio.sleep(0.002)

    def hurry_upstreams(self) -> None:
        """Have the wheel look at every upstream connection's deadline in time; by itself it looks every ten seconds."""
        for upstream in self.plane.pools.open():
            self.plane.wheel.set(upstream, upstream.due)

    def leftovers(self) -> dict[str, int]:
        """Count what must be nothing when nobody wants anything."""
        return {
            "in flight": self.dispatcher.in_flight,
            "waiting": self.dispatcher.waiting,
            "leases": len(self.plane.leases),
            "body memory": self.plane.bodies.memory,
            "body disk": self.plane.bodies.disk,
        }

    def check_nothing_is_left(self) -> None:
        """Fail if anything is counted that has ended."""
        if any(leftovers := self.leftovers().values()):
            raise AssertionError(f"left over: {leftovers}")


def make_route(instance: str, address: Address, **more: object) -> Route:
    """Make a route to an instance of the model."""
    plain = Route(
        instance=instance,
        deployment="d0",
        model=MODEL,
        cluster="here",
        engine="raw",
        address=address,
        cap=64,
        served_name=MODEL,
        paths=frozenset(INFERENCE),
    )
    return replace(plain, **more)  # type: ignore[arg-type]


def bound_socket() -> socket.socket:
    """Bind and listen on a free port."""
    return socket.create_server(("127.0.0.1", 0))


def _dispatcher(settings: GatewaySettings, wheel: Wheel, planes: list[Plane]) -> Dispatcher:
    """Make the dispatcher of a plane that is yet to be made: it is found in `planes` then."""
    return Dispatcher(
        settings=settings,
        now=time.monotonic,
        random=random.Random(7),  # noqa: S311 a test repeats itself
        later=wheel.later,
        on_demand=lambda _model: None,
        gateway="gw-test",
        cut=lambda lease: planes[0].cut(lease),  # noqa: PLW0108 there is none yet
    )


@asynccontextmanager
async def plane_world(
    folder: Path,
    *,
    settings: GatewaySettings | None = None,
    engine: PlainEngine | None = None,
    keys: Keys | None = None,
    models: Iterable[Model] = (Model(name=MODEL, aliases=("demo-alias",)),),
    api: Address | None = None,
    server_tls: ssl.SSLContext | None = None,
    client_tls: ssl.SSLContext | None = None,
    listener: socket.socket | None = None,
    link: str | None = None,
) -> AsyncGenerator[PlaneWorld]:
    """Run a plane; at the end nothing may be in flight, waiting or kept."""
    settings = settings or GatewaySettings(uploads=str(folder))
    records: list[AttemptRecord] = []
    telemetry = PrometheusTelemetry()
    keys = keys or Keys({"secret-key": ANN})
    link = link or LINK
    wheel = Wheel(asyncio.get_running_loop())
    planes: list[Plane] = []
    doorway = Doorway(link, folder) if link != "local" else None
    dispatcher = _dispatcher(settings, wheel, planes)
    dispatcher.set_catalog(make_catalog(*models))
    plane = Plane(
        settings=settings,
        wheel=wheel,
        dispatcher=dispatcher,
        admission=Admission(),
        identity=keys,
        engines={"raw": engine or PlainEngine()},
        records=records.append,
        telemetry=telemetry,
        api=api,
        server_tls=server_tls,
        client_tls=client_tls or (doorway.client_tls() if doorway else None),
        local={"/healthz": lambda: LocalAnswer(status=200, body=b'{"status":"ok"}')},
        admin_local={"/metrics": lambda: LocalAnswer(status=200, body=telemetry.scrape()[1])},
    )
    planes.append(plane)
    public = listener or bound_socket()
    admin = socket.socket(socket.AF_UNIX)
    admin.bind(str(folder / f"admin{id(plane)}.sock"))
    doors = bound_socket()
    try:
        await plane.listen(public)
        await plane.listen(admin, admin=True)
        if doorway is not None:
            await doorway.arrive(plane, doors)
        world = PlaneWorld(plane, dispatcher, records, telemetry, keys, public.getsockname(), admin.getsockname())
        world.doorway = doorway
        yield world
        await world.until(lambda: not any(world.leftovers().values()))
    finally:
        await plane.close()
        if doorway is not None:
            await doorway.close()
        for sock in (public, admin, doors):
            sock.close()
    world.check_nothing_is_left()
