# SPDX-License-Identifier: Apache-2.0
"""The choice of an instance, with the words that explain it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Generic

from firstkit.core.health.liveness import SOUND
from firstkit.core.instance.record import Contact
from firstkit.core.request import RequestClass
from firstkit.core.routing.candidates import BUSY, NONE, Rejection, Want, crowded, rejection
from firstkit.core.routing.load import StandingT, least_in_flight, least_suspect

_TOLD = 3
_INTERACTIVE = RequestClass.INTERACTIVE  # a look-up in an enum costs as much as all the rest of a test


@dataclass(slots=True, kw_only=True)
class Choice(Generic[StandingT]):
    """What routing found. `chosen` None: nobody takes the request now, for the reasons in `rejected`.

    Not frozen: one is made for every request, and frozen costs three times as much. Nobody changes it.
    """

    chosen: StandingT | None
    eligible: int
    rejected: Sequence[tuple[StandingT, Rejection]]
    last_resort: bool = False

    @property
    def busy(self) -> bool:
        """Tell whether some instance would take the request once others have ended."""
        return any(why in BUSY for _, why in self.rejected)

    @property
    def failed(self) -> bool:
        """Tell whether an instance is up that this request was sent to in vain."""
        return any(why is Rejection.FAILED_IT for _, why in self.rejected)


def choose(
    standings: Sequence[StandingT],
    want: Want,
    *,
    now: float,
    random: Callable[[], float],
    failed: Collection[str] = NONE,
    reserve: float = 0.0,
) -> Choice[StandingT]:
    """Choose the eligible instance with the least in flight.

    If every instance that could take the request is suspect, the least suspect of them is tried (law 13); a
    lost one is not.
    """
    eligible: list[StandingT] = []
    rejected: list[tuple[StandingT, Rejection]] = []
    path, cluster, simple = want.path, want.cluster, not failed and want.request_class is _INTERACTIVE
    for standing in standings:
        route = standing.route
        if (
            simple
            and standing.health is SOUND
            and standing.in_flight < route.cap
            and now < standing.ends_at
            and not route.draining
            and (not route.paths or path in route.paths)
            and (cluster is None or cluster == route.cluster)
        ):
            eligible.append(standing)  # what `rejection` would find too, without a call: most are so
            continue
        why = rejection(standing, want, now=now, failed=failed, reserve=reserve)
        if why is None:
            eligible.append(standing)
        else:
            rejected.append((standing, why))
    if len(eligible) == 1:
        return Choice(chosen=eligible[0], eligible=1, rejected=rejected)
    if eligible:
        return Choice(chosen=least_in_flight(eligible, random), eligible=len(eligible), rejected=rejected)
    if not rejected or any(why in BUSY for _, why in rejected):
        return Choice(chosen=None, eligible=0, rejected=rejected)
    return _last_resort(rejected, want, reserve)


def _last_resort(rejected: Sequence[tuple[StandingT, Rejection]], want: Want, reserve: float) -> Choice[StandingT]:
    suspects: list[StandingT] = []
    full: list[tuple[StandingT, Rejection]] = []
    for standing, why in rejected:
        tried = why is Rejection.TRIED and standing.health.contact is Contact.SUSPECT
        if why is not Rejection.SUSPECT and not tried:
            full.append((standing, why))
        elif crowd := crowded(standing, want, reserve=reserve):
            full.append((standing, crowd))
        else:
            suspects.append(standing)
    if not suspects:
        return Choice(chosen=None, eligible=0, rejected=full)
    return Choice(chosen=least_suspect(suspects), eligible=len(suspects), rejected=full, last_resort=True)


def words(choice: Choice[StandingT]) -> str:
    """Say in a line why the chosen instance takes the request; counts are those before it joins."""
    chosen = choice.chosen
    if chosen is None:
        return explain_rejected(choice.rejected) or "no instance"
    load = f"{chosen.in_flight} of {chosen.route.cap} in flight"
    if choice.last_resort:
        text = f"least suspect of {choice.eligible}, {load}"
    elif choice.eligible > 1:
        text = f"least loaded of {choice.eligible}, {load}"
    else:
        text = f"only choice, {load}"
    return f"{text}; {explain_rejected(choice.rejected)}" if choice.rejected else text


def explain_rejected(rejected: Sequence[tuple[StandingT, Rejection]]) -> str:
    """List why the others do not take it; of many, the first few and how many more."""
    told = [f"{standing.route.instance} {why}" for standing, why in rejected[:_TOLD]]
    if len(rejected) > _TOLD:
        told.append(f"{len(rejected) - _TOLD} more")
    return ", ".join(told)
