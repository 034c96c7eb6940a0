# SPDX-License-Identifier: Apache-2.0
"""Figures of a run: ratios are taken within a round, latencies are what was added, and faults are told."""

from typing import Any

import pytest
from benchmarks.accounting import Reading, between
from benchmarks.figures import Spread, distribution
from benchmarks.report import METRICS, Claim, absolute, faults, judged, markdown, ratio, summary
from benchmarks.soak import flatness


def rounds(*costs: tuple[float, float, float]) -> list[dict[str, dict[str, dict[str, Any]]]]:
    """Make rounds with the CPU per request of firstkit, nginx and vllm-router."""
    return [
        {
            "unary-16": {
                "firstkit": {"cpu_us_per_request": mine},
                "nginx": {"cpu_us_per_request": nginx},
                "vllm-router": {"cpu_us_per_request": router},
            }
        }
        for mine, nginx, router in costs
    ]


SLOWING_MACHINE = rounds((20, 10, 40), (44, 20, 80), (60, 40, 160))


def test_a_ratio_is_taken_within_each_round() -> None:
    found = ratio(SLOWING_MACHINE, METRICS["request"], "firstkit", "nginx")
    assert found == Spread(median=2.0, least=1.5, greatest=2.2, of=3)


def test_a_contender_that_was_not_measured_has_no_ratio() -> None:
    assert ratio(SLOWING_MACHINE, METRICS["request"], "firstkit", "litellm") is None
    assert absolute(SLOWING_MACHINE, METRICS["event"], "firstkit") is None


def test_a_round_in_which_one_of_two_failed_does_not_count() -> None:
    measured = rounds((20, 10, 40), (44, 20, 80))
    measured[0]["unary-16"]["nginx"] = {"failed": "TimeoutError"}
    found = ratio(measured, METRICS["request"], "firstkit", "nginx")
    assert found is not None
    assert (found.median, found.of) == (2.2, 1)


@pytest.mark.parametrize(("limit", "holds"), [(2.0, True), (1.99, False)])
def test_a_claim_holds_up_to_its_limit(limit: float, holds: bool) -> None:
    found = judged(SLOWING_MACHINE, Claim(metric="request", limit=limit, than="nginx"), "firstkit")
    assert found[1] is holds


def test_a_claim_about_what_was_not_measured_neither_holds_nor_fails() -> None:
    assert judged(SLOWING_MACHINE, Claim(metric="event", limit=1, than="nginx"), "firstkit") == (None, None)


def test_added_latency_is_what_the_engine_alone_does_not_take() -> None:
    measured = [{"paced-16": {"direct": {"latency_us": {"p50": 50_100}}, "nginx": {"latency_us": {"p50": 50_300}}}}]
    assert METRICS["p50"].of(measured[0], "nginx") == 200
    assert METRICS["p50"].of({"paced-16": {"nginx": {"latency_us": {"p50": 50_300}}}}, "nginx") is None


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ({"failed": "OSError: gone"}, "failed: OSError: gone"),
        ({"errors": 3, "requests": 10}, "answered with errors"),
        ({"streams": 4, "complete": 4, "exact": 3}, "streamed bytes are not the engine's"),
        ({"streams": 4, "complete": 3, "exact": 4}, "streams incomplete"),
        ({"compared": 20, "different": 1}, "plain answers are not the engine's"),
        ({"unchanged": False}, "the request's body does not arrive as sent"),
        ({"clients": 8, "aborted": 7}, "a client that leaves is not passed on"),
    ],
)
def test_what_went_wrong_is_told(figures: dict[str, Any], told: str) -> None:
    assert faults([{"stream": {"smg": figures}}, {"stream": {"smg": figures}}]) == {"smg": {told: ["stream"]}}


def test_what_went_well_is_no_fault() -> None:
    well = {"streams": 4, "complete": 4, "exact": 4, "errors": 0, "unchanged": True, "clients": 8, "aborted": 8}
    assert faults([{"stream": {"smg": well}}]) == {}


def test_a_run_becomes_a_table_with_its_claims_and_faults() -> None:
    versions = {name: {"version": "1", "notes": "as it is"} for name in ("firstkit", "nginx", "vllm-router")}
    about = {"processor": "a processor", "cores": 2, "at": "2026-11-24T00:00:00Z", "contenders": versions}
    measured = [*SLOWING_MACHINE, {"same": {"nginx": {"different": 2}}}]
    table = markdown({"about": about, "rounds": measured})
    assert "| CPU per request, 16 connections, µs | 44 (2; 1.5–2.2) | 20 | 80 (4; 4–4) |" in table
    assert "÷ vllm-router | ≤ 0.8 | 0.5 (0.375–0.55) | yes |" in table
    assert "- nginx: plain answers are not the engine's (same)" in table
    claims = summary(measured, ["firstkit", "nginx", "vllm-router"], {})["claims"]
    assert [claim["holds"] for claim in claims if claim["metric"] == "request"] == [True, True, None]


def test_cpu_is_that_of_the_threads_that_were_and_of_those_that_came() -> None:
    before = Reading(at_s=10, ticks_s=5, thread_ns={1: 1_000_000_000, 2: 500})
    after = Reading(at_s=13, ticks_s=9, thread_ns={1: 3_000_000_000, 2: 500, 3: 1_000_000_000})
    spent = between(before, after)
    assert (spent.cpu_s, spent.wall_s, spent.exact) == (3.0, 3.0, True)


def test_cpu_is_counted_in_ticks_where_a_thread_took_its_count_along() -> None:
    before = Reading(at_s=10, ticks_s=5, thread_ns={1: 1_000_000_000, 2: 500})
    spent = between(before, Reading(at_s=11, ticks_s=9, thread_ns={1: 3_000_000_000}))
    assert (spent.cpu_s, spent.exact) == (4.0, False)


def test_flatness_leaves_out_the_warm_up_and_tells_the_greatest_deviation() -> None:
    assert flatness([10e6, *[100e6] * 17, 104e6, 98e6]) == {
        "median_mb": 100.0,
        "first_mb": 100.0,
        "last_mb": 98.0,
        "deviation": 0.04,
    }


def test_a_distribution_of_nothing_says_that_it_counts_nothing() -> None:
    assert distribution([]) == {"n": 0}
    assert distribution(range(1, 101), scale=0.1) == {"p50": 5.1, "p90": 9.1, "p99": 10.0, "max": 10.0, "n": 100}
