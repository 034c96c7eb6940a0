# SPDX-License-Identifier: Apache-2.0
"""Process settings as frozen values, read once at the edge by `config` and handed to whoever needs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MB = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Certificate chain and private key of the gateway, PEM; read again on SIGHUP."""

    certificate: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where a server listens: a host and port, or the path of a Unix socket."""

    host: str = "127.0.0.1"
    port: int = 8000
    path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Everything the data plane is told; durations in seconds, sizes in bytes.

    `queue` and `queue_per_principal` bound the waiting requests of each model and class. `batch_reserve` is the part of
    every instance's in-flight cap that batch requests leave free for interactive ones.
    """

    listen: Listen = Listen()
    admin: Listen | None = None
    doors: Listen | None = None
    tls: TlsFiles | None = None
    cors_origins: tuple[str, ...] = ()
    head_limit: int = 64 * 1024
    body_limit: int = 64 * MB
    body_limits: Mapping[str, int] = field(default_factory=dict[str, int])
    body_memory: int = 64 * MB
    body_disk: int = 1000 * MB
    connections: int = 10_000
    head_timeout_s: float = 15.0
    body_timeout_s: float = 60.0
    keep_alive_s: float = 75.0
    user_timeout_s: float = 20.0
    connect_timeout_s: float = 5.0
    upstream_idle_s: float = 600.0
    attempts: int = 3
    queue: int = 2000
    queue_per_principal: int = 500
    batch_reserve: float = 0.1
    hold_head_s: float = 3.0
    comment_every_s: float = 5.0
    hold_s: float = 540.0
    place_kept_s: float = 120.0
    drain_s: float = 600.0
    choices_limit: int = 8
    uploads: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """Which database, by SQLAlchemy URL without a password in it; the password comes from `password_file`."""

    url: str
    password_file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSettings:
    """How often the controller looks and how patient it is; durations in seconds."""

    tick_s: float = 1.0
    observe_s: float = 5.0
    observe_idle_s: float = 30.0
    term_ttl_s: float = 10.0
    settle_s: float = 60.0
    lost_after_s: float = 90.0
    fence_s: float = 900.0
    failures_to_hold: int = 4
    backoff_first_s: float = 2.0
    backoff_max_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All process settings of one installation."""

    data_dir: str
    gateway: GatewaySettings
    store: StoreSettings
    controller: ControllerSettings = ControllerSettings()
    api_keys: bool = True
