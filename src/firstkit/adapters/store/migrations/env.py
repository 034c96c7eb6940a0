# SPDX-License-Identifier: Apache-2.0
"""What Alembic runs around the migrations: on the open transaction that `versions.migrate` hands over."""

from __future__ import annotations

from alembic import context

from firstkit.adapters.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
