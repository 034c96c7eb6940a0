# SPDX-License-Identifier: Apache-2.0
"""What is stored of an instance."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from firstkit.core.ids import InstanceId, JobId
from firstkit.core.reasons import Reason
from firstkit.core.topology import Address


class InstanceState(StrEnum):
    """Where an instance stands. ENDED is final."""

    PLANNED = "PLANNED"
    LOADING = "LOADING"
    READY = "READY"
    DRAINING = "DRAINING"
    ENDED = "ENDED"


class Contact(StrEnum):
    """How we last heard of an instance: a fact about observation, not a state."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One running engine in one job (`job` None: an external engine). Times are Unix seconds of the store's clock.

    `drain_for` is why it is to end, `drain_by` the latest moment until which requests in flight may finish.
    `exit_tail` are the last lines of the engine's log after an unasked end. `engine_key` is the engine's own credential
    where it cannot listen on a Unix socket. `image` is the digest of the container image that it ran in. `load_s` is
    boot to READY as the launcher measured it. `replaces` names the instance whose successor it is. `wanted_at` is when
    policy last needed it, `used_at` when somebody last used it.
    """

    id: InstanceId
    deployment: str
    model: str
    cluster: str
    job: JobId | None
    slot: int
    revision: int
    spec: str
    state: InstanceState
    reason: Reason
    state_at: float
    created_at: float
    detail: str = ""
    contact: Contact = Contact.ALIVE
    heard_at: float | None = None
    address: Address | None = None
    fraction: float | None = None
    progress: str = ""
    load_s: float | None = None
    ready_at: float | None = None
    ended_at: float | None = None
    drain_for: Reason | None = None
    drain_by: float | None = None
    exit_code: int | None = None
    exit_tail: tuple[str, ...] = ()
    engine_key: str | None = None
    max_model_len: int | None = None
    wanted_at: float | None = None
    image: str = ""
    used_at: float | None = None
    replaces: str = ""
