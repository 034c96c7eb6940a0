# SPDX-License-Identifier: Apache-2.0
"""YAML 1.2 as it is read here: values by the core schema, places of keys and values, anchors and merges."""

import pytest

from firstkit.config.document import MapNode, format_path, parse_path, place_of, plain_value, resolve_plain
from firstkit.config.reading import MAX_DEPTH, read_document


def read(text: str) -> MapNode:
    root, findings = read_document(text, source="t")
    assert root is not None, findings
    assert not findings, findings
    return root


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("~", None), ("null", None), ("true", True), ("False", False), ("yes", "yes"), ("no", "no"),
        ("on", "on"), ("off", "off"), ("y", "y"), ("12", 12), ("-3", -3), ("+3", 3), ("0o17", 15), ("0x1F", 31),
        ("017", 17), ("1_000", "1_000"), ("12:00:00", "12:00:00"), ("1.5", 1.5), (".5", 0.5), ("1e3", 1000.0),
        ("1.", 1.0), (".", "."), ("e3", "e3"), ("2h", "2h"), ("2024-01-01", "2024-01-01"), ("=", "="),
        (".inf", float("inf")), ("-.Inf", float("-inf")), ("9" * 101, "9" * 101),
    ],
)  # fmt: skip
def test_an_unquoted_word_is_read_by_the_core_schema(text: str, value: object) -> None:
    read_as = resolve_plain(text)
    assert read_as == value
    assert type(read_as) is type(value)


def test_quoted_words_stay_words() -> None:
    assert plain_value(read("a: '8'\nb: \"true\"\nc: !!str 8\nd: |\n  8\n")) == {
        "a": "8",
        "b": "true",
        "c": "8",
        "d": "8\n",
    }


def test_every_key_and_value_knows_its_place() -> None:
    root = read("a:\n  b: [x, {c: 1}]\n  d:\n  'e f': |\n    text\n")
    places = {
        ("a",): (1, 1),
        ("a", "b"): (2, 6),
        ("a", "b", 0): (2, 7),
        ("a", "b", 1): (2, 10),
        ("a", "b", 1, "c"): (2, 14),
        ("a", "d"): (3, 3),
        ("a", "e f"): (4, 10),
    }
    assert {path: (place_of(root, path).line, place_of(root, path).column) for path in places} == places
    key = place_of(root, ("a", "b", 1, "c"), key=True)
    assert (key.line, key.column) == (2, 11)


def test_what_is_not_there_stands_where_its_holder_stands() -> None:
    root = read("a:\n  b: 1\n")
    assert place_of(root, ("a", "none", "deeper")).line == 1
    assert place_of(root, ("none",)).line == 1


def test_an_alias_stands_for_what_its_anchor_names() -> None:
    root = read("a: &x {k: 1}\nb: *x\nc: {<<: *x, k: 2, m: 3}\nd: {<<: [*x, {n: 4}]}\n")
    assert plain_value(root) == {
        "a": {"k": 1},
        "b": {"k": 1},
        "c": {"k": 2, "m": 3},
        "d": {"k": 1, "n": 4},
    }
    assert place_of(root, ("b", "k")).line == 1


def test_nesting_is_bounded_and_exhausts_no_stack() -> None:
    for text in ("a: " + "[" * 5000, "a: " + "{a: " * 5000, "".join(f"{' ' * i}a:\n" for i in range(1000))):
        root, findings = read_document(text, source="t")
        assert root is None
        assert f"at most {MAX_DEPTH} levels" in str(findings[0])


def test_an_empty_text_is_an_empty_mapping() -> None:
    for text in ("", "# nothing\n", "---\n", "~\n", "{}\n"):
        assert plain_value(read(text)) == {}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("a", "b"), "a.b"),
        (("models", "org/x.y", "aliases", 2), 'models."org/x.y".aliases[2]'),
        (("a_b-c9",), "a_b-c9"),
        ((), ""),
    ],
)
def test_a_path_is_read_as_it_was_written(path: tuple[str | int, ...], text: str) -> None:
    assert format_path(path) == text
    assert parse_path(text) == path


@pytest.mark.parametrize("text", ["a..b", "a.", ".a", '"a', "a]b", "[x]"])
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"path|dot"):
        parse_path(text)
