# SPDX-License-Identifier: Apache-2.0
"""What `first wait` says while it waits."""

import pytest

from firstkit.apps.cli.waiting import words

STATE = {
    "state": "queued",
    "reason": "QUEUED_AT_SCHEDULER",
    "detail": "",
    "progress": "",
    "fraction": None,
    "waiting": 0,
    "time_to_hot_s": None,
}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "queued, queued at scheduler, time unknown"),
        ({"waiting": 1}, "queued, queued at scheduler, 1 request waits for it, time unknown"),
        (
            {"waiting": 4, "time_to_hot_s": 90.0},
            "queued, queued at scheduler, 4 requests wait for it, hot in about 90 s",
        ),
        (
            {"state": "warm", "progress": "loading weights", "fraction": 0.4, "time_to_hot_s": 20.0},
            "warm 40%, loading weights, hot in about 20 s",
        ),
    ],
)
def test_it_tells_state_queue_and_time_as_far_as_they_are_known(more: dict[str, object], said: str) -> None:
    assert words(STATE | more) == said
