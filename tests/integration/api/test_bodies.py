# SPDX-License-Identifier: Apache-2.0
"""Bodies that are too long for the api."""

from collections.abc import AsyncIterator

import pytest

pytestmark = pytest.mark.anyio


async def pieces(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * 100_000


@pytest.mark.parametrize("operator", [True, False], ids=["operator", "nobody"])
@pytest.mark.parametrize("length", [True, False], ids=["length given", "chunked"])
async def test_no_route_takes_a_long_body_from_anybody(world, operator: bool, length: bool) -> None:
    answer = await world.client.post(
        "/api/v1/keys",
        content=b"x" * 1_100_000 if length else pieces(11),
        headers={"content-type": "application/json", **(world.operator if operator else {})},
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


async def test_an_endless_length_is_a_long_body(world) -> None:
    answer = await world.client.post("/api/v1/keys", content=b"{}", headers={"content-length": "9" * 5000})
    assert answer.status_code == 413
