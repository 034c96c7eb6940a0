# SPDX-License-Identifier: Apache-2.0
"""How many requests of a class an instance takes at once."""

from __future__ import annotations

from math import ceil


def batch_cap(cap: int, reserve: float) -> int:
    """Say how many requests may be in flight, all classes counted, for a batch request still to join.

    `reserve` is the share of the cap (0 to 1) that batch leaves free for interactive requests, rounded up; an instance
    with a single place gives even that, or batch would never run there.
    """
    return cap - min(max(cap - 1, 0), ceil(cap * reserve))
