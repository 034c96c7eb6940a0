# SPDX-License-Identifier: Apache-2.0
"""A gateway that has been started before anything was applied."""

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from firstkit.adapters.store import migrate_store, open_store
from firstkit.core.settings import StoreSettings

STORE = StoreSettings(url="sqlite:///first.db")


@pytest.fixture
def port(tmp_path: Path) -> Generator[int]:
    """A gateway on a store that knows no revision; its port."""
    config, state = tmp_path / "first.yaml", tmp_path / "state"
    config.write_text("store: sqlite:///first.db\n")
    migrate_store(STORE, folder=state)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        files = ("--config", str(config), "--data", str(state), "--listen-fd", str(listener.fileno()))
        with subprocess.Popen(
            [sys.executable, "-m", "firstkit.apps.cli", "gateway", "--without-api", *files],
            pass_fds=(listener.fileno(),),
            stderr=subprocess.DEVNULL,
        ) as gateway:
            try:
                yield listener.getsockname()[1]
            finally:
                gateway.terminate()
                try:
                    gateway.wait(30)
                finally:
                    gateway.kill()


def readiness(port: int) -> tuple[int, dict[str, object]]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def test_it_is_not_ready_and_says_what_to_do_until_a_revision_is_there(port: int, tmp_path: Path) -> None:
    status, told = readiness(port)
    assert (status, told["ready"]) == (503, False)
    assert "first deploy apply" in str(told["detail"])
    store = open_store(STORE, folder=tmp_path / "state")
    store.add_revision(document="clusters: {}\nmodels: {}\ndeployments: {}\n", by="test")
    store.close()
    deadline = time.monotonic() + 60
    while readiness(port)[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "detail" not in readiness(port)[1]
