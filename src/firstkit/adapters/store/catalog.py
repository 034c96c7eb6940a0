# SPDX-License-Identifier: Apache-2.0
"""Numbered revisions of the catalog and the overrides beside them."""

from __future__ import annotations

import hashlib
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, delete, or_, select

from firstkit.adapters.store.database import Database
from firstkit.adapters.store.records import NUMBERS
from firstkit.adapters.store.schema import installation, overrides, revisions
from firstkit.ports.store import Override, Revision

_NEWEST = select(revisions).order_by(revisions.c.number.desc()).limit(1)  # built once: asked every second
_WHICH = select(revisions.c.number, revisions.c.digest).order_by(revisions.c.number.desc()).limit(1)


def newest_revision(connection: Connection, known: Revision | None = None) -> Revision | None:
    """Read the revision that holds; not its document again when it is the one that is known."""
    if known is not None and connection.execute(_WHICH).one_or_none() == (known.number, known.digest):
        return known
    row = connection.execute(_NEWEST).mappings().first()
    return _revision(row) if row is not None else None


class SqlCatalogStore:
    """Implements `CatalogStore`."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def current_revision(self, known: Revision | None = None) -> Revision | None:
        return self._db.read(lambda c: newest_revision(c, known))

    def revisions(self, *, limit: int = 50) -> list[Revision]:
        query = select(revisions).order_by(revisions.c.number.desc()).limit(limit)
        return self._db.read(lambda c: [_revision(row) for row in c.execute(query).mappings()])

    def revision(self, number: int) -> Revision | None:
        return self._one(select(revisions).where(revisions.c.number == number))

    def last_applied(self, by: str) -> Revision | None:
        return self._one(_NEWEST.where(revisions.c.applied_by.startswith(by, autoescape=True)))

    def _one(self, query: Select[Any]) -> Revision | None:
        row = self._db.read(lambda c: c.execute(query).mappings().first())
        return _revision(row) if row is not None else None

    def add_revision(self, *, document: str, by: str, repeat: bool = False) -> Revision:
        digest = hashlib.sha256(document.encode()).hexdigest()

        def work(connection: Connection) -> Revision:
            # Whoever applies waits here for whoever else does, so that numbers follow one another.
            connection.execute(select(installation.c.id).with_for_update())
            current = newest_revision(connection)
            if current is not None and current.digest == digest and not repeat:
                return current
            revision = Revision(
                number=current.number + 1 if current else 1,
                document=document,
                digest=digest,
                applied_at=self._db.now(connection),
                applied_by=by,
            )
            connection.execute(
                revisions.insert().values(
                    number=revision.number,
                    document=document,
                    digest=digest,
                    applied_at=revision.applied_at,
                    applied_by=by,
                )
            )
            return revision

        return self._db.write(work)

    def overrides(self) -> list[Override]:
        query = (
            select(overrides)
            .where(or_(overrides.c.until.is_(None), overrides.c.until > self._db.clock))
            .order_by(overrides.c.id)
        )
        return self._db.read(lambda c: [_override(row) for row in c.execute(query).mappings()])

    def set_override(
        self, *, kind: str, subject: str, value: dict[str, int], by: str, until: float | None, note: str
    ) -> Override:
        def work(connection: Connection) -> Override:
            at = self._db.now(connection)
            changed = {"value": NUMBERS.dump(value), "by": by, "at": at, "until": until, "note": note}
            statement = self._db.insert(overrides).values(kind=kind, subject=subject, **changed)
            row = connection.execute(
                statement.on_conflict_do_update(index_elements=["kind", "subject"], set_=changed).returning(overrides)
            )
            return _override(row.mappings().one())

        return self._db.write(work)

    def clear_override(self, *, kind: str, subject: str) -> bool:
        gone = delete(overrides).where(overrides.c.kind == kind, overrides.c.subject == subject)
        return self._db.write(lambda c: c.execute(gone).rowcount > 0)


def _revision(row: RowMapping) -> Revision:
    return Revision(
        number=row["number"],
        document=row["document"],
        digest=row["digest"],
        applied_at=row["applied_at"],
        applied_by=row["applied_by"],
    )


def _override(row: RowMapping) -> Override:
    return Override(
        id=row["id"],
        kind=row["kind"],
        subject=row["subject"],
        value=NUMBERS.load(row["value"]),
        by=row["by"],
        at=row["at"],
        until=row["until"],
        note=row["note"],
    )
