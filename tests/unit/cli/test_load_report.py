# SPDX-License-Identifier: Apache-2.0
"""What a load run is summed up to."""

import pytest

from firstkit.apps.cli.load import Load, Run, Sample
from firstkit.apps.cli.load_report import percentile, report, report_lines

LOAD = Load(url="http://gateway/v1", model="m", concurrency=2)


def run(*samples: Sample, wall_s: float = 10.0, cpu_s: float = 1.0) -> Run:
    return Run(load=LOAD, samples=list(samples), wall_s=wall_s, cpu_s=cpu_s)


@pytest.mark.parametrize(("percent", "value"), [(50, 5), (90, 9), (99, 10), (100, 10), (1, 1)])
def test_percentiles_are_by_nearest_rank(percent: float, value: float) -> None:
    assert percentile([float(number) for number in range(10, 0, -1)], percent) == value


def test_there_is_no_percentile_of_nothing() -> None:
    assert percentile([], 50) is None


def test_only_whole_answers_count_for_times_and_tokens() -> None:
    whole = Sample(due=0.0, first=1.0, end=3.0, pieces=3, gaps=[0.5, 1.5], input_tokens=7, output_tokens=4)
    cut = Sample(due=0.0, first=0.1, end=None, pieces=9, gaps=[9.0], error="the stream broke off")
    result = report(run(whole, cut))
    assert (result["sent"], result["complete"]) == (2, 1)
    assert result["errors"] == {"the stream broke off": 1}
    assert (result["output_tokens"], result["output_tokens_from"], result["input_tokens"]) == (4, "usage", 7)
    assert result["requests_per_s"] == 0.1
    assert (result["ttft_s"]["p99"], result["itl_s"]["max"], result["latency_s"]["p50"]) == (1.0, 1.5, 3.0)


def test_without_usage_pieces_are_counted_and_that_is_said() -> None:
    result = report(run(Sample(due=0.0, first=1.0, end=2.0, pieces=5)))
    assert (result["output_tokens"], result["output_tokens_from"]) == (5, "counted chunks")


def test_waiting_counts_from_the_moment_a_request_was_due() -> None:
    assert report(run(Sample(due=1.0, first=4.0, end=6.0, pieces=1)))["ttft_s"]["p50"] == 3.0


def test_a_generator_that_was_busy_itself_says_so() -> None:
    assert any("This program used 90%" in line for line in report_lines(report(run(Sample(due=0), cpu_s=9.0))))
    assert not any("This program" in line for line in report_lines(report(run(Sample(due=0), cpu_s=1.0))))


def test_a_run_without_a_whole_answer_can_still_be_told() -> None:
    lines = report_lines(report(run(Sample(due=0.0, error="503 no"))))
    assert "failed 1x: 503 no" in lines
