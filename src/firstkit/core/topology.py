# SPDX-License-Identifier: Apache-2.0
"""What a gateway knows at one moment: routes to instances, and how each model is doing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from firstkit.core.reasons import Reason


class AddressKind(StrEnum):
    """How an instance is reached: dialled, or over connections that its door has parked at the gateway."""

    UNIX = "unix"
    TCP = "tcp"
    TLS = "tls"
    PARKED = "parked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where an instance answers. `server_name` is checked in its certificate; `mutual` asks for our client certificate.

    `tls` with `mutual` is a door (certificate authority of the installation); without, a public https engine
    (the machine's trust store). `base_path` is put before every path (an external engine below a prefix).
    """

    kind: AddressKind
    path: str = ""
    host: str = ""
    port: int = 0
    server_name: str = ""
    mutual: bool = False
    base_path: str = ""


class Heat(StrEnum):
    """How ready a model is, in the users' words."""

    HOT = "hot"
    WARM = "warm"
    QUEUED = "queued"
    COLD = "cold"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One way to a READY or DRAINING instance.

    `cap` is this gateway's share of the instance's in-flight cap. `ends_in_s` counts from the moment the snapshot was
    read: nothing is routed past it, None is no end. `authorization` is the engine's own credential, sent instead of the
    client's. `served_name` is what the engine calls the model: differs from the public name only for an alias splice.
    """

    instance: str
    deployment: str
    model: str
    cluster: str
    engine: str
    address: Address
    cap: int
    draining: bool = False
    ends_in_s: float | None = None
    served_name: str = ""
    authorization: str | None = None
    max_model_len: int | None = None
    paths: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """How a model is doing, for people who wait. Times are durations as of the snapshot; None is unknown.

    `held` means that its start failed so often that nothing is tried any more until an operator acts (reason, detail).
    `relief`: another instance is on its way beside those that serve, in `relief_s` as far as is known. `notices` are
    announcements for those who use it.
    """

    model: str
    heat: Heat
    reason: Reason
    detail: str = ""
    held: bool = False
    for_s: float = 0.0
    to_hot_s: float | None = None
    fraction: float | None = None
    text: str = ""
    clusters: tuple[str, ...] = ()
    max_model_len: int | None = None
    paths: frozenset[str] = frozenset()
    relief: bool = False
    relief_s: float | None = None
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Routes and states of one version, as the controller last wrote them.

    `age_s` is how old it was when read, by the store's own clock; `fresh_for_s` how long it may be trusted without a
    newer one or a sign of life from the controller.
    """

    version: int = 0
    epoch: int = 0
    revision: int = 0
    age_s: float = 0.0
    fresh_for_s: float = 10.0
    routes: tuple[Route, ...] = ()
    models: tuple[ModelStatus, ...] = ()
