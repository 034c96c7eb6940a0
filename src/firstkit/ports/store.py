# SPDX-License-Identifier: Apache-2.0
"""The installation's memory, one small protocol for each party that uses it.

All methods are synchronous and are called from one store thread a process, never from a data-plane loop. Each is one
short transaction, whole or not at all. `StoreUnavailable` (a SiteError) is raised when the database cannot be reached,
is full or busy (if the connection broke at the commit, nobody knows whether it was done); `Fenced` when the caller's
term is over. Times are Unix seconds of the store's own clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from firstkit.core.errors import SiteError
from firstkit.core.instance.record import Instance
from firstkit.core.job.record import Job
from firstkit.core.principal import Principal, RateLimits
from firstkit.core.request import AttemptRecord
from firstkit.core.topology import Snapshot

_T = TypeVar("_T")


class StoreUnavailable(SiteError):
    """The database cannot be reached, does not answer in time, or cannot be written.

    Codes: `store_unavailable`, `store_busy`, `store_full`, `store_not_writable`.
    """

    default_code = "store_unavailable"


class Fenced(SiteError):
    """Another controller has taken over; whoever gets this stops acting."""

    default_code = "fenced"
    retryable = False


class SchemaMismatch(SiteError):
    """The store's schema and this code's do not go together.

    Code `store_not_migrated`: the controller or `first store migrate` will mend it (waiting can help); otherwise this
    code is too old for the store.
    """

    default_code = "store_schema"
    retryable = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """The controller's lease: only the holder of the newest epoch may write desired state."""

    epoch: int
    holder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One applied catalog: `document` is the YAML text as given, `digest` its SHA-256."""

    number: int
    document: str
    digest: str
    applied_at: float
    applied_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """An operator's temporary change beside the catalog.

    `kind` is `scale` (value: {"min", "max"}), `cordon`, `drain` (subject: an instance or deployment), `stop`
    (subject: a cluster),
    or `release` (subject: a held deployment; failures before `at` no longer count).
    """

    id: int
    kind: str
    subject: str
    value: dict[str, int]
    by: str
    at: float
    until: float | None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A launcher's status document as it arrived over HTTP (or was read from its file), undecoded."""

    job: str
    seq: int
    document: bytes
    at: float
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one gateway sees of one model (written by that gateway once a second, replaced each time).

    `in_flight` maps instance to its count; `oldest_wait_s` None: nobody waits. `wanted_ago_s`: how long ago somebody
    last
    asked for the model at all (a refused or finished request counts), None: never since the gateway started.
    """

    gateway: str
    model: str
    waiting: int
    oldest_wait_s: float | None
    in_flight: dict[str, int]
    wanted_ago_s: float | None
    lost: tuple[str, ...] = ()
    """Instances this gateway has found dead itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayRow:
    """One gateway's sign of life and the snapshot version it acts on."""

    gateway: str
    acked: int
    age_s: float
    demand: tuple[Demand, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """An API key as stored: never the key, only its SHA-256 and a recognisable prefix."""

    id: str
    name: str
    prefix: str
    digest: bytes
    principal: Principal
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    last_used_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRow:
    """One observed start, for predicting the next."""

    deployment: str
    spec: str
    job_wait_s: float | None
    boot_s: float | None
    load_s: float
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """One state change, kept for `explain` and the logs of ended instances."""

    at: float
    kind: str
    subject: str
    state: str
    reason: str
    detail: str


class CatalogStore(Protocol):
    """Numbered revisions and overrides; written by whoever applies (api, controller), read by everybody."""

    def current_revision(self, known: Revision | None = None) -> Revision | None:
        """Return the revision that holds: `known` itself, without reading its document again, when it is that one."""
        ...

    def revisions(self, *, limit: int = 50) -> list[Revision]: ...
    def revision(self, number: int) -> Revision | None: ...
    def last_applied(self, by: str) -> Revision | None:
        """Return the newest revision whose `applied_by` begins with this, however many came after it."""
        ...

    def add_revision(self, *, document: str, by: str, repeat: bool = False) -> Revision:
        """Add a revision (already checked), from number 1 on; the document that holds already makes none.

        `repeat`: it makes one all the same, so that it is on record that this party wants it too.
        """
        ...

    def overrides(self) -> list[Override]:
        """List those whose `until` has not passed."""
        ...

    def set_override(
        self, *, kind: str, subject: str, value: dict[str, int], by: str, until: float | None, note: str
    ) -> Override:
        """Set or replace the override of that kind and subject."""
        ...

    def clear_override(self, *, kind: str, subject: str) -> bool: ...


class Reading(Protocol):
    """What all have that read often."""

    def together(self, reads: Callable[[], _T]) -> _T:
        """Run several reads as one, which may happen twice: cheaper than one by one. No write may be among them."""
        ...


class ControllerStore(Reading, Protocol):
    """What the controller reads and writes; writes are fenced by its term."""

    def now(self) -> float:
        """Read the store's clock."""
        ...

    def installation(self) -> str:
        """Return the installation's id, made with the store."""
        ...

    def take_term(self, *, holder: str, ttl_s: float) -> Term | None:
        """Take or renew the term; None while somebody else's has not expired.

        Renewing keeps the epoch, even late, as long as nobody else has taken over. So a holder's name is made anew at
        each start of a process.
        """
        ...

    def give_up_term(self, term: Term) -> None:
        """Let somebody else take over at once; nothing can be written under this term any more."""
        ...

    def jobs(self, *, ended_since: float | None = None) -> list[Job]:
        """List jobs that have not ended, and those that ended after the given moment."""
        ...

    def instances(self, *, ended_since: float | None = None) -> list[Instance]: ...
    def save(
        self,
        term: Term,
        *,
        jobs: Sequence[Job] = (),
        instances: Sequence[Instance] = (),
        events: Sequence[EventRow] = (),
        starts: Sequence[StartRow] = (),
    ) -> None:
        """Insert or replace rows in one transaction; raises Fenced when the term is over."""
        ...

    def starts(self, *, limit_each: int = 20) -> list[StartRow]:
        """List the newest starts of each deployment."""
        ...

    def reports(self) -> list[Report]:
        """List the newest report of each job that has not ended."""
        ...

    def set_desired(self, term: Term, *, job: str, version: int, document: bytes) -> None: ...
    def write_snapshot(self, term: Term, snapshot: Snapshot) -> None:
        """Replace the snapshot (`version` must grow; the same version only renews its freshness)."""
        ...

    def touch_snapshot(self, term: Term) -> None:
        """Say that the current snapshot still holds."""
        ...

    def gateways(self, *, within_s: float) -> list[GatewayRow]:
        """List gateways that wrote within that time, with their demand."""
        ...

    def prune(self, term: Term, *, ended_before: float, usage_before: float | None) -> int:
        """Forget jobs, instances, events and reports that ended before that; return how many rows went."""
        ...


class AttemptRow(NamedTuple):
    """One attempt on its way into the store: what is searched and summed by, and the whole record as JSON text."""

    request: str
    attempt: int
    ended: bool
    at: float
    subject: str
    project: str
    model: str
    outcome: str
    input_tokens: int | None
    output_tokens: int | None
    record: str


class GatewayStore(Reading, Protocol):
    """What a gateway reads and writes."""

    def snapshot(self, *, newer_than: tuple[int, int]) -> tuple[Snapshot | None, float]:
        """Return the snapshot if its (epoch, version) is another one than given, and the age of the current one.

        Another, not a higher: after a restored backup the store's is lower and still counts. The age is the time since
        the controller last said that it holds, infinite before the first. All durations in it count from now.
        """
        ...

    def write_demand(self, *, gateway: str, acked: int, demand: Sequence[Demand]) -> None: ...
    def forget_gateway(self, gateway: str) -> None: ...
    def current_revision(self, known: Revision | None = None) -> Revision | None: ...
    def keys(self) -> list[KeyRow]:
        """List keys that are neither revoked nor expired."""
        ...

    def keys_version(self) -> int:
        """Return a number that grows with every change of any key."""
        ...

    def settle(self, rows: Sequence[AttemptRow]) -> int:
        """Store attempts, ignoring those already there (request, attempt); return how many were new."""
        ...

    def touch_keys(self, used: Sequence[str]) -> None:
        """Note that these key ids were used now."""
        ...


class ApiStore(Protocol):
    """What the api process uses besides the above."""

    def key_add(
        self, *, name: str, digest: bytes, prefix: str, principal: Principal, expires_at: float | None
    ) -> KeyRow:
        """Add a key; its id is the prefix without `fk-`. InvalidRequest if a living key has that name."""
        ...

    def key_list(self) -> list[KeyRow]:
        """List all keys ever made, revoked and expired ones too, oldest first."""
        ...

    def key_revoke(self, id_or_name: str) -> KeyRow | None:
        """Revoke a key by id, prefix or name (the living one of that name); None when there is none to revoke."""
        ...

    def attempts(self, request: str) -> list[AttemptRecord]: ...
    def usage_since(self, *, subject: str | None, since: float) -> list[tuple[str, int, int, int]]:
        """Sum up ended requests by model: (model, requests, input tokens, output tokens) of their last attempts."""
        ...

    def job_token_digest(self, job: str) -> tuple[str, bool] | None:
        """Return the SHA-256 (hex) of a job's control token and whether the job has ended; None for no such job."""
        ...

    def put_report(self, *, job: str, seq: int, document: bytes) -> None:
        """Keep the report if its seq is newer than the one there."""
        ...

    def desired(self, job: str) -> tuple[int, bytes] | None: ...
    def desired_newer(self, known: Mapping[str, int]) -> list[tuple[str, int, bytes]]:
        """Return (job, version, document) of those jobs whose desired document is newer than the version given."""
        ...

    def events(self, *, subject: str, limit: int = 100) -> list[EventRow]:
        """List the newest events of a job, an instance, …, oldest first."""
        ...


class Store(CatalogStore, ControllerStore, GatewayStore, ApiStore, Protocol):
    """All of it; one adapter serves SQLite and PostgreSQL alike."""

    def close(self) -> None: ...


__all__ = [
    "ApiStore",
    "CatalogStore",
    "ControllerStore",
    "Demand",
    "EventRow",
    "Fenced",
    "GatewayRow",
    "GatewayStore",
    "KeyRow",
    "Override",
    "RateLimits",
    "Report",
    "Revision",
    "SchemaMismatch",
    "StartRow",
    "Store",
    "StoreUnavailable",
    "Term",
]
