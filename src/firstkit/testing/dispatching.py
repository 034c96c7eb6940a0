# SPDX-License-Identifier: Apache-2.0
"""A dispatcher in a world of its own: manual time, seeded chance, callers that remember what they were told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from random import Random

from firstkit.core.catalog import (
    Access,
    Catalog,
    Cluster,
    Deployment,
    EngineSpec,
    LinkSpec,
    Model,
    RunnerSpec,
    SchedulerSpec,
)
from firstkit.core.errors import FirstError
from firstkit.core.principal import Principal
from firstkit.core.reasons import Reason
from firstkit.core.request import RequestClass, RequestFacts
from firstkit.core.settings import GatewaySettings
from firstkit.core.topology import Address, AddressKind, Heat, ModelStatus, Route, Snapshot
from firstkit.services.dispatcher import Dispatcher, Grant, Lease, Ticket
from firstkit.testing.manual_time import ManualTime

CHAT = "/v1/chat/completions"
MODEL = "org/demo"


def principal(name: str = "ann", *, groups: Iterable[str] = (), models: Iterable[str] | None = None) -> Principal:
    """Make a caller."""
    allowed = None if models is None else frozenset(models)
    return Principal(subject=f"key:{name}", name=name, groups=frozenset(groups), models=allowed)


def route(instance: str, *, model: str = MODEL, cluster: str = "here", cap: int = 2, **more: object) -> Route:
    """Make a route to an instance."""
    plain = Route(
        instance=instance,
        deployment=f"demo-{cluster}",
        model=model,
        cluster=cluster,
        engine="llamacpp",
        address=Address(kind=AddressKind.UNIX, path=f"/run/{instance}.sock"),
        cap=cap,
    )
    return replace(plain, **more)  # type: ignore[arg-type]


def status(heat: Heat, *, model: str = MODEL, reason: Reason = Reason.DEMAND, **more: object) -> ModelStatus:
    """Make a model's state as the controller tells it."""
    return replace(ModelStatus(model=model, heat=heat, reason=reason), **more)  # type: ignore[arg-type]


def catalog(*models: str, clusters: Iterable[str] = ("here", "there"), access: Access | None = None) -> Catalog:
    """Make a catalog in which every model has a deployment at every cluster."""
    names = models or (MODEL,)
    places = tuple(clusters)
    return Catalog(
        revision=1,
        clusters={
            name: Cluster(
                name=name,
                scheduler=SchedulerSpec(kind="local"),
                runner=RunnerSpec(kind="local"),
                link=LinkSpec(kind="local"),
                run_dir=f"/run/{name}",
            )
            for name in places
        },
        models={name: Model(name=name, access=access or Access()) for name in names},
        deployments={
            f"d{number}-{place}": Deployment(
                name=f"d{number}-{place}", model=name, cluster=place, engine=EngineSpec(kind="llamacpp")
            )
            for number, name in enumerate(names)
            for place in places
        },
    )


class Caller:
    """A request that remembers what became of it. Hearing more than one thing fails at once."""

    def __init__(self, world: DispatcherWorld, facts: RequestFacts) -> None:
        self.world = world
        self.facts = facts
        self.grant: Grant | None = None
        self.error: FirstError | None = None
        self.ticket: Ticket | None = None
        self.heard = 0

    def granted(self, grant: Grant) -> None:
        """Take the place."""
        self._hear()
        self.grant = grant
        self.world.order.append(self)

    def refused(self, error: FirstError) -> None:
        """Hear that waiting is over."""
        self._hear()
        self.error = error

    def _hear(self) -> None:
        self.heard += 1
        if self.heard > 1:
            raise AssertionError("a waiter hears exactly once")

    @property
    def waits(self) -> bool:
        """Tell whether nothing has been heard yet."""
        return self.ticket is not None and not self.heard

    @property
    def instance(self) -> str:
        """Name the instance that it has a place at."""
        if self.grant is None:
            raise AssertionError(f"no place: {self.error}")
        return self.grant.route.instance

    def done(self) -> None:
        """Give the place back."""
        if self.grant is None:
            raise AssertionError("no place to give back")
        self.grant.lease.release()

    def leave(self) -> None:
        """Leave the queue."""
        if self.ticket is None:
            raise AssertionError("it does not wait")
        self.ticket.leave()


class DispatcherWorld:
    """Everything that a dispatcher is given, in a test's hands."""

    def __init__(self, *, seed: int = 0, settings: GatewaySettings | None = None) -> None:
        self.time = ManualTime()
        self.random = Random(seed)  # noqa: S311 chance that can be repeated is the point
        self.wanted: list[str] = []
        self.cut: list[Lease] = []
        self.order: list[Caller] = []
        self._version = 0
        self._number = 0
        self.dispatcher = Dispatcher(
            settings=settings or GatewaySettings(),
            now=self.time.now,
            random=self.random,
            later=self.time.later,
            on_demand=self.wanted.append,
            gateway="gw-test",
            cut=self.cut.append,
        )

    def facts(
        self,
        who: str = "ann",
        *,
        model: str = MODEL,
        cluster: str | None = None,
        path: str = CHAT,
        stream: bool = True,
        batch: bool = False,
        max_wait_s: float | None = None,
        max_tokens: int | None = None,
    ) -> RequestFacts:
        """Describe a request."""
        self._number += 1
        return RequestFacts(
            id=f"r-{self._number}",
            principal=principal(who),
            path=path,
            model=model,
            asked=model,
            cluster=cluster,
            stream=stream,
            request_class=RequestClass.BATCH if batch else RequestClass.INTERACTIVE,
            max_wait_s=max_wait_s,
            max_tokens=max_tokens,
        )

    def open(self, who: str = "ann", **more: object) -> Caller:
        """Send a request; errors raised at once are raised here."""
        return self.send(self.facts(who, **more))  # type: ignore[arg-type]

    def send(self, facts: RequestFacts) -> Caller:
        """Send a request with these facts."""
        caller = Caller(self, facts)
        return self._keep(caller, self.dispatcher.open(facts, caller))

    def again(self, caller: Caller, *exclude: str, attempt: int = 2, waited_s: float = 0.0) -> Caller:
        """Send a request once more whose attempt failed."""
        new = Caller(self, caller.facts)
        got = self.dispatcher.again(caller.facts, new, attempt=attempt, exclude=frozenset(exclude), waited_s=waited_s)
        return self._keep(new, got)

    def _keep(self, caller: Caller, got: Grant | Ticket) -> Caller:
        if isinstance(got, Grant):
            caller.grant = got
        else:
            caller.ticket = got
        return caller

    def tell(self, *items: Route | ModelStatus, age_s: float = 0.0, fresh_for_s: float = 10.0) -> None:
        """Let a new snapshot arrive, with these routes and states."""
        self._version += 1
        self.dispatcher.set_snapshot(
            Snapshot(
                version=self._version,
                age_s=age_s,
                fresh_for_s=fresh_for_s,
                routes=tuple(item for item in items if isinstance(item, Route)),
                models=tuple(item for item in items if isinstance(item, ModelStatus)),
            )
        )
