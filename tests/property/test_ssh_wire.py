# SPDX-License-Identifier: Apache-2.0
"""The answer of a far end, however it is cut: whole results or none, whatever a login prints around it."""

import contextlib
import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from firstkit.adapters.runners.ssh_wire import AnswerReader, Garbled

NONCE = "0123456789abcdef" * 2
OUTPUTS = st.lists(st.tuples(st.binary(max_size=60), st.binary(max_size=20)), max_size=4)


def spoken(outputs: list[tuple[bytes, bytes]], noise: bytes = b"") -> bytes:
    """Say what `gate.py` says."""
    said = noise + f"\n{NONCE} ready 1\n".encode()
    for out, err in outputs:
        head = json.dumps({"state": "done", "code": 0, "sizes": [len(out), len(err)]}).encode()
        said += head + b"\n" + out + err + NONCE.encode() + b"\n"
    return said + json.dumps({"state": "end", "sizes": []}).encode() + b"\n" + NONCE.encode() + b"\n"


@given(outputs=OUTPUTS, noise=st.binary(max_size=200), cuts=st.lists(st.integers(0, 600)))
def test_an_answer_is_the_same_wherever_it_is_cut(
    outputs: list[tuple[bytes, bytes]], noise: bytes, cuts: list[int]
) -> None:
    said = spoken(outputs, noise)
    reader = AnswerReader(NONCE)
    for start, end in pairwise([0, *sorted(min(cut, len(said)) for cut in cuts), len(said)]):
        reader.feed(said[start:end])
    assert [answer.blobs for answer in reader.answers] == outputs
    assert reader.ended


@given(outputs=OUTPUTS, cut=st.integers(0, 600))
def test_a_broken_off_answer_holds_whole_results_alone_and_has_no_end(
    outputs: list[tuple[bytes, bytes]], cut: int
) -> None:
    said = spoken(outputs)
    reader = AnswerReader(NONCE)
    reader.feed(said[: min(cut, len(said) - 1)])
    assert [answer.blobs for answer in reader.answers] == outputs[: len(reader.answers)]
    assert not reader.ended


@given(outputs=OUTPUTS.filter(bool), place=st.integers(0, 600), noise=st.binary(min_size=1, max_size=30))
def test_what_another_prints_into_an_answer_is_never_a_part_of_a_result(
    outputs: list[tuple[bytes, bytes]], place: int, noise: bytes
) -> None:
    said = spoken(outputs)
    begin = said.index(b"{")
    place = begin + place % (len(said) - begin)
    reader = AnswerReader(NONCE)
    with contextlib.suppress(Garbled):
        reader.feed(said[:place] + noise + said[place:])
    for answer, pair in zip(reader.answers, outputs, strict=False):
        if answer.blobs != pair:  # noise that replaces bytes of an output by as many others cannot be told
            assert sum(map(len, answer.blobs)) == sum(map(len, pair))
