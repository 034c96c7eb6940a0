# SPDX-License-Identifier: Apache-2.0
"""Processes that are kept running."""

from pathlib import Path

import anyio
import pytest

from firstkit.apps.children import Child, Part

pytestmark = pytest.mark.anyio


async def test_a_part_that_keeps_ending_is_told_of_and_tried_on(tmp_path: Path) -> None:
    said: list[str] = []
    again = anyio.Event()

    def say(text: str) -> None:
        said.append(text)
        if child.failed.is_set() and len(said) > 3:
            again.set()

    child = Child(Part(name="api", arguments=("--version",)), logs=tmp_path, say=say)
    await child.start()
    try:
        with anyio.fail_after(60):
            await child.failed.wait()
            await again.wait()
    finally:
        await child.stop(within_s=10.0)
    assert set(said) == {f"api ended with 0; starting it again (see {tmp_path / 'api.log'})"}
    assert child.pid is None
