# SPDX-License-Identifier: Apache-2.0
"""An installation that nobody uses does nothing: no new snapshot, no growing file, no write beyond its heartbeats."""

import json
import sqlite3
import time
from collections.abc import Generator

import pytest
from installation import Installation, installation
from paced import beside, config, paced

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

WATCHED_S = 10.0
A_FEW_DIGITS = 16
"""A status that is written anew says how long the job has run: its numbers get longer."""
HEARTBEATS = {"gateways", "term", "snapshot"}
"""Tables whose rows say again and again that somebody lives: a gateway's demand, the controller's term and snapshot."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Generator[Installation]:
    with beside("beside") as double:
        deployments = {"kept": paced("kept"), "cold": paced("cold", min=0), "beside": double.deployment()}
        text = config(deployments=deployments, controller={"tick": "1s", "observe": "5s"})
        with installation(tmp_path_factory.mktemp("idle"), config=text) as it:
            it.wait_hot("kept", "beside")
            yield it


def snapshot_version(running: Installation) -> int:
    return json.loads(running.admin("GET", "/api/v1/health")[2])["snapshot"]


def sizes(running: Installation) -> dict[str, int]:
    """Measure every file but the store's: its log of writes is a ring."""
    return {
        str(path): path.stat().st_size
        for path in running.data.rglob("*")
        if path.is_file() and not path.name.startswith("first.db")
    }


def rows(running: Installation) -> dict[str, list[tuple[object, ...]]]:
    """Read the whole store, by table."""
    connection = sqlite3.connect(f"file:{running.data}/first.db?mode=ro", uri=True)
    try:
        tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        return {name: sorted(connection.execute(f"select * from {name}"), key=repr) for name in tables}
    finally:
        connection.close()


def test_nothing_changes_while_nobody_asks(running: Installation) -> None:
    running.until(lambda: stands_still(running), within_s=30)
    watcher = sqlite3.connect(f"file:{running.data}/first.db?mode=ro", uri=True)
    try:
        before_version, before_sizes, before_rows = snapshot_version(running), sizes(running), rows(running)
        changes, seen = 0, watcher.execute("pragma data_version").fetchone()[0]
        end = time.monotonic() + WATCHED_S
        while time.monotonic() < end:
            now = watcher.execute("pragma data_version").fetchone()[0]
            changes, seen = changes + (now != seen), now
            time.sleep(0.01)
        after_version, after_sizes, after_rows = snapshot_version(running), sizes(running), rows(running)
    finally:
        watcher.close()
    print(f"\n{changes} transactions in {WATCHED_S:.0f} s")
    assert after_version == before_version
    grown = {path: size for path, size in after_sizes.items() if size > before_sizes.get(path, 0) + A_FEW_DIGITS}
    assert not grown
    changed = {name for name in after_rows if after_rows[name] != before_rows.get(name)}
    assert changed <= HEARTBEATS, changed
    assert changes <= 2 * WATCHED_S, "more than heartbeats"


def stands_still(running: Installation) -> bool:
    """Tell whether the snapshot has been the same for two seconds: what starting leads to is over."""
    version = snapshot_version(running)
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        if snapshot_version(running) != version:
            return False
        time.sleep(0.2)
    return True
