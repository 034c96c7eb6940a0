# SPDX-License-Identifier: Apache-2.0
"""Watch engines that are already running somewhere: ask them for their models, quickly while they are away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import anyio

from firstkit.core.catalog import Deployment
from firstkit.core.instance.record import Instance
from firstkit.core.topology import Address
from firstkit.ports.clock import Clock
from firstkit.ports.engine import Engine
from firstkit.ports.probe import Probe, Probed

READY_EVERY_S = 10.0
AWAY_EVERY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One external instance and how it is asked. `listed`: its answer must list `served_name`, or it is another's."""

    instance: str
    engine: str
    address: Address
    authorization: str | None
    path: str
    served_name: str
    listed: bool = False


def target_of(item: Instance, deployment: Deployment, engine: Engine) -> Target | None:
    """Say how an instance is asked; None unless its engine is an external one."""
    spec = engine.external(deployment)
    if spec is None:
        return None
    return Target(
        instance=item.id,
        engine=deployment.engine.kind,
        address=spec.address,
        authorization=f"Bearer {item.engine_key}" if item.engine_key else None,
        path=spec.serves_path or spec.health_path,
        served_name=spec.serves_name or engine.served_name(deployment),
        listed=spec.serves_path is not None and spec.serves_name is not None,
    )


class ExternalWatch:
    """Probe all external instances, each at its own pace; results go to `deliver(instance, probed)`."""

    def __init__(self, *, probe: Probe, clock: Clock, deliver: Callable[[Target, Probed], None]) -> None:
        self._probe = probe
        self._clock = clock
        self._deliver = deliver
        self._targets: dict[str, Target] = {}
        self._due: dict[str, float] = {}
        self._wake = anyio.Event()

    def set_targets(self, targets: dict[str, Target]) -> None:
        """Say which instances there are; new ones are asked at once."""
        if targets == self._targets:
            return
        self._targets = targets
        self._due = {name: self._due.get(name, float("-inf")) for name in targets}
        self._wake.set()

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            self._wake = anyio.Event()
            now = self._clock.monotonic_s()
            due = [target for name, target in self._targets.items() if self._due[name] <= now]
            if due:
                async with anyio.create_task_group() as group:
                    for target in due:
                        group.start_soon(self._one, target)
                continue
            rest_s = min(self._due.values(), default=now + 3600.0) - now
            with anyio.move_on_after(max(0.01, rest_s)):
                await self._wake.wait()

    async def _one(self, target: Target) -> None:
        """Ask one engine and plan the next time."""
        probed = await self._probe(target.address, authorization=target.authorization, path=target.path)
        pause_s = READY_EVERY_S if probed.ready else AWAY_EVERY_S
        if target.instance in self._due:
            self._due[target.instance] = self._clock.monotonic_s() + pause_s
        self._deliver(target, probed)
