# SPDX-License-Identifier: Apache-2.0
"""Progress and causes from log lines, and the table of states."""

import itertools

from firstkit.core.reasons import Reason
from firstkit.launcher.documents import CauseMark, ProgressMark
from firstkit.launcher.progress import Progress, ProgressReader, cause_of
from firstkit.launcher.states import ASKED_FOR, DRAINING, ENDED, LOADING, NEXT, READY, Lifecycle

MARKS = (
    ProgressMark(r"Resolved architecture", 0.1, 0.1, "reading the model"),
    ProgressMark(r"shards:\s+(?P<percent>\d+)%", 0.2, 0.6, "loading weights"),
    ProgressMark(r"Warming up", 0.8, 0.8, "warming up"),
)


def test_progress_moves_with_the_percent_of_a_line() -> None:
    reader = ProgressReader(MARKS)
    assert reader.now == Progress(None, "starting")
    assert reader.line("INFO Resolved architecture: LlamaForCausalLM")
    assert reader.line("Loading safetensors checkpoint shards:  50% Completed | 1/2")
    assert reader.now == Progress(0.4, "loading weights")


def test_progress_never_goes_back_and_ignores_what_it_does_not_know() -> None:
    reader = ProgressReader(MARKS)
    reader.line("Warming up model")
    assert not reader.line("shards: 100% Completed")
    assert not reader.line("nothing of note")
    assert not reader.line("Warming up model")
    assert reader.now == Progress(0.8, "warming up")


def test_a_percent_beyond_all_bounds_is_bounded() -> None:
    reader = ProgressReader(MARKS)
    reader.line("shards: 99999999999% Completed")
    assert reader.now == Progress(0.6, "loading weights")


def test_the_last_line_that_tells_a_cause_decides() -> None:
    causes = (CauseMark("memory", "OUT_OF_MEMORY"), CauseMark("No such file", "WEIGHTS_MISSING"))
    lines = ["No such file", "out of memory", "see root cause above"]
    found = cause_of(lines, causes)
    assert found is not None
    assert found.reason == "OUT_OF_MEMORY"
    assert cause_of(["fine"], causes) is None


def test_only_moves_of_the_table_are_made() -> None:
    for start, target in itertools.product(NEXT, NEXT):
        life = Lifecycle(0.0)
        life.state = start
        assert life.move(target, 1.0, reason="X") == (target in NEXT[start])
        assert life.state == (target if target in NEXT[start] else start)


def test_an_end_is_final_and_keeps_its_first_reason() -> None:
    life = Lifecycle(10.0)
    assert life.move(READY, 12.5)
    assert life.load_s == 2.5
    assert life.move(DRAINING, 13.0, reason="SCALED_IN")
    assert life.move(ENDED, 14.0, reason="SCALED_IN")
    assert not life.move(ENDED, 15.0, reason="ENGINE_EXIT")
    assert (life.reason, life.since) == ("SCALED_IN", 14.0)
    assert NEXT[ENDED] == frozenset()
    assert READY in NEXT[LOADING]


def test_every_reason_that_was_asked_for_is_known_to_the_controller() -> None:
    assert {Reason(reason) for reason in ASKED_FOR}
