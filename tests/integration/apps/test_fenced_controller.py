# SPDX-License-Identifier: Apache-2.0
"""A controller that another one has taken over from."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path


def test_it_ends_with_one_sentence(tmp_path: Path) -> None:
    config = tmp_path / "first.yaml"
    config.write_text("store: sqlite:///first.db\nclusters: {}\nmodels: {}\ndeployments: {}\n")
    command = ("controller", "--config", str(config), "--data", str(tmp_path / "state"))
    with subprocess.Popen(
        [sys.executable, "-m", "firstkit.apps.cli", *command], stderr=subprocess.PIPE, text=True
    ) as controller:
        try:
            assert controller.stderr is not None
            assert any("controller ready" in line for line in controller.stderr)
            with closing(sqlite3.connect(tmp_path / "state" / "first.db", isolation_level=None)) as store:
                store.execute("UPDATE term SET epoch = epoch + 1, holder = 'another', expires_at = expires_at + 3600")
            told = controller.stderr.read().splitlines()
            assert controller.wait(30) == 1
        finally:
            controller.kill()
    assert told[-1] == "first: Another controller has taken over; this one stops."
    assert "Traceback" not in "".join(told)
