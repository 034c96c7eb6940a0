# SPDX-License-Identifier: Apache-2.0
"""Identifiers, durations and sizes."""

import random
import re

import pytest

from firstkit.core import ids
from firstkit.core.units import format_bytes, format_duration, parse_duration_s, parse_size_bytes


def test_ids_look_as_they_should_and_hardly_ever_repeat() -> None:
    chance = random.Random(1)
    made = {ids.job_id(chance.randbytes(8)) for _ in range(10_000)}
    assert len(made) == 10_000
    assert all(re.fullmatch(r"j-[0-9a-hjkmnp-tv-z]{12}", one) for one in made)
    assert re.fullmatch(r"i-[0-9a-hjkmnp-tv-z]{12}", ids.instance_id(chance.randbytes(8)))
    assert len(ids.installation_id(chance.randbytes(5))) == 8


def test_an_id_uses_all_of_its_randomness() -> None:
    assert ids.encode(b"\xff" * 8, 12) == "z" * 12
    assert ids.encode(b"\x00" * 8, 12) == "0" * 12
    with pytest.raises(ValueError, match="randomness"):
        ids.encode(b"\x00" * 7, 12)


def test_a_tag_is_read_back_and_nothing_else_is_taken_for_one() -> None:
    name = ids.tag(installation="abcd1234", job="j-0123456789ab")
    assert ids.read_tag(name) == ("abcd1234", "j-0123456789ab")
    for other in ("", "first", name + "x", " " + name, name.upper(), "first-abcd1234-i-0123456789ab", name + "\n"):
        assert ids.read_tag(other) is None, other


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (90, 90.0), (0, 0.0), (1.5, 1.5), ("90", 90.0), ("90s", 90.0), ("250ms", 0.25), ("1h30m", 5400.0),
        ("1h 30min", 5400.0), ("2d", 172800.0), ("12:00:00", 43200.0), ("1-00:00:00", 86400.0), ("00:30", 1800.0),
        ("100:00:00", 360000.0), (" 15M ", 900.0), ("1.5h", 5400.0),
    ],
)  # fmt: skip
def test_durations_are_read_as_people_write_them(text: str | float, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "abc", "-5", -5, "5 parsecs", "12:60:00", "00:00:61", "1h30", "h", float("inf"), float("nan"), True, "1:2"],
)
def test_what_is_no_duration_is_refused_with_a_sentence(text: str | float) -> None:
    with pytest.raises(ValueError, match=r"duration|form HH:MM:SS"):
        parse_duration_s(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [(5, 5), ("64MB", 64_000_000), ("64MiB", 67_108_864), ("1.5G", 1_500_000_000), ("512k", 512_000), ("7 b", 7),
     ("2TiB", 2 * 1024**4), ("0", 0), ("64Mi", 67_108_864)],
)  # fmt: skip
def test_sizes_are_read_as_people_write_them(text: str | int, count: int) -> None:
    assert parse_size_bytes(text) == count


@pytest.mark.parametrize("text", ["", "MB", "-1", -1, "5 XB", "1,5G", True])
def test_what_is_no_size_is_refused_with_a_sentence(text: str | int) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size_bytes(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (0.84, "0.8 s"), (9.96, "10 s"), (45, "45 s"), (99.7, "100 s"), (180, "3 min"), (3599, "1 h"),
     (7500, "2 h 5 min"), (86_400, "1 d"), (273_600, "3 d 4 h"), (86_399, "1 d")],
)  # fmt: skip
def test_durations_are_written_as_people_say_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (812, "812 B"), (9_500, "9.5 kB"), (64_000_000, "64 MB"), (999_999, "1.0 MB"), (3 * 10**12, "3.0 TB")],
)  # fmt: skip
def test_sizes_are_written_in_decimal_units(count: int, text: str) -> None:
    assert format_bytes(count) == text
