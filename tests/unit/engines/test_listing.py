# SPDX-License-Identifier: Apache-2.0
"""An engine's own model listing tells a length in several ways, or nonsense."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstkit.adapters.engines.listing import models_info


@pytest.mark.parametrize(
    "entry",
    [
        {"id": "m", "max_model_len": 2048},
        {"id": "m", "meta": {"n_ctx": 2048, "n_ctx_train": 8192}},
        {"id": "m", "context_length": 2048},
        {"id": "m", "context_window": 2048},
    ],
)
def test_the_length_is_found_however_it_is_spelled(entry: dict[str, object]) -> None:
    body = json.dumps({"data": [{"id": "other", "max_model_len": 1}, entry]}).encode()
    assert models_info(body, "m") == {"max_model_len": 2048}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"[]",
        b'{"data": {}}',
        b'{"data": [1, null, {"id": "m"}]}',
        b'{"data": [{"id": "m", "max_model_len": "2048"}]}',
        b'{"data": [{"id": "m", "max_model_len": true}]}',
        b'{"data": [{"id": "m", "max_model_len": -1}]}',
        b'{"data": [{"id": "m", "meta": 3}]}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_nonsense_tells_nothing(body: bytes) -> None:
    assert models_info(body, "m") == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "data", "meta", "n_ctx"]), inner)
    ),
    max_leaves=8,
)


@given(JSON)
def test_whatever_an_engine_lists_is_read_without_error(listing: object) -> None:
    info = models_info(json.dumps(listing).encode(), "m")
    assert info == {} or info["max_model_len"] > 0
