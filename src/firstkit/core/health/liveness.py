# SPDX-License-Identifier: Apache-2.0
"""A gateway's own judgement of an instance: alive, suspect or lost, and how it comes back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from firstkit.core.health.breaker import open_for_s
from firstkit.core.instance.record import Contact


class Failure(StrEnum):
    """What an attempt told about its instance.

    REFUSED: the connection was refused, closed or reset before a byte of an answer: lost at once. TIMEOUT: no answer in
    time: suspect. OK: it answered.
    """

    REFUSED = "refused"
    TIMEOUT = "timeout"
    OK = "ok"


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What the last evidence said. Until `until` it holds; afterwards the instance is on trial until it answers.

    `strikes` counts failed tries in a row; failures of requests that were already under way when the first one failed
    are the same strike.
    """

    contact: Contact = Contact.ALIVE
    since: float = 0.0
    until: float = 0.0
    strikes: int = 0


SOUND = Health()
"""Nothing is held against the instance. The one value without strikes, so that `is` tells."""


def observe(health: Health, how: Failure, *, now: float) -> Health:
    """Take in one piece of evidence; anything but OK that tells nothing new returns the same value."""
    if how is Failure.OK:
        return SOUND
    contact = Contact.LOST if how is Failure.REFUSED else Contact.SUSPECT
    holds = health is not SOUND and now < health.until
    if holds and (health.contact is Contact.LOST or contact is Contact.SUSPECT):
        return health
    strikes = health.strikes if holds else health.strikes + 1
    since = now if health is SOUND else health.since
    return Health(contact=contact, since=since, until=now + open_for_s(contact, strikes), strikes=strikes)


def contact(health: Health, *, now: float) -> Contact:
    """Say how the instance is judged now; one on trial counts as alive."""
    return health.contact if now < health.until else Contact.ALIVE


def on_trial(health: Health, *, now: float) -> bool:
    """Tell whether the instance failed, was left alone long enough, and has not answered since."""
    return health is not SOUND and now >= health.until


def suspicion(health: Health) -> tuple[int, float]:
    """Order the suspect: the fewest strikes first, then who has been suspect longest (its trouble may be over)."""
    return health.strikes, health.since
