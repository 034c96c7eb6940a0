# SPDX-License-Identifier: Apache-2.0
"""A corpus of seeded mistakes: each is found at its place, with words that help, and nothing else is.

Each file in `mistakes` is a configuration with one kind of mistake. The line that is wrong ends in
`# <- COLUMN PATH: words; words`, several such parted by ` & `; where no comment can stand there, the file begins with
`# expect LINE:COLUMN PATH: words`. The findings must be exactly these, each with all of its words.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from firstkit.config.disk import Disk
from firstkit.config.loading import load
from firstkit.core.errors import ConfigError
from firstkit.ports.engine import Engine

CORPUS = sorted((Path(__file__).parent / "mistakes").glob("*.yaml"))


@dataclass(frozen=True, kw_only=True)
class Expected:
    line: int
    column: int
    path: str
    words: tuple[str, ...]


def read_expected(text: str) -> list[Expected]:
    found: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.match(r"# expect (\d+):(.*)", line):
            found.append((int(match[1]), match[2]))
        if " # <- " in line:
            found += [(number, mark) for mark in line.rpartition(" # <- ")[2].split(" & ")]
    expected: list[Expected] = []
    for number, mark in found:
        match = re.fullmatch(r"(\d+) (.*?): (.*)", mark)
        assert match, mark
        words = tuple(word.strip() for word in match[3].split("; "))
        expected.append(Expected(line=number, column=int(match[1]), path=match[2], words=words))
    return expected


def test_the_corpus_is_large() -> None:
    assert len(CORPUS) >= 100


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.stem)
def test_a_seeded_mistake_is_found_at_its_place_with_words_that_help(
    file: Path, engines: Mapping[str, Engine], disk: Disk
) -> None:
    text = file.read_text()
    expected = sorted(read_expected(text), key=lambda item: (item.line, item.column, item.path))
    assert expected
    with pytest.raises(ConfigError) as raised:
        load(text, data_dir=Path("/state"), engines=engines, name=file.name, disk=disk)
    findings = raised.value.findings
    shown = "\n".join(map(str, findings))
    assert [(item.line, item.column, item.path) for item in findings] == [
        (item.line, item.column, item.path) for item in expected
    ], shown
    for finding, item in zip(findings, expected, strict=True):
        assert str(finding).startswith(f"{file.name}:{item.line}:{item.column}: ")
        for word in item.words:
            assert word in finding.sentence, shown
    assert raised.value.message == shown


def test_no_mistake_repeats_a_secret(engines: Mapping[str, Engine], disk: Disk) -> None:
    for file in CORPUS:
        with pytest.raises(ConfigError) as raised:
            load(file.read_text(), data_dir=Path("/state"), engines=engines, disk=disk)
        assert "hunter2" not in raised.value.message
        assert "hf_abc" not in raised.value.message
