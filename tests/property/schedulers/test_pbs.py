# SPDX-License-Identifier: Apache-2.0
"""The PBS dialect under listings of any content, whole, cut, or spoilt."""

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from firstkit.adapters.schedulers.pbs import PbsScheduler
from firstkit.adapters.schedulers.pbs_times import read_duration, read_moment, write_duration
from firstkit.ports.runner import Done
from firstkit.ports.scheduler import JobPhase, Observation
from firstkit.testing.records import make_cluster

RECORDED = (Path(__file__).parents[2] / "fixtures" / "schedulers" / "openpbs-23.06.06" / "qstat-live.json").read_bytes()
SCHEDULER = PbsScheduler(make_cluster(run_dir="/run"), installation="abcdefgh")
WHO = Done(code=0, out=b"fktest\n", err=b"")
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
VALUES: st.SearchStrategy[Any] = (
    PLAIN
    | st.lists(PLAIN, max_size=2)
    | st.dictionaries(st.sampled_from(["walltime", "start_time"]), PLAIN, max_size=2)
    | st.sampled_from(["Q", "R", "F", "E", {"walltime": "00:05:00"}, "Tue Nov 24 21:39:04 2026"])
)
ATTRIBUTES = st.dictionaries(
    st.sampled_from(
        ["job_state", "substate", "Exit_status", "comment", "stime", "Resource_List", "resources_used", "estimated"]
    ),
    VALUES,
    max_size=5,
)


def look(out: bytes) -> Observation:
    return SCHEDULER.parse([WHO, Done(code=0, out=out, err=b"")])


@given(st.lists(ATTRIBUTES, max_size=2), st.sampled_from([None, 4, "\t"]))
def test_whatever_attributes_hold_each_job_is_there_once(jobs: list[dict[str, Any]], indent: int | str | None) -> None:
    ours = {"Job_Name": "first-abcdefgh-j-000000000001", "Job_Owner": "fktest@pbs1"}
    listed = {f"{number}.pbs1": {**job, **ours} for number, job in enumerate(jobs)}
    seen = look(json.dumps({"timestamp": 1795556404, "Jobs": listed}, indent=indent).encode())
    assert seen.complete
    assert [job.scheduler_id for job in seen.jobs] == list(listed)
    assert all(job.time_left_s is None or job.time_left_s >= 0 for job in seen.jobs)


@given(st.integers(0, len(RECORDED)), st.binary(max_size=6), st.integers(0, 12))
def test_a_spoilt_listing_never_shows_a_job_ended_that_is_not(at: int, into: bytes, instead_of: int) -> None:
    seen = look(RECORDED[:at] + into + RECORDED[at + instead_of :])
    assert all(job.phase is not JobPhase.ENDED for job in seen.jobs if b"F" not in into)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_listing_prove_no_absence(out: bytes) -> None:
    if b"timestamp" not in out:
        assert not look(out).complete


@given(st.text(max_size=30))
def test_any_text_may_stand_where_a_time_should(text: str) -> None:
    moment, duration = read_moment(text), read_duration(text)
    assert moment is None or isinstance(moment, float)
    assert duration is None or duration >= 0


@given(st.floats(0, 1e7))
def test_a_duration_is_read_back_no_shorter_and_at_most_a_second_longer(seconds: float) -> None:
    back = read_duration(write_duration(seconds))
    assert back is not None
    assert seconds <= back <= seconds + 1
