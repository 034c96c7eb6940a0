# SPDX-License-Identifier: Apache-2.0
"""Builds the launcher into one file that a cluster's Python runs: a zip archive, of the same bytes everywhere."""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from dataclasses import dataclass
from importlib import resources

PACKAGE = "firstkit_launcher"
"""The name under which the archive holds the package; `__main__.py` lies beside it as well."""
SHEBANG = b"#!/usr/bin/env python3\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class LauncherArchive:
    """The launcher as it is put on a cluster, once per version: `launcher-<first 12 of its SHA-256>.pyz`."""

    name: str
    data: bytes


@functools.cache
def build() -> LauncherArchive:
    """Build the archive: no dates, no compression, sorted names, since a cluster keeps one for each content."""
    sources = {
        source.name: source.read_bytes()
        for source in resources.files("firstkit.launcher").iterdir()
        if source.name.endswith(".py")
    }
    members = {"__main__.py": sources["__main__.py"], **{f"{PACKAGE}/{name}": data for name, data in sources.items()}}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            member.create_system = 3
            member.external_attr = 0o100644 << 16
            archive.writestr(member, members[name])
    data = SHEBANG + buffer.getvalue()
    return LauncherArchive(name=f"launcher-{hashlib.sha256(data).hexdigest()[:12]}.pyz", data=data)
