# SPDX-License-Identifier: Apache-2.0
"""Whatever squeue and sacct print: nobody's job is made up, and what is cut proves nothing."""

from hypothesis import given
from hypothesis import strategies as st

from firstkit.adapters.schedulers.slurm_answers import ENDS, PHASES, read_accounting, read_listing, read_submission
from firstkit.core import ids
from firstkit.ports.runner import Done
from firstkit.ports.scheduler import JobPhase

TAGS = "first-abcdefgh-"
END = b"end-of-listing 1795574043\n"
STATES = st.sampled_from([*PHASES, "REVOKED", "SOMETHING_NEW", ""])
FREE_TEXT = st.text(st.sampled_from("ab|,[]% \n-:1"), max_size=20)
OURS = st.integers(0, 9).map(lambda number: f"{TAGS}j-{number:012}")


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """Lines as squeue prints them: ours with any reason, others' with any name."""
    number, state = draw(st.integers(1, 99)), draw(STATES)
    name = draw(st.one_of(OURS, FREE_TEXT))
    left = draw(st.sampled_from(["2:57", "1-02:03:04", "UNLIMITED", "INVALID", ""]))
    start = draw(st.sampled_from(["1795574220", "N/A", ""]))
    return f"{number}|{name}|{state}|0|{left}|{start}||{draw(FREE_TEXT)}\n".encode()


@given(st.lists(lines(), max_size=6), st.data())
def test_a_listing_cut_anywhere_makes_nothing_up_and_proves_no_absence(told: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(told) + END
    full = read_listing(Done(code=0, out=whole, err=b""), tags=TAGS)
    assert full.complete
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    part = read_listing(Done(code=0, out=cut, err=b""), tags=TAGS)
    assert not part.complete
    assert {(job.scheduler_id, job.tag) for job in part.jobs} <= {
        (number, tag) for number, tag in _pairs(whole) if tag.startswith(TAGS)
    }
    for job in (*full.jobs, *part.jobs):
        assert ids.read_tag(job.tag) is not None
        assert job.reason is None or job.phase in {JobPhase.ENDED, JobPhase.WAITING}
        assert job.time_left_s is None or job.phase is JobPhase.RUNNING


def _pairs(out: bytes) -> set[tuple[str, str]]:
    fields = [line.split("|") for line in out.decode().split("\n")]
    return {(field[0], field[1]) for field in fields if len(field) > 1}


@given(st.lists(lines(), max_size=6))
def test_each_job_of_ours_is_found_whatever_stands_in_other_lines(told: list[bytes]) -> None:
    ours = b"7777|first-abcdefgh-j-zzzzzzzzzzzz|RUNNING|0|2:57|1795574040||None\n"
    observation = read_listing(Done(code=0, out=b"".join(told) + b"\n" + ours + END, err=b""), tags=TAGS)
    assert "7777" in {job.scheduler_id for job in observation.jobs}


@given(st.binary(max_size=200), st.binary(max_size=200), st.integers(-15, 255))
def test_no_answer_however_garbled_raises_or_ends_a_job(out: bytes, err: bytes, code: int) -> None:
    result = Done(code=code, out=out, err=err)
    read_submission(result)
    observation = read_listing(result, tags=TAGS)
    assert all(job.tag.startswith(TAGS) for job in observation.jobs)
    assert all(job.reason in ENDS.values() or job.reason is None for job in read_accounting(result, tags=TAGS))
