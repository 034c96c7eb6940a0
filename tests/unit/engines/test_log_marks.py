# SPDX-License-Identifier: Apache-2.0
"""Progress and causes are read from what engines really logged (recorded with the version in the file's name)."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from firstkit.adapters.engines.vllm import ADAPTER as VLLM
from firstkit.core.catalog import Deployment, EngineSpec
from firstkit.launcher import documents
from firstkit.launcher.progress import ProgressReader, cause_of
from firstkit.ports.engine import LaunchSpec

TRANSCRIPTS = Path(__file__).parents[2] / "fixtures" / "engines" / "transcripts"
SPEC: LaunchSpec = VLLM.launch(Deployment(name="d", model="m", engine=EngineSpec(kind="vllm", model="/m")))


def transcript(name: str) -> Sequence[str]:
    return (TRANSCRIPTS / f"vllm-0.32.0-{name}.log").read_text().splitlines()


def test_vllm_tells_how_far_it_is_and_never_goes_back() -> None:
    reader = ProgressReader(
        [documents.ProgressMark(mark.match, mark.start, mark.end, mark.text) for mark in SPEC.progress]
    )
    seen = [(reader.now.fraction, reader.now.text) for line in transcript("starts") if reader.line(line)]
    fractions = [fraction or 0.0 for fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert [text for _, text in seen if text == "loading weights"]
    assert len(seen) >= 7


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no-memory", "OUT_OF_MEMORY"),
        ("corrupt-weights", "WEIGHTS_MISSING"),
        ("no-weights", "WEIGHTS_MISSING"),
        ("no-such-folder", "WEIGHTS_MISSING"),
        ("unknown-flag", "SETUP_FAILED"),
        ("too-long", "SETUP_FAILED"),
    ],
)
def test_vllm_tells_why_it_ended(name: str, reason: str) -> None:
    marks = [documents.CauseMark(mark.match, mark.reason.value) for mark in SPEC.causes]
    cause = cause_of(transcript(name), marks)
    assert cause is not None
    assert cause.reason == reason


def test_a_healthy_start_holds_no_cause() -> None:
    marks = [documents.CauseMark(mark.match, mark.reason.value) for mark in SPEC.causes]
    assert cause_of(transcript("starts"), marks) is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "OUT_OF_MEMORY"),
        (
            "ValueError: Free memory on device cuda:0 (3.1/79.1 GiB) on startup is less than desired GPU memory",
            "OUT_OF_MEMORY",
        ),
        ("ValueError: No available memory for the cache blocks.", "OUT_OF_MEMORY"),
        ("RuntimeError: No CUDA GPUs are available", "NODE_UNFIT"),
        ("bash: vllm: ModuleNotFoundError: No module named 'vllm'", "SETUP_FAILED"),
    ],
)
def test_what_was_not_recorded_here_is_known_by_its_words(line: str, reason: str) -> None:
    marks = [documents.CauseMark(mark.match, mark.reason.value) for mark in SPEC.causes]
    cause = cause_of([line], marks)
    assert cause is not None
    assert cause.reason == reason
