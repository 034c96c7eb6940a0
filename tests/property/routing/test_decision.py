# SPDX-License-Identifier: Apache-2.0
"""Routing never picks an instance that may not take the request, and always one that may."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from firstkit.core.health.liveness import SOUND, Failure, Health, contact, observe
from firstkit.core.instance.record import Contact
from firstkit.core.limits.concurrency import batch_cap
from firstkit.core.request import RequestClass
from firstkit.core.routing.candidates import NEVER, Lane
from firstkit.core.routing.decision import choose, words
from firstkit.core.routing.pace import HORIZON_S, UNKNOWN_S, Pace
from firstkit.core.topology import Route
from firstkit.testing.dispatching import route

NOW = 100.0
PATHS = ("/v1/chat/completions", "/v1/embeddings")


@dataclass
class Standing:
    route: Route
    in_flight: int
    ends_at: float
    health: Health
    trials: int
    pace: Pace = field(default_factory=Pace)

    @property
    def carefree_until(self) -> float:
        return self.ends_at - HORIZON_S


healths = st.sampled_from(
    [
        SOUND,
        observe(SOUND, Failure.TIMEOUT, now=NOW),
        observe(SOUND, Failure.REFUSED, now=NOW),
        observe(SOUND, Failure.TIMEOUT, now=0.0),
        observe(SOUND, Failure.REFUSED, now=0.0),
    ]
)


@st.composite
def standings(draw: st.DrawFn) -> list[Standing]:
    count = draw(st.integers(0, 6))
    return [
        Standing(
            route=route(
                f"i-{number}",
                cluster=draw(st.sampled_from(["x", "y"])),
                cap=draw(st.integers(0, 4)),
                draining=draw(st.booleans()),
                paths=draw(st.frozensets(st.sampled_from(PATHS))),
            ),
            in_flight=draw(st.integers(0, 4)),
            ends_at=draw(st.sampled_from([NEVER, NOW, NOW + 1.0, NOW + 2.0, NOW + 40.0, NOW + UNKNOWN_S])),
            health=draw(healths),
            trials=draw(st.integers(0, 1)),
        )
        for number in range(count)
    ]


wants = st.builds(Lane, st.sampled_from(PATHS), st.sampled_from([None, "x", "y"]), st.sampled_from(list(RequestClass)))
failures = st.frozensets(st.sampled_from([f"i-{number}" for number in range(6)]), max_size=3)


def fits(it: Standing, want: Lane, failed: frozenset[str]) -> bool:
    return (
        want.cluster in (None, it.route.cluster)
        and (not it.route.paths or want.path in it.route.paths)
        and not it.route.draining
        and it.ends_at > NOW
        and it.route.instance not in failed
    )


def has_room(it: Standing, want: Lane) -> bool:
    if want.request_class is RequestClass.BATCH:
        return it.in_flight < min(it.route.cap, batch_cap(it.route.cap, 0.3))
    return it.in_flight < it.route.cap


def sound(it: Standing) -> bool:
    on_trial = it.health is not SOUND and it.health.until <= NOW
    return contact(it.health, now=NOW) is Contact.ALIVE and not (on_trial and it.trials)


def lasts(it: Standing) -> bool:
    """Tell whether a request can finish there, as nothing has been measured yet."""
    return it.ends_at >= NOW + UNKNOWN_S


@given(standings(), wants, failures, st.floats(0.0, 1.0, exclude_max=True), st.sampled_from([None, 0.0, 60.0, 1000.0]))
def test_the_choice_is_right(
    all_: list[Standing],
    want: Lane,
    failed: frozenset[str],
    chance: float,
    relief_s: float | None,
) -> None:
    choice = choose(all_, want, now=NOW, random=lambda: chance, failed=failed, reserve=0.3, relief_s=relief_s)
    fit = [it for it in all_ if fits(it, want, failed)]
    alive = [it for it in fit if sound(it)]
    lasting = [it for it in alive if lasts(it)]
    free = [it for it in lasting if has_room(it, want)]
    chosen = choice.chosen
    assert words(choice)
    if free:
        assert chosen in free
        assert chosen is not None
        assert chosen.in_flight == min(it.in_flight for it in free)
        assert not choice.last_resort
        assert not choice.short
    elif choice.short:
        assert chosen is not None
        assert not lasting, "one that lives longer is waited for"
        assert relief_s is None or relief_s > 60, "and so is one that comes soon"
        assert relief_s is None or chosen.ends_at > NOW + 30
        assert chosen.ends_at == max(it.ends_at for it in alive if has_room(it, want))
    elif choice.held_back and relief_s is not None:
        assert alive
    elif chosen is not None:
        assert choice.last_resort
        assert not alive, "a suspect is tried only when nobody is alive"
        assert chosen in fit
        assert has_room(chosen, want)
        assert chosen.health.contact is Contact.SUSPECT
    else:
        suspects = [it for it in fit if it.health.contact is Contact.SUSPECT and it.health is not SOUND and lasts(it)]
        assert alive or not any(has_room(it, want) for it in suspects)
        assert choice.busy or not (lasting or suspects)
    told = {it.route.instance for it, _ in choice.rejected}
    assert len(told) == len(choice.rejected)
    assert chosen is None or chosen.route.instance not in told
