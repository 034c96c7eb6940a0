# SPDX-License-Identifier: Apache-2.0
"""Whatever is mistyped is found, and whatever is given ends in a configuration or in findings."""

import string
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from firstkit.adapters.engines.registry import load_engines
from firstkit.config.catalog_sections import Engine
from firstkit.config.disk import Disk
from firstkit.config.document import MapNode, plain_value, resolve_plain
from firstkit.config.document import Path as KeyPath
from firstkit.config.keys import key_at, section_at
from firstkit.config.loading import catalog_from_document, load, load_settings
from firstkit.config.reading import read_document
from firstkit.core.errors import ConfigError
from firstkit.core.nearest import distance, nearest

TEXT = (Path(__file__).parents[2] / "unit" / "config" / "valid" / "everything.yaml").read_text()
ENGINES = load_engines()
LETTERS = string.ascii_lowercase + "_"

pytestmark = pytest.mark.timeout(300)  # each example reads a long file with a parser in Python, three times


class AnyDisk(Disk):
    """A disk on which every path is a file that only its owner can read."""

    def exists(self, path: Path) -> bool:
        return True

    def is_folder(self, path: Path) -> bool:
        return False

    def readable(self, path: Path) -> bool:
        return True

    def open_to_others(self, path: Path) -> bool:
        return False

    def why_not_writable(self, folder: Path) -> str:
        return ""

    def why_not_ours(self, folder: Path) -> str:
        return ""

    def why_no_certificate(self, certificate: Path, key: Path) -> str:
        return ""


def keys_of(node: MapNode, path: KeyPath = ()) -> list[tuple[KeyPath, int, int]]:
    """List every key that the models know, with its place; names that people choose are left out."""
    found: list[tuple[KeyPath, int, int]] = []
    for name, value in node.entries.items():
        here = (*path, name)
        section = section_at(path)
        if section is not None and name in {*section.model_fields, "url", "key_file"}:
            found.append((here, node.keys[name].line, node.keys[name].column))
        if isinstance(value, MapNode):
            found += keys_of(value, here)
    return found


ROOT, _ = read_document(TEXT, source="t")
assert ROOT is not None
KEYS = keys_of(ROOT)


def known_at(path: KeyPath) -> set[str]:
    section = section_at(path)
    assert section is not None
    own = set(section.model_fields)
    return own | set().union(*(engine.traits.option_names for engine in ENGINES.values())) if section is Engine else own


@st.composite
def typos(draw: st.DrawFn, word: str) -> str:
    """One letter too many, too few, another one, or two in the wrong order."""
    index = draw(st.integers(0, len(word) - 1))
    letter = draw(st.sampled_from(LETTERS))
    swapped = word[:index] + word[index + 1 : index + 2] + word[index] + word[index + 2 :]
    before, after = word[:index], word[index + 1 :]
    return draw(st.sampled_from([before + letter + word[index:], before + after, before + letter + after, swapped]))


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_single_typo_in_a_key_is_found_at_its_place_with_the_right_word(data: st.DataObject) -> None:
    path, line, column = data.draw(st.sampled_from(KEYS))
    word = str(path[-1])
    typo = data.draw(typos(word))
    assume(typo and typo.strip("_") and typo not in known_at(path[:-1]))
    lines = TEXT.splitlines(keepends=True)
    text = lines[line - 1]
    assert text[column - 1 :].startswith(word)
    lines[line - 1] = text[: column - 1] + typo + text[column - 1 + len(word) :]
    with pytest.raises(ConfigError) as raised:
        load("".join(lines), data_dir=Path("/state"), engines=ENGINES, disk=AnyDisk())
    found = [item for item in raised.value.findings if (item.line, item.column) == (line, column)]
    assert found, raised.value.message
    assert any(f"`{word}`" in item.hint for item in found), raised.value.message


