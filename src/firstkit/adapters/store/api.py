# SPDX-License-Identifier: Apache-2.0
"""What the api process writes and people ask for: API keys, reports of launchers, usage, events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, func, or_, select, update

from firstkit.adapters.store.database import Database
from firstkit.adapters.store.gateway import KEYS, key_row
from firstkit.adapters.store.records import ATTEMPT, PRINCIPAL
from firstkit.adapters.store.schema import api_keys, attempts, desired, events, jobs, keys_version, reports
from firstkit.core.errors import InvalidRequest
from firstkit.core.job.record import JobState
from firstkit.core.principal import Principal
from firstkit.core.request import AttemptRecord
from firstkit.ports.store import EventRow, KeyRow

_IN_ONE_QUERY = 500
"""How many values an IN list may have: SQLite's limit was 999 for long."""


class SqlApiStore:
    """Implements `ApiStore`."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # ------------------------------------------------------------------------------------------------------ keys

    def key_add(
        self, *, name: str, digest: bytes, prefix: str, principal: Principal, expires_at: float | None
    ) -> KeyRow:
        def work(connection: Connection) -> KeyRow:
            _change_keys(connection)
            now = self._db.now(connection)
            live = _live_at(now)
            if connection.execute(select(api_keys.c.id).where(api_keys.c.name == name, live)).first() is not None:
                raise InvalidRequest(
                    f"there is a key named {name!r} already; revoke it first or choose another name",
                    code="key_name_taken",
                    param="name",
                )
            row = KeyRow(
                id=prefix.removeprefix("fk-"),
                name=name,
                prefix=prefix,
                digest=digest,
                principal=principal,
                created_at=now,
                expires_at=expires_at,
                revoked_at=None,
                last_used_at=None,
            )
            connection.execute(
                api_keys.insert().values(
                    id=row.id,
                    name=name,
                    prefix=prefix,
                    digest=digest,
                    principal=PRINCIPAL.dump(principal),
                    created_at=now,
                    expires_at=expires_at,
                )
            )
            return row

        return self._db.write(work)

    def key_list(self) -> list[KeyRow]:
        return self._db.read(lambda c: [key_row(row) for row in c.execute(KEYS).mappings()])

    def key_revoke(self, id_or_name: str) -> KeyRow | None:
        def work(connection: Connection) -> KeyRow | None:
            _change_keys(connection)
            now = self._db.now(connection)
            named = or_(api_keys.c.id == id_or_name, api_keys.c.prefix == id_or_name, api_keys.c.name == id_or_name)
            # Of several with that name at most one has not been revoked or expired: that one is meant.
            query = KEYS.where(named, api_keys.c.revoked_at.is_(None)).order_by(None)
            query = query.order_by(case((_live_at(now), 0), else_=1), api_keys.c.created_at.desc()).limit(1)
            row = connection.execute(query).mappings().first()
            if row is None:
                return None
            connection.execute(update(api_keys).where(api_keys.c.id == row["id"]).values(revoked_at=now))
            return replace(key_row(row), revoked_at=now)

        return self._db.write(work)

    # ----------------------------------------------------------------------------------------------------- usage

    def attempts(self, request: str) -> list[AttemptRecord]:
        query = select(attempts.c.record).where(attempts.c.request == request).order_by(attempts.c.attempt)
        return self._db.read(lambda c: [ATTEMPT.load(text) for text in c.execute(query).scalars()])

    def usage_since(self, *, subject: str | None, since: float) -> list[tuple[str, int, int, int]]:
        query = (
            select(
                attempts.c.model,
                func.count().label("requests"),
                _total(attempts.c.input_tokens).label("input"),
                _total(attempts.c.output_tokens).label("output"),
            )
            .where(attempts.c.ended, attempts.c.at >= since)
            .group_by(attempts.c.model)
            .order_by(attempts.c.model)
        )
        if subject is not None:
            query = query.where(attempts.c.subject == subject)
        return self._db.read(
            lambda c: [(row.model, int(row.requests), int(row.input), int(row.output)) for row in c.execute(query)]
        )

    # -------------------------------------------------------------------------------------------------- launchers

    def job_token_digest(self, job: str) -> tuple[str, bool] | None:
        query = select(jobs.c.token_digest, jobs.c.state).where(jobs.c.id == job)
        row = self._db.read(lambda c: c.execute(query).one_or_none())
        return (row.token_digest, row.state == JobState.ENDED.value) if row is not None else None

    def put_report(self, *, job: str, seq: int, document: bytes) -> None:
        statement = self._db.insert(reports).values(job=job, seq=seq, document=document, at=self._db.clock)
        new = statement.excluded
        statement = statement.on_conflict_do_update(
            index_elements=["job"],
            set_={"seq": new.seq, "document": new.document, "at": new.at},
            where=reports.c.seq < new.seq,
        )
        self._db.write(lambda c: c.execute(statement))

    def desired(self, job: str) -> tuple[int, bytes] | None:
        query = select(desired.c.version, desired.c.document).where(desired.c.job == job)
        row = self._db.read(lambda c: c.execute(query).one_or_none())
        return (int(row.version), bytes(row.document)) if row is not None else None

    def desired_newer(self, known: Mapping[str, int]) -> list[tuple[str, int, bytes]]:
        """Look at all versions (a few bytes a job), and fetch the documents of those that are newer alone."""

        def work(connection: Connection) -> list[tuple[str, int, bytes]]:
            versions = connection.execute(select(desired.c.job, desired.c.version))
            newer = [row.job for row in versions if row.job in known and row.version > known[row.job]]
            columns = select(desired.c.job, desired.c.version, desired.c.document)
            found: list[tuple[str, int, bytes]] = []
            for start in range(0, len(newer), _IN_ONE_QUERY):
                rows = connection.execute(columns.where(desired.c.job.in_(newer[start : start + _IN_ONE_QUERY])))
                found += [(row.job, int(row.version), bytes(row.document)) for row in rows]
            return found

        return self._db.read(work)

    def events(self, *, subject: str, limit: int = 100) -> list[EventRow]:
        query = select(events).where(events.c.subject == subject).order_by(events.c.id.desc()).limit(limit)
        rows = self._db.read(lambda c: c.execute(query).all())
        return [
            EventRow(
                at=row.at, kind=row.kind, subject=row.subject, state=row.state, reason=row.reason, detail=row.detail
            )
            for row in reversed(rows)
        ]


def _change_keys(connection: Connection) -> None:
    """Raise the version; its row is locked until the commit, so that changes of keys follow one another."""
    connection.execute(update(keys_version).values(version=keys_version.c.version + 1))


def _live_at(now: float) -> ColumnElement[bool]:
    return and_(api_keys.c.revoked_at.is_(None), or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now))


def _total(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.coalesce(func.sum(column), 0)
