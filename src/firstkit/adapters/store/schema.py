# SPDX-License-Identifier: Apache-2.0
"""Every table of the store, each with the one party that writes its rows (`info["writer"]`).

A record of core is kept whole as JSON in `record`; beside it stand only the columns by which rows are found. So a
field added to a record with a default needs no migration, and an older process ignores it. Times are Unix seconds of
the store's clock, except `attempts.at`, which is a gateway's wall time and compared with nothing but dates.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeEngine

_SECONDS: TypeEngine[float] = Double()

SCHEMA = 1
"""The schema this code was written for: the number of the newest migration."""

NEEDS = 1
"""The oldest schema this code can work with (older: it refuses to start until somebody has migrated)."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _serial() -> TypeEngine[Any]:
    """Make a growing 64-bit key; SQLite grows only what is declared INTEGER."""
    return BigInteger().with_variant(Integer, "sqlite")


def _one_row() -> Column[int]:
    """Make the key of a table that has one row, made by the migration, with id 1."""
    return Column("id", Integer, primary_key=True, autoincrement=False)


installation = Table(
    "installation",
    metadata,
    _one_row(),
    Column("installation", String, nullable=False),
    Column("created_at", _SECONDS, nullable=False),
    Column("schema", Integer, nullable=False),
    Column("serves_from", Integer, nullable=False),
    info={"writer": "whoever migrates (controller, `first store migrate`)"},
)
"""Which installation this is, and which code may use it: code written for schemas `serves_from` and later."""

term = Table(
    "term",
    metadata,
    _one_row(),
    Column("epoch", BigInteger, nullable=False),
    Column("holder", String, nullable=False),
    Column("expires_at", _SECONDS, nullable=False),
    info={"writer": "a controller that takes, renews or gives up its own term"},
)

revisions = Table(
    "revisions",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("document", Text, nullable=False),
    Column("digest", String, nullable=False),
    Column("applied_at", _SECONDS, nullable=False),
    Column("applied_by", String, nullable=False),
    info={"writer": "whoever applies a catalog; a row never changes afterwards"},
)

overrides = Table(
    "overrides",
    metadata,
    Column("id", _serial(), primary_key=True),
    Column("kind", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("value", Text, nullable=False),
    Column("by", String, nullable=False),
    Column("at", _SECONDS, nullable=False),
    Column("until", _SECONDS),
    Column("note", Text, nullable=False),
    UniqueConstraint("kind", "subject"),
    info={"writer": "an operator, through the api"},
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String, primary_key=True),
    Column("state", String, nullable=False),
    Column("ended_at", _SECONDS),
    Column("token_digest", String, nullable=False),
    Column("record", Text, nullable=False),
    Index(None, "state", "ended_at"),
    info={"writer": "controller"},
)

instances = Table(
    "instances",
    metadata,
    Column("id", String, primary_key=True),
    Column("state", String, nullable=False),
    Column("ended_at", _SECONDS),
    Column("record", Text, nullable=False),
    Index(None, "state", "ended_at"),
    info={"writer": "controller"},
)

events = Table(
    "events",
    metadata,
    Column("id", _serial(), primary_key=True),
    Column("at", _SECONDS, nullable=False),
    Column("kind", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("state", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("detail", Text, nullable=False),
    Index(None, "subject", "id"),
    Index(None, "at"),
    info={"writer": "controller"},
)

starts = Table(
    "starts",
    metadata,
    Column("id", _serial(), primary_key=True),
    Column("deployment", String, nullable=False),
    Column("at", _SECONDS, nullable=False),
    Column("record", Text, nullable=False),
    Index(None, "deployment", "id"),
    info={"writer": "controller"},
)

snapshot = Table(
    "snapshot",
    metadata,
    _one_row(),
    Column("epoch", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("written_at", _SECONDS, nullable=False),
    Column("touched_at", _SECONDS, nullable=False),
    Column("document", LargeBinary, nullable=False),
    info={"writer": "controller"},
)
"""What gateways act on. Durations in `document` count from `written_at`; `touched_at` is the controller's sign of life.
"""

desired = Table(
    "desired",
    metadata,
    Column("job", String, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("document", LargeBinary, nullable=False),
    info={"writer": "controller"},
)

reports = Table(
    "reports",
    metadata,
    Column("job", String, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("document", LargeBinary, nullable=False),
    Column("at", _SECONDS, nullable=False),
    info={"writer": "api, for the launcher of that job (the controller removes those of forgotten jobs)"},
)

gateways = Table(
    "gateways",
    metadata,
    Column("gateway", String, primary_key=True),
    Column("acked", BigInteger, nullable=False),
    Column("written_at", _SECONDS, nullable=False),
    Column("demand", Text, nullable=False),
    info={"writer": "that gateway (the controller removes those long gone)"},
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("prefix", String, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("principal", Text, nullable=False),
    Column("created_at", _SECONDS, nullable=False),
    Column("expires_at", _SECONDS),
    Column("revoked_at", _SECONDS),
    UniqueConstraint("digest"),
    Index(None, "name"),
    info={"writer": "whoever makes or revokes a key (api, `first keys`)"},
)

keys_version = Table(
    "keys_version",
    metadata,
    _one_row(),
    Column("version", BigInteger, nullable=False),
    info={"writer": "whoever makes or revokes a key, in the same transaction"},
)
"""Grows with each change of `api_keys`; its row is also the lock that puts those changes one after another."""

key_uses = Table(
    "key_uses",
    metadata,
    Column("key", String, primary_key=True),
    Column("last_used_at", _SECONDS, nullable=False),
    info={"writer": "gateways; the value only grows, so that their order does not matter"},
)

attempts = Table(
    "attempts",
    metadata,
    Column("request", String, primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("ended", Boolean, nullable=False),
    Column("at", _SECONDS, nullable=False),
    Column("subject", String, nullable=False),
    Column("project", String, nullable=False),
    Column("model", String, nullable=False),
    Column("outcome", String, nullable=False),
    Column("input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("record", Text, nullable=False),
    Index(None, "at"),
    Index(None, "subject", "at"),
    info={"writer": "the gateway that settles the attempt's spool; a row never changes afterwards"},
)
