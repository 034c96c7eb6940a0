# SPDX-License-Identifier: Apache-2.0
"""A gateway that is to take over from another one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from firstkit.adapters.store import migrate_store, open_store
from firstkit.core.settings import StoreSettings


def test_one_that_cannot_read_the_catalog_does_not_take_over(tmp_path: Path) -> None:
    config, state = tmp_path / "first.yaml", tmp_path / "state"
    config.write_text("store: sqlite:///first.db\n")
    settings = StoreSettings(url="sqlite:///first.db")
    migrate_store(settings, folder=state)
    store = open_store(settings, folder=state)
    store.add_revision(document="deployments: {of: {another: version}}", by="test")
    store.close()
    reader, writer = os.pipe()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        files = ("--config", str(config), "--data", str(state))
        inherited = ("--listen-fd", str(listener.fileno()), "--ready-fd", str(writer))
        ended = subprocess.run(
            [sys.executable, "-m", "firstkit.apps.cli", "gateway", "--without-api", *files, *inherited],
            pass_fds=(listener.fileno(), writer),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        assert told.read() == b""
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("first: This gateway cannot read the catalog")
    assert not (state / "run" / "public.json").exists()
