# SPDX-License-Identifier: Apache-2.0
"""The end of an engine's log on this machine."""

from __future__ import annotations

import os
import stat

_BLOCK = 65_536
_MOST_BYTES = 4_000_000
_LINE = 2_000


def tail(path: str, lines: int) -> list[str] | None:
    """Return the last lines of a file, long ones cut; None when it is not there. Blocking."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        position = os.lseek(descriptor, 0, os.SEEK_END)
        data = b""
        while position > 0 and data.count(b"\n") <= lines and len(data) < _MOST_BYTES:
            start = max(0, position - _BLOCK)
            data = os.pread(descriptor, position - start, start) + data
            position = start
    finally:
        os.close(descriptor)
    kept = data.decode(errors="replace").splitlines()
    if position > 0:
        kept = kept[1:]  # the first is most likely cut
    return [line[:_LINE] for line in kept[-lines:]]
