# SPDX-License-Identifier: Apache-2.0
"""How long an instance that failed is left alone before one request may try it again."""

from __future__ import annotations

from firstkit.core.instance.record import Contact

FIRST_S: dict[Contact, float] = {Contact.ALIVE: 0.0, Contact.SUSPECT: 5.0, Contact.LOST: 1.0}
"""After the first failure. A refused connection costs a trial nothing; a time-out costs it the whole time-out."""

MOST_S: dict[Contact, float] = {Contact.ALIVE: 0.0, Contact.SUSPECT: 60.0, Contact.LOST: 30.0}

_DOUBLINGS = 10


def open_for_s(contact: Contact, strikes: int) -> float:
    """Say for how many seconds nothing is sent there after that many failed tries in a row: doubling, bounded."""
    return min(MOST_S[contact], FIRST_S[contact] * 2.0 ** min(max(strikes - 1, 0), _DOUBLINGS))
