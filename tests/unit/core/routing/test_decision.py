# SPDX-License-Identifier: Apache-2.0
"""Which instance takes a request, why, and why the others do not."""

from dataclasses import dataclass, field

import pytest

from firstkit.core.admission import outlook
from firstkit.core.health.liveness import SOUND, Failure, Health, observe
from firstkit.core.reasons import Reason
from firstkit.core.request import RequestClass
from firstkit.core.routing.candidates import NEVER, Lane, Rejection, rejection
from firstkit.core.routing.decision import Choice, choose, words
from firstkit.core.routing.load import least_in_flight, least_suspect
from firstkit.core.routing.pace import HORIZON_S, LEAST_S, UNKNOWN_S, Pace, class_of
from firstkit.core.topology import Heat, Route
from firstkit.testing.dispatching import CHAT, route, status

NOW = 100.0
WANT = Lane(CHAT, None, RequestClass.INTERACTIVE)
BATCH = Lane(CHAT, None, RequestClass.BATCH)
SUSPECT = observe(SOUND, Failure.TIMEOUT, now=NOW)
LOST = observe(SOUND, Failure.REFUSED, now=NOW)
WAS_SUSPECT = observe(SOUND, Failure.TIMEOUT, now=0.0)
WAS_LOST = observe(SOUND, Failure.REFUSED, now=0.0)


@dataclass
class Standing:
    route: Route
    in_flight: int = 0
    ends_at: float = NEVER
    health: Health = SOUND
    trials: int = 0
    pace: Pace = field(default_factory=Pace)

    @property
    def carefree_until(self) -> float:
        return self.ends_at - HORIZON_S


def never_asked() -> float:
    pytest.fail("chance is asked only when there is a tie")


def chosen(*standings: Standing, want: Lane = WANT, failed: frozenset[str] = frozenset()) -> Choice[Standing]:
    return choose(standings, want, now=NOW, random=lambda: 0.0, failed=failed)


@pytest.mark.parametrize(
    ("standing", "want", "failed", "why"),
    [
        (Standing(route("i")), WANT, (), None),
        (Standing(route("i", cluster="x")), WANT._replace(cluster="y"), (), Rejection.OTHER_CLUSTER),
        (Standing(route("i", cluster="x")), WANT._replace(cluster="x"), (), None),
        (Standing(route("i", paths=frozenset({"/v1/embeddings"}))), WANT, (), Rejection.OTHER_ENDPOINT),
        (Standing(route("i", paths=frozenset({CHAT}))), WANT, (), None),
        (Standing(route("i", draining=True)), WANT, (), Rejection.DRAINING),
        (Standing(route("i"), ends_at=NOW), WANT, (), Rejection.ENDED),
        (Standing(route("i"), ends_at=NOW + 59.9), WANT, (), Rejection.TOO_SHORT),
        (Standing(route("i"), 2, ends_at=NOW + 59.9), WANT, (), Rejection.TOO_SHORT),
        (Standing(route("i"), ends_at=NOW + 60.1), WANT, (), None),
        (Standing(route("i"), health=LOST), WANT, (), Rejection.LOST),
        (Standing(route("i"), health=SUSPECT), WANT, (), Rejection.SUSPECT),
        (Standing(route("i"), health=WAS_LOST), WANT, (), None),
        (Standing(route("i"), health=WAS_SUSPECT), WANT, (), None),
        (Standing(route("i", cap=9), 1, health=WAS_LOST), WANT, (), None),
        (Standing(route("i", cap=9), 1, health=WAS_LOST, trials=1), WANT, (), Rejection.TRIED),
        (Standing(route("i")), WANT, ("i",), Rejection.FAILED_IT),
        (Standing(route("i"), health=SUSPECT), WANT, ("i",), Rejection.FAILED_IT),
        (Standing(route("i"), health=WAS_LOST), WANT, ("i",), Rejection.LOST),
        (Standing(route("i")), WANT, ("j",), None),
        (Standing(route("i", cap=2), 2), WANT, (), Rejection.FULL),
        (Standing(route("i", cap=0)), WANT, (), Rejection.FULL),
        (Standing(route("i", cap=10), 9), WANT, (), None),
        (Standing(route("i", cap=10), 9), BATCH, (), Rejection.RESERVED),
        (Standing(route("i", cap=10), 8), BATCH, (), None),
    ],
)
def test_each_instance_is_eligible_or_rejected_with_a_reason(
    standing: Standing, want: Lane, failed: tuple[str, ...], why: Rejection | None
) -> None:
    assert rejection(standing, want, now=NOW, failed=failed, reserve=0.1) is why


