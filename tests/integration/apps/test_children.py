# SPDX-License-Identifier: Apache-2.0
"""Processes that are kept running."""

import stat
import sys
from pathlib import Path

import anyio
import pytest

from firstkit.apps import children
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


async def test_the_log_of_a_part_that_runs_on_and_on_stays_bounded_and_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker = tmp_path / "talker"
    talker.write_text("#!/bin/sh\ni=0\nwhile :; do i=$((i + 1)); echo line $i; done\n")
    talker.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(talker))
    monkeypatch.setattr(children, "LOG_LIMIT", 20_000)
    monkeypatch.setattr(children, "LOG_LOOK_S", 0.01)
    child = Child(Part(name="api", arguments=()), logs=tmp_path, say=lambda _: None)
    await child.start()
    older = tmp_path / "api.log.1"
    try:
        seen: set[str] = set()
        with anyio.fail_after(60):
            while len(seen) < 3:
                await anyio.sleep(0.01)
                if older.exists():
                    seen.update(older.read_text().splitlines()[:1])
        pid = child.pid
    finally:
        await child.stop(within_s=30.0)
    assert pid is not None
    assert {path.name async for path in anyio.Path(tmp_path).iterdir()} == {"api.log", "api.log.1", "talker"}
    assert [stat.S_IMODE(path.stat().st_mode) for path in (child.log, older)] == [0o600, 0o600]
    last = child.log.read_text().splitlines()[-1:] or older.read_text().splitlines()[-1:]
    assert last[0].startswith("line ")
    assert b"\0" not in child.log.read_bytes()


def test_what_is_set_aside_is_whole_and_what_follows_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "LOG_LIMIT", 10)
    log = tmp_path / "gateway.log"
    with log.open("ab", buffering=0) as one, log.open("ab", buffering=0) as another:
        one.write(b"before one\n")
        another.write(b"before another\n")
        children.set_aside(log)
        another.write(b"after\n")
        children.set_aside(log)
    assert (tmp_path / "gateway.log.1").read_text() == "before one\nbefore another\n"
    assert log.read_text() == "after\n"
