# SPDX-License-Identifier: Apache-2.0
"""The sections that each process reads at its start: gateway, store, identity, controller."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from firstkit.config.door_values import PortAddress
from firstkit.config.values import (
    Address,
    AdminAddress,
    Duration,
    EmptyForNothing,
    NoListForNothing,
    Origin,
    PositiveDuration,
    Size,
)
from firstkit.core.settings import ControllerSettings, GatewaySettings

_G = GatewaySettings()
_C = ControllerSettings()
ALL = ("gateway", "api", "controller")


class Section(BaseModel):
    """A mapping of the file: unknown keys are errors, and nothing is converted silently."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def setting(default: Any, about: str, *, example: Any = None, restart: tuple[str, ...] = (), **bounds: Any) -> Any:
    """Describe one process setting; `restart` names the processes that read it only when they start."""
    return Field(
        default,
        description=about,
        examples=None if example is None else [example],
        json_schema_extra={"restart": list(restart)} if restart else None,
        **bounds,
    )


class Tls(Section):
    """Certificate and key of the public port."""

    certificate: str = Field(
        description="file with the certificate and the chain above it, PEM; read again on SIGHUP",
        examples=["/etc/first/tls.crt"],
        min_length=1,
    )
    key: str = Field(
        description="file with its private key, PEM, readable by no other user; read again on SIGHUP",
        examples=["/etc/first/tls.key"],
        min_length=1,
    )


class Gateway(Section):
    """The data plane: where it listens and what it bears."""

    listen: Address = setting(
        _G.listen,
        "where clients connect: host:port, or unix:/path",
        example="0.0.0.0:8000",
        restart=("gateway",),
    )
    admin: AdminAddress = setting(
        "unix",
        "where operator routes and /metrics are served: `unix` (a socket in the state folder), host:port, or `none`",
        example="127.0.0.1:8001",
        restart=("gateway",),
    )
    admin_public: bool = setting(
        False,
        "allow `admin` to listen on an address that other machines reach",
        example=True,
        restart=("gateway",),
    )
    doors: PortAddress | None = setting(
        None,
        "where doors of the link `reverse` park connections, and jobs of clusters with `gateways` report: host:port; "
        "TLS with certificates of our own on both sides",
        example="0.0.0.0:8443",
        restart=("gateway",),
    )
    tls: Tls | None = setting(
        None, "certificate and key for `listen`; without, plain HTTP (turned on or off only at the gateway's start)"
    )
    cors_origins: Annotated[list[Origin], NoListForNothing] = Field(
        default_factory=list,
        description="origins whose pages in a browser may call; `*` for any",
        examples=[["https://chat.example.org"]],
    )
    head_limit: Size = setting(_G.head_limit, "longest request line and headers; beyond it 431")
    body_limit: Size = setting(_G.body_limit, "longest request body; beyond it 413", example="100MB")
    body_limits: Annotated[dict[str, Size], EmptyForNothing] = Field(
        default_factory=dict,
        description="longest request body for single paths, instead of `body_limit`",
        examples=[{"/v1/audio/transcriptions": "200MB"}],
    )
    body_memory: Size = setting(_G.body_memory, "memory for bodies of waiting requests; more go to unlinked files")
    body_disk: Size = setting(_G.body_disk, "disk for bodies of waiting requests; beyond it 429")
    connections: int = setting(_G.connections, "most client connections at a time", ge=1, le=1_000_000)
    head_timeout: PositiveDuration = setting(_G.head_timeout_s, "how long a client may take to send a request's head")
    body_timeout: PositiveDuration = setting(_G.body_timeout_s, "how long a client may pause while it sends a body")
    keep_alive: PositiveDuration = setting(_G.keep_alive_s, "how long an idle client connection is kept")
    user_timeout: PositiveDuration = setting(
        _G.user_timeout_s,
        "how long sent bytes may stay unacknowledged before a peer counts as gone (TCP_USER_TIMEOUT)",
    )
    connect_timeout: PositiveDuration = setting(_G.connect_timeout_s, "how long connecting to an instance may take")
    upstream_idle: PositiveDuration = setting(_G.upstream_idle_s, "how long an instance may be silent within an answer")
    attempts: int = setting(_G.attempts, "how often a request is tried in all, before its first byte", ge=1, le=10)
    queue: int = setting(
        _G.queue, "most requests of one model and class that wait at a time; beyond it 429", ge=0, le=1_000_000
    )
    queue_per_principal: int = setting(
        _G.queue_per_principal,
        "most of them that wait for one caller; beyond it 429",
        ge=0,
        le=1_000_000,
    )
    batch_reserve: float = setting(
        _G.batch_reserve,
        "share of every instance's `in_flight` that batch requests leave free for interactive ones",
        ge=0,
        lt=1,
    )
    hold_head: Duration = setting(
        _G.hold_head_s, "how long a waiting stream goes without a head; then comments are sent"
    )
    comment_every: PositiveDuration = setting(_G.comment_every_s, "time between two comments to a waiting stream")
    hold: PositiveDuration = setting(_G.hold_s, "how long a request that is not streamed waits for a model to start")
    place_kept: Duration = setting(_G.place_kept_s, "how long a refused caller keeps its place in the queue")
    drain: Duration = setting(_G.drain_s, "how long open requests may take when the gateway is stopped gracefully")
    choices_limit: int = setting(_G.choices_limit, "largest `n` a client may ask for", ge=1, le=128)


def _store_by_url(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


class Store(Section):
    """The database; `store: URL` is short for `store: {url: URL}`."""

    url: str = setting(
        "sqlite:///first.db",
        "sqlite:///FILE (relative to the state folder) or postgresql://USER@HOST/NAME, without a password",
        example="postgresql://first@db.example.org/first",
        restart=ALL,
    )
    password_file: str = setting(
        "",
        "file that holds the password and nothing else, readable by no other user",
        example="/etc/first/db-password",
        restart=ALL,
    )


class Identity(Section):
    """How callers prove who they are."""

    api_keys: bool = setting(
        True,
        "callers sign in with API keys (`first keys create`), the only way in this version",
        example=True,
        restart=("gateway", "api"),
    )


def _controller(default: float, about: str) -> Any:
    return setting(default, about, restart=("controller",))


class Controller(Section):
    """How often the controller looks, and how patient it is."""

    tick: PositiveDuration = _controller(_C.tick_s, "time between two rounds of deciding")
    observe: PositiveDuration = _controller(_C.observe_s, "time between two looks at a scheduler that has jobs of ours")
    observe_idle: PositiveDuration = _controller(_C.observe_idle_s, "the same where no jobs are expected")
    term_ttl: PositiveDuration = _controller(
        _C.term_ttl_s, "how long a silent controller keeps others from taking over"
    )
    settle: Duration = _controller(_C.settle_s, "how long a doubtful submission is looked for before it is made anew")
    lost_after: PositiveDuration = _controller(_C.lost_after_s, "how long an instance may be silent before it is lost")
    fence: PositiveDuration = _controller(
        _C.fence_s, "how long a job without a controller goes on before it ends itself"
    )
    failures_to_hold: int = setting(
        _C.failures_to_hold,
        "failed starts in a row after which a deployment is held",
        restart=("controller",),
        ge=1,
        le=1000,
    )
    backoff_first: PositiveDuration = _controller(_C.backoff_first_s, "pause after the first failed start; doubles")
    backoff_max: PositiveDuration = _controller(_C.backoff_max_s, "longest pause between two starts")


StoreField = Annotated[Store, BeforeValidator(_store_by_url), EmptyForNothing]