def test_chance_decides_ties_alone() -> None:
    busy, one, two = Standing(route("i-busy"), 2), Standing(route("i-one"), 1), Standing(route("i-two"), 1)
    assert least_in_flight([busy, one], never_asked) is one
    assert least_in_flight([one, two, busy], lambda: 0.0) is one
    assert least_in_flight([one, two, busy], lambda: 0.999999) is two
    empty: list[Standing] = []
    assert least_in_flight(empty, never_asked) is None


def test_the_least_suspect_is_the_one_with_the_least_against_it() -> None:
    twice = Standing(route("i-twice"), health=Health(strikes=2, since=1.0))
    once = Standing(route("i-once"), 5, health=Health(strikes=1, since=1.0))
    idle = Standing(route("i-idle"), 0, health=Health(strikes=1, since=1.0))
    assert least_suspect([twice, once, idle]) is idle


def test_a_suspect_is_tried_only_when_no_other_is_alive() -> None:
    suspect = Standing(route("i-s", cap=9), health=SUSPECT)
    assert chosen(suspect, Standing(route("i-alive"), 1)).chosen is not suspect
    assert chosen(suspect, Standing(route("i-full", cap=1), 1)).chosen is None
    for gone in (
        Standing(route("i-l"), health=LOST),
        Standing(route("i-d", draining=True)),
        Standing(route("i-e"), ends_at=NOW),
        Standing(route("i-p", paths=frozenset({"/v1/embeddings"}))),
    ):
        choice = chosen(suspect, gone)
        assert choice.chosen is suspect
        assert choice.last_resort


def test_a_suspect_being_tried_takes_more_when_it_is_the_only_one_and_a_lost_one_does_not() -> None:
    assert chosen(Standing(route("i-s", cap=9), 3, health=WAS_SUSPECT, trials=3)).chosen is not None
    assert chosen(Standing(route("i-l", cap=9), 3, health=WAS_LOST, trials=1)).chosen is None


def test_the_last_resort_has_a_cap_too() -> None:
    choice = chosen(Standing(route("i-s", cap=3), 3, health=SUSPECT))
    assert choice.chosen is None
    assert choice.busy, "it takes the request as soon as another has ended"


def test_a_request_does_not_go_back_to_a_suspect_that_failed_it() -> None:
    choice = chosen(Standing(route("i-s"), health=SUSPECT), failed=frozenset({"i-s"}))
    assert choice.chosen is None
    assert choice.failed
    assert not choice.busy


def test_nothing_to_choose_from_is_neither_busy_nor_failed() -> None:
    choice = chosen()
    assert choice.chosen is None
    assert not choice.busy
    assert not choice.failed
    assert words(choice) == "no instance"


def test_the_decision_is_told_in_words() -> None:
    a, b = Standing(route("i-a", cap=8), 3), Standing(route("i-b", cap=8), 5)
    lost = Standing(route("i-c"), health=LOST)
    assert words(chosen(a)) == "only choice, 3 of 8 in flight"
    assert words(chosen(a, b)) == "least loaded of 2, 3 of 8 in flight"
    assert words(chosen(a, lost)) == "only choice, 3 of 8 in flight; i-c lost"
    assert words(chosen(Standing(route("i-s"), health=SUSPECT), lost)).startswith("least suspect of 1")
    many = words(chosen(a, *[Standing(route(f"i-{number}", draining=True)) for number in range(9)]))
    assert many.endswith("i-0 draining, i-1 draining, i-2 draining, 6 more")
    assert words(chosen(lost)) == "i-c lost"


def test_a_model_looks_to_each_request_as_it_is_for_it() -> None:
    hot = status(Heat.HOT, reason=Reason.SERVING, to_hot_s=0.0)
    loading = status(Heat.WARM, reason=Reason.LOADING, detail="loading weights")
    full = chosen(Standing(route("i", cap=1), 1))
    assert outlook(loading, full, to_hot_s=9.0).heat is Heat.HOT
    assert outlook(loading, chosen(), to_hot_s=9.0) == (Heat.WARM, Reason.LOADING, "loading weights", 9.0)
    assert outlook(None, chosen(), to_hot_s=None).heat is Heat.COLD
    assert outlook(hot, chosen(Standing(route("i"), health=LOST)), to_hot_s=0.0)[:2] == (Heat.WARM, Reason.UNREACHABLE)
    assert outlook(hot, chosen(Standing(route("i", draining=True))), to_hot_s=0.0).reason is Reason.DRAINING
    assert outlook(hot, chosen(), to_hot_s=0.0)[2:] == ("no instance that fits this request is up", None)


