# SPDX-License-Identifier: Apache-2.0
"""Alembic's scripts: one file a schema, numbered; expand in one release, contract in a later one."""
