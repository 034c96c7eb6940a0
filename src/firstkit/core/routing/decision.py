# SPDX-License-Identifier: Apache-2.0
"""The choice of an instance, with the words that explain it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Generic

from firstkit.core.health.liveness import SOUND
from firstkit.core.instance.record import Contact
from firstkit.core.request import RequestClass
from firstkit.core.routing.candidates import BUSY, NONE, Rejection, Standing, Want, crowded, rejection
from firstkit.core.routing.load import StandingT, least_in_flight, least_suspect

RELIEF_S = 60.0
"""To wait so long for an instance that comes is always better than to be cut; what is unknown is taken to last it."""
LAST_S = 30.0
"""So near the end of an instance whoever may not finish waits, however long that takes."""
_TOLD = 3
_INTERACTIVE = RequestClass.INTERACTIVE  # a look-up in an enum costs as much as all the rest of a test


@dataclass(slots=True, kw_only=True)
class Choice(Generic[StandingT]):
    """What routing found. `chosen` None: nobody takes the request now, for the reasons in `rejected`.

    `short`: the instance that is chosen may end before the request does.

    Not frozen: one is made for every request, and frozen costs three times as much. Nobody changes it.
    """

    chosen: StandingT | None
    eligible: int
    rejected: Sequence[tuple[StandingT, Rejection]]
    last_resort: bool = False
    short: bool = False

    @property
    def busy(self) -> bool:
        """Tell whether some instance would take the request once others have ended."""
        return any(why in BUSY for _, why in self.rejected)

    @property
    def held_back(self) -> bool:
        """Tell whether it is not sent to an instance that would take it, since that may end before it does."""
        return self.chosen is None and any(why is Rejection.TOO_SHORT for _, why in self.rejected)

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
    relief_s: float | None = None,
) -> Choice[StandingT]:
    """Choose the eligible instance with the least in flight.

    Where the request might outlast every instance that would take it, none is chosen if another one comes soon enough
    (`relief_s`), else the one that lives longest. If every instance that could take the request is suspect, the least
    suspect of them is tried (law 13); a lost one is not.
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
            and now < standing.carefree_until
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
    if any(why is Rejection.TOO_SHORT for _, why in rejected):
        choice = _longest(rejected, want, reserve)
        worth = choice.chosen is not None and _worth_waiting(choice.chosen, want, relief_s=relief_s, now=now)
        return Choice(chosen=None, eligible=0, rejected=rejected) if worth else choice
    return _last_resort(rejected, want, reserve)


def _worth_waiting(standing: Standing, want: Want, *, relief_s: float | None, now: float) -> bool:
    """Tell whether a request had better wait for an instance that comes than be sent to one that may end before it.

    It had if that makes it at most half as long again as it may take, or hardly any request could finish there.
    """
    if relief_s is None:
        return False
    return relief_s <= max(RELIEF_S, standing.pace.bound_s(want.max_tokens) / 2) or standing.ends_at - now <= LAST_S


def _longest(rejected: Sequence[tuple[StandingT, Rejection]], want: Want, reserve: float) -> Choice[StandingT]:
    """Choose the instance that lives longest although the request may outlast it; a full one may take it later."""
    short: list[StandingT] = []
    rest: list[tuple[StandingT, Rejection]] = []
    for standing, why in rejected:
        if why is not Rejection.TOO_SHORT:
            rest.append((standing, why))
        elif crowd := crowded(standing, want, reserve=reserve):
            rest.append((standing, crowd))
        else:
            short.append(standing)
    if not short:
        return Choice(chosen=None, eligible=0, rejected=rest)
    chosen = max(short, key=lambda standing: standing.ends_at)
    return Choice(chosen=chosen, eligible=len(short), rejected=rest, short=True)


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
    elif choice.short:
        text = f"may end too soon, but lives longest of {choice.eligible}, {load}"
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
