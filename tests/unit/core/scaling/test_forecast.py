# SPDX-License-Identifier: Apache-2.0
"""How long until a model is hot."""

from firstkit.core.scaling.forecast import Start, Typical, to_hot_s, typical


def start(load_s: float, **fields: object) -> Start:
    usual = {"deployment": "demo", "spec": "s", "job_wait_s": None, "boot_s": None, "load_s": load_s}
    return Start(**(usual | fields))  # pyright: ignore[reportArgumentType]


def hot(usual: Typical, **ages: float) -> float | None:
    given: dict[str, float | None] = {"queued_for_s": None, "booting_for_s": None, "loading_for_s": None}
    return to_hot_s(usual, **(given | ages))  # pyright: ignore[reportArgumentType]


KNOWN = Typical(job_wait_s=100.0, boot_s=10.0, load_s=40.0)


def test_the_first_time_nothing_is_invented() -> None:
    assert typical([], deployment="demo", spec="s") == Typical()
    assert hot(Typical()) is None
    assert hot(Typical(), loading_for_s=1.0) is None


def test_the_median_of_earlier_starts_counts_and_those_of_the_same_spec_before_others() -> None:
    rows = [start(10), start(30), start(20), start(500, spec="old"), start(7, deployment="other")]
    assert typical(rows, deployment="demo", spec="s").load_s == 20
    assert typical(rows, deployment="demo", spec="new").load_s == 25


def test_what_is_left_of_each_phase_adds_up() -> None:
    assert hot(KNOWN) == 150.0
    assert hot(KNOWN, queued_for_s=30.0) == 120.0
    assert hot(KNOWN, booting_for_s=4.0) == 46.0
    assert hot(KNOWN, loading_for_s=15.0) == 25.0


def test_a_phase_that_outlasts_its_usual_length_is_nearly_over_and_then_unknown() -> None:
    assert hot(KNOWN, loading_for_s=41.0) == 4.0
    assert hot(KNOWN, loading_for_s=81.0) is None
    assert hot(KNOWN, booting_for_s=21.0) is None


def test_an_unknown_queue_makes_the_whole_unknown_but_a_running_job_does_not_need_it() -> None:
    partly = Typical(load_s=40.0)
    assert hot(partly, queued_for_s=1.0) is None
    assert hot(partly) is None
    assert hot(partly, booting_for_s=3.0) == 40.0