# ------------------------------------------------------------------------------------------------- near the end
def test_a_request_goes_where_it_can_finish_however_much_is_in_flight_there() -> None:
    choice = chosen(Standing(route("i-ends"), 0, ends_at=NOW + 30), Standing(route("i-lives"), 1))
    assert choice.chosen is not None
    assert choice.chosen.route.instance == "i-lives"
    assert words(choice) == "only choice, 1 of 2 in flight; i-ends ends before this request could"


def test_a_short_request_still_goes_to_an_instance_that_ends_soon_and_a_long_one_does_not() -> None:
    pace = Pace()
    for _ in range(50):
        pace.note(total_s=2.0, first_s=1.0, tokens=100)
    ending = Standing(route("i"), ends_at=NOW + 30, pace=pace)
    assert rejection(ending, WANT._replace(max_tokens=1000), now=NOW) is None
    assert rejection(ending, WANT._replace(max_tokens=4000), now=NOW) is Rejection.TOO_SHORT


def test_where_it_can_finish_nowhere_it_waits_for_one_that_comes_else_it_goes_where_it_can_stay_longest() -> None:
    ending = [Standing(route("i-1"), ends_at=NOW + 10), Standing(route("i-2"), 1, ends_at=NOW + 20)]
    held = choose(ending, WANT, now=NOW, random=never_asked, relief_s=50.0)
    assert (held.chosen, held.held_back, held.busy) == (None, True, False)
    assert outlook(status(Heat.HOT), held, to_hot_s=0.0).reason is Reason.HANDOVER
    choice = choose(ending, WANT, now=NOW, random=never_asked)
    assert (choice.chosen, choice.short) == (ending[1], True)
    assert words(choice) == "may end too soon, but lives longest of 2, 1 of 2 in flight"


def test_one_that_is_merely_full_is_waited_for_rather_than_one_taken_that_ends_too_soon() -> None:
    full, ending = Standing(route("i-full"), 2), Standing(route("i-ends"), ends_at=NOW + 10)
    choice = choose([full, ending], WANT, now=NOW, random=never_asked)
    assert (choice.chosen, choice.busy) == (None, True)


# ------------------------------------------------------------------------------------------------- how long it takes
def test_the_bound_grows_with_max_tokens_and_with_how_unsteady_the_pace_is() -> None:
    steady, unsteady = Pace(), Pace()
    for number in range(100):
        steady.note(total_s=10.0, first_s=0.5, tokens=100)
        unsteady.note(total_s=10.0 if number % 2 else 30.0, first_s=0.5, tokens=100)
    assert 90 < steady.bound_s(1000) < 110
    assert unsteady.bound_s(1000) > 190
    assert steady.bound_s(10**9) == HORIZON_S


def test_without_max_tokens_the_longest_of_late_counts_and_is_slowly_forgotten() -> None:
    pace = Pace()
    assert pace.bound_s(None) == UNKNOWN_S
    pace.note(total_s=400.0, first_s=None, tokens=None)
    assert pace.bound_s(None) == 500.0
    for _ in range(5000):
        pace.note(total_s=1.0, first_s=None, tokens=3)
    assert pace.bound_s(None) == LEAST_S


def test_what_was_never_measured_is_taken_to_last_long() -> None:
    pace = Pace()
    pace.note(total_s=1.0, first_s=0.1, tokens=2)
    assert pace.bound_s(5) == UNKNOWN_S


@pytest.mark.parametrize(("given", "made"), [(None, None), (0, 1), (1, 1), (3, 4), (512, 512), (513, 1024)])
def test_requests_that_last_about_as_long_are_of_one_class(given: int | None, made: int | None) -> None:
    assert class_of(given) == made


@pytest.mark.parametrize(("left_s", "relief_s", "waits"), [(40, 60, True), (40, 61, False), (30, 9999, True)])
def test_one_that_comes_is_waited_for_if_that_is_soon_or_hardly_any_time_is_left(
    left_s: float, relief_s: float, waits: bool
) -> None:
    choice = choose([Standing(route("i"), ends_at=NOW + left_s)], WANT, now=NOW, random=never_asked, relief_s=relief_s)
    assert (choice.chosen is None) is waits


def test_the_longer_a_request_may_take_the_longer_it_waits_for_one_that_comes() -> None:
    pace = Pace()
    pace.note(total_s=400.0, first_s=None, tokens=None)  # so 500 s are feared
    ending = [Standing(route("i"), ends_at=NOW + 300, pace=pace)]
    assert choose(ending, WANT, now=NOW, random=never_asked, relief_s=250.0).held_back
    assert choose(ending, WANT, now=NOW, random=never_asked, relief_s=251.0).short