def test_the_typos_are_tried_on_every_key() -> None:
    assert len(KEYS) > 90
    assert all(key_at(path) or path[-1] in {"url", "key_file"} for path, _, _ in KEYS)


def only_findings(text: str) -> None:
    """Whatever the text, there is a result or a ConfigError with findings."""
    reads: list[Callable[[], object]] = [
        lambda: load(text, data_dir=Path("/state"), engines=ENGINES, disk=AnyDisk()),
        lambda: load_settings(text, data_dir=Path("/state"), disk=AnyDisk()),
        lambda: catalog_from_document(text),
    ]
    errors: list[ConfigError] = []
    for read in reads:
        try:
            read()
        except ConfigError as error:
            errors.append(error)
    for error in errors:
        assert error.findings
        assert list(error.findings) == sorted(error.findings, key=lambda item: (item.line, item.column, item.path))
        assert all(finding.problem for finding in error.findings)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=200) | st.text("ab:-[]{}&*!|>'\"%@`#,?\n\t <~0.", max_size=60))
def test_any_text_ends_in_a_configuration_or_in_findings(text: str) -> None:
    only_findings(text)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_configuration_with_a_piece_cut_out_or_put_in_ends_in_findings_at_worst(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(TEXT)))
    end = data.draw(st.integers(start, min(len(TEXT), start + 60)))
    piece = data.draw(
        st.sampled_from(["", "\n", ": ", "- ", "[", "}", "x", "\t", "null", '"', "&a ", "*a", "|\n", "8"])
    )
    only_findings(TEXT[:start] + piece + TEXT[end:])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=80, deadline=None)
@given(data=st.data(), value=VALUES)
def test_any_value_at_any_key_ends_in_a_configuration_or_in_findings(data: st.DataObject, value: object) -> None:
    import json

    path, _, _ = data.draw(st.sampled_from(KEYS))
    assert ROOT is not None
    document = plain_value(ROOT)
    holder: object = document
    for step in path[:-1]:
        assert isinstance(holder, dict)
        holder = holder[step]
    assert isinstance(holder, dict)
    holder[path[-1]] = value
    only_findings(json.dumps(document))


@settings(max_examples=200, deadline=None)
@given(
    st.text("0123456789abcdefxonul.+-_eE~trsyTRUNF", min_size=1, max_size=8)
    | st.integers().map(str)
    | st.floats().map(repr)
)
def test_an_unquoted_word_is_read_as_ruamel_reads_yaml_1_2(text: str) -> None:
    """Where the two differ, ruamel reads more than the core schema has: underscores in numbers, dates, `0b`."""
    assume("_" not in text and not text.startswith(("0b", "+0b", "-0b", "+0o", "-0o", "+0x", "-0x")))
    assume(text not in {"-", ".", "-.", "+."})
    try:
        theirs = YAML(typ="safe", pure=True).load(f"k: {text}")["k"]
    except Exception:  # noqa: BLE001 whatever ruamel cannot read is nothing to compare with
        assume(False)
    assume(isinstance(theirs, (str, int, float, bool, type(None))))
    ours = resolve_plain(text)
    assert ours == theirs or (ours != ours and theirs != theirs)  # noqa: PLR0124 not a number is not itself


WORDS = st.text("abc", max_size=6)


@given(WORDS, WORDS)
def test_the_distance_of_two_words_is_symmetric_and_bounded(first: str, second: str) -> None:
    far = distance(first, second, limit=10)
    assert far == distance(second, first, limit=10)
    assert abs(len(first) - len(second)) <= far <= max(len(first), len(second))
    assert (far == 0) is (first == second)
    for limit in range(4):
        assert distance(first, second, limit=limit) == min(far, limit + 1)


@given(st.lists(st.text("abcd_-", min_size=1, max_size=8), max_size=6), st.text("abcdAB_-", max_size=8))
def test_only_names_that_are_there_are_near(names: list[str], word: str) -> None:
    assert set(nearest(word, names)) <= set(names)
