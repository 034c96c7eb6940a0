# SPDX-License-Identifier: Apache-2.0
"""How many tokens a request asks for at most is read to foresee how long it takes; nothing is refused for it."""

import pytest

from firstkit.dataplane.peek import Peeker

PEEKER = Peeker(reserved=("priority",), choices_limit=8)


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ("", None),
        (', "max_tokens": 12', 12),
        (', "max_completion_tokens": 12, "max_tokens": 99', 12),
        (', "max_output_tokens":7', 7),
        (', "max_tokens": null', None),
        (', "max_tokens": "many"', None),
        (', "max_tokens": -1', None),
        (', "max_tokens": 1e3', None),
        (', "max_tokens": {"a": [1]}', None),
        (', "max_tokens": 99999999999999999999', None),
    ],
)
def test_the_most_tokens_are_read_where_they_are_a_number(fields: str, most: int | None) -> None:
    read = PEEKER.read(b'{"model": "m"' + fields.encode() + b"}")
    assert (read.model, read.max_tokens) == ("m", most)
