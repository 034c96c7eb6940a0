# SPDX-License-Identifier: Apache-2.0
"""What the controller reads and writes; each write is fenced by its term inside the same transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Table, bindparam, delete, func, or_, select, update

from firstkit.adapters.store import schema
from firstkit.adapters.store.database import Database
from firstkit.adapters.store.records import DEMAND, INSTANCE, JOB, SNAPSHOT, START, Form, column_text
from firstkit.adapters.store.schema import (
    attempts,
    desired,
    events,
    gateways,
    installation,
    instances,
    jobs,
    overrides,
    reports,
    starts,
)
from firstkit.core.errors import InternalError
from firstkit.core.instance.record import Instance, InstanceState
from firstkit.core.job.record import Job, JobState
from firstkit.core.topology import Snapshot
from firstkit.ports.store import EventRow, Fenced, GatewayRow, Report, StartRow, Term

_T = TypeVar("_T")

STARTS_KEPT = 50
"""How many starts of a deployment are kept for predicting the next."""

_GATEWAY_GONE_S = 86_400.0
_PRUNE_AT_ONCE = 1_000


class SqlControllerStore:
    """Implements `ControllerStore`."""

    def __init__(self, database: Database) -> None:
        self._db = database
        touched = update(schema.snapshot).values(touched_at=database.clock)
        self._touch = touched.where(schema.snapshot.c.epoch == bindparam("held_epoch"))

    def now(self) -> float:
        return self._db.read(self._db.now)

    def installation(self) -> str:
        return self._db.read(lambda c: str(c.execute(select(installation.c.installation)).scalar_one()))

    # ------------------------------------------------------------------------------------------------------ term

    def take_term(self, *, holder: str, ttl_s: float) -> Term | None:
        def work(connection: Connection) -> Term | None:
            row = connection.execute(select(schema.term).with_for_update()).one()
            now = self._db.now(connection)
            mine = row.holder == holder
            if not mine and now < row.expires_at:
                return None
            epoch = int(row.epoch) if mine else int(row.epoch) + 1
            connection.execute(update(schema.term).values(epoch=epoch, holder=holder, expires_at=now + ttl_s))
            return Term(epoch=epoch, holder=holder)

        return self._db.write(work)

    def give_up_term(self, term: Term) -> None:
        mine = update(schema.term).where(schema.term.c.epoch == term.epoch, schema.term.c.holder == term.holder)
        self._db.write(lambda c: c.execute(mine.values(holder="", expires_at=0.0)))

    def _fenced(self, term: Term, work: Callable[[Connection], None]) -> None:
        def fenced(connection: Connection) -> None:
            check_term(connection, term)
            work(connection)

        self._db.write(fenced)

    # --------------------------------------------------------------------------------------- jobs and instances

    def jobs(self, *, ended_since: float | None = None) -> list[Job]:
        return self._live(jobs, JOB, JobState.ENDED.value, ended_since)

    def instances(self, *, ended_since: float | None = None) -> list[Instance]:
        return self._live(instances, INSTANCE, InstanceState.ENDED.value, ended_since)

    def _live(self, table: Table, form: Form[_T], ended: str, ended_since: float | None) -> list[_T]:
        wanted: ColumnElement[bool] = table.c.state != ended
        if ended_since is not None:
            wanted = or_(wanted, table.c.ended_at > ended_since)
        query = select(table.c.record).where(wanted).order_by(table.c.id)
        return self._db.read(lambda c: [form.load(text) for text in c.execute(query).scalars()])

    def save(
        self,
        term: Term,
        *,
        jobs: Sequence[Job] = (),
        instances: Sequence[Instance] = (),
        events: Sequence[EventRow] = (),
        starts: Sequence[StartRow] = (),
    ) -> None:
        tables = [
            (_JOBS, [_job_row(job) for job in jobs]),
            (_INSTANCES, [_instance_row(instance) for instance in instances]),
        ]

        def work(connection: Connection) -> None:
            for table, rows in tables:
                if rows:
                    connection.execute(self._db.replace(table), rows)
            if events:
                connection.execute(_EVENTS.insert(), [_event_row(event) for event in events])
            if starts:
                connection.execute(_STARTS.insert(), [_start_row(start) for start in starts])

        self._fenced(term, work)

    def starts(self, *, limit_each: int = 20) -> list[StartRow]:
        rank = func.row_number().over(partition_by=starts.c.deployment, order_by=starts.c.id.desc()).label("rank")
        ranked = select(starts.c.record, starts.c.id, rank).subquery()
        query = select(ranked.c.record).where(ranked.c.rank <= limit_each).order_by(ranked.c.id)
        return self._db.read(lambda c: [START.load(text) for text in c.execute(query).scalars()])

    # ------------------------------------------------------------------------------------------------- documents

    def reports(self) -> list[Report]:
        age = self._db.clock - reports.c.at
        query = (
            select(reports, age.label("age"))
            .join(jobs, jobs.c.id == reports.c.job)
            .where(jobs.c.state != JobState.ENDED.value)
            .order_by(reports.c.job)
        )

        def work(connection: Connection) -> list[Report]:
            return [
                Report(job=row.job, seq=row.seq, document=bytes(row.document), at=row.at, age_s=max(0.0, row.age))
                for row in connection.execute(query)
            ]

        return self._db.read(work)

    def set_desired(self, term: Term, *, job: str, version: int, document: bytes) -> None:
        row = {"job": job, "version": version, "document": document}
        self._fenced(term, lambda c: _done(c.execute(self._db.replace(desired, row))))

    def write_snapshot(self, term: Term, snapshot: Snapshot) -> None:
        if snapshot.epoch != term.epoch:
            raise InternalError("a snapshot carries the epoch of the term it is written under")
        document = SNAPSHOT.dump_bytes(snapshot)

        def work(connection: Connection) -> None:
            held = connection.execute(select(schema.snapshot.c.epoch, schema.snapshot.c.version)).one_or_none()
            if held is not None and (held.version > snapshot.version or held.epoch > snapshot.epoch):
                raise InternalError(
                    f"snapshot {snapshot.epoch}.{snapshot.version} would replace the newer {held.epoch}.{held.version}"
                )
            now = self._db.now(connection)
            if held is not None and (held.epoch, held.version) == (snapshot.epoch, snapshot.version):
                connection.execute(update(schema.snapshot).values(touched_at=now))
                return
            row = {
                "id": 1,
                "epoch": snapshot.epoch,
                "version": snapshot.version,
                "written_at": now,
                "touched_at": now,
                "document": document,
            }
            connection.execute(self._db.replace(schema.snapshot, row))

        self._fenced(term, work)

    def touch_snapshot(self, term: Term) -> None:
        self._fenced(term, lambda c: _done(c.execute(self._touch, {"held_epoch": term.epoch})))

    def gateways(self, *, within_s: float) -> list[GatewayRow]:
        age = (self._db.clock - gateways.c.written_at).label("age")
        query = select(gateways, age).where(age <= within_s).order_by(gateways.c.gateway)

        def work(connection: Connection) -> list[GatewayRow]:
            return [
                GatewayRow(
                    gateway=row.gateway, acked=row.acked, age_s=max(0.0, row.age), demand=DEMAND.load(row.demand)
                )
                for row in connection.execute(query)
            ]

        return self._db.read(work)

    # --------------------------------------------------------------------------------------------------- pruning

    def prune(self, term: Term, *, ended_before: float, usage_before: float | None) -> int:
        removed = 0

        def work(connection: Connection) -> None:
            nonlocal removed
            removed = sum(connection.execute(statement).rowcount for statement in self._outdated(ended_before))

        self._fenced(term, work)
        return removed + (self._prune_usage(term, usage_before) if usage_before is not None else 0)

    def _outdated(self, ended_before: float) -> Iterable[Any]:
        for table, ended in ((jobs, JobState.ENDED.value), (instances, InstanceState.ENDED.value)):
            yield delete(table).where(table.c.state == ended, table.c.ended_at < ended_before)
        yield delete(events).where(events.c.at < ended_before)
        for table in (reports, desired):
            yield delete(table).where(table.c.job.not_in(select(jobs.c.id)))
        rank = func.row_number().over(partition_by=starts.c.deployment, order_by=starts.c.id.desc()).label("rank")
        ranked = select(starts.c.id, rank).subquery()
        yield delete(starts).where(starts.c.id.in_(select(ranked.c.id).where(ranked.c.rank > STARTS_KEPT)))
        yield delete(gateways).where(gateways.c.written_at < self._db.clock - _GATEWAY_GONE_S)
        yield delete(overrides).where(overrides.c.until < self._db.clock - _GATEWAY_GONE_S)

    def _prune_usage(self, term: Term, before: float) -> int:
        """Remove old attempts, a thousand requests a transaction, so that nobody waits long for the write lock."""
        removed = 0
        while True:
            count = 0

            def work(connection: Connection) -> None:
                nonlocal count
                old = select(attempts.c.request).where(attempts.c.at < before).limit(_PRUNE_AT_ONCE)
                some = attempts.c.request.in_(old.scalar_subquery())
                count = connection.execute(delete(attempts).where(some, attempts.c.at < before)).rowcount

            self._fenced(term, work)
            if count == 0:
                return removed
            removed += count


_JOBS, _INSTANCES, _EVENTS, _STARTS = jobs, instances, events, starts  # the names of `save`'s parameters hide these


_HELD_TERM = select(schema.term.c.epoch, schema.term.c.holder).with_for_update(read=True)


def check_term(connection: Connection, term: Term) -> None:
    """Raise Fenced unless the term is the newest; the row stays locked, so that nobody takes over before the commit.

    A term that has expired but that nobody has taken is still good: nobody else decides.
    """
    row = connection.execute(_HELD_TERM).one()
    if (row.epoch, row.holder) != (term.epoch, term.holder):
        raise Fenced(f"term {term.epoch} of {term.holder} is over; {row.holder or 'nobody'} holds term {row.epoch}")


def _done(_result: object) -> None:
    """Let a statement be the whole of a piece of work that returns nothing."""


def _job_row(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "state": job.state.value,
        "ended_at": job.ended_at,
        "token_digest": job.token_digest,
        "record": JOB.dump(job),
    }


def _instance_row(instance: Instance) -> dict[str, Any]:
    return {
        "id": instance.id,
        "state": instance.state.value,
        "ended_at": instance.ended_at,
        "record": INSTANCE.dump(instance),
    }


def _event_row(event: EventRow) -> dict[str, Any]:
    return {
        "at": event.at,
        "kind": event.kind,
        "subject": event.subject,
        "state": event.state,
        "reason": event.reason,
        "detail": column_text(event.detail),
    }


def _start_row(start: StartRow) -> dict[str, Any]:
    return {"deployment": start.deployment, "at": start.at, "record": START.dump(start)}
