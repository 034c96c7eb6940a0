# SPDX-License-Identifier: Apache-2.0
"""The api as a process: its socket, its signals, and a store that is not ready yet."""

import hashlib
import json
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

from firstkit.adapters.clients.target import listens
from firstkit.adapters.store import migrate_store, open_store
from firstkit.core.job.record import Job, JobState
from firstkit.core.reasons import Reason
from firstkit.core.settings import StoreSettings

SETTINGS = StoreSettings(url="sqlite:///first.db")


class Process:
    """One api on a state folder."""

    def __init__(self, data: Path) -> None:
        self.data = data
        (data / "first.yaml").write_text("store: sqlite:///first.db\n")
        self.socket = data / "run" / "api.sock"
        self.log = data / "api.log"
        with self.log.open("ab") as sink:
            command = [sys.executable, "-m", "firstkit.apps.cli", "api", "--config", str(data / "first.yaml")]
            self.popen = subprocess.Popen([*command, "--data", str(data)], stdout=sink, stderr=sink)

    def get(self, path: str) -> httpx.Response | None:
        """Ask; None while nobody listens."""
        if not listens(self.socket):
            return None
        try:
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(self.socket)), timeout=30) as client:
                return client.get(f"http://api{path}", headers={"x-first-admin": "1"})
        except httpx.TransportError:
            return None

    def until(self, condition: Callable[[], Any]) -> Any:
        end = time.monotonic() + 30
        while not (value := condition()):
            assert time.monotonic() < end, self.log.read_text()
            assert self.popen.poll() is None, self.log.read_text()
            time.sleep(0.02)
        return value

    def end(self, number: int = signal.SIGTERM) -> int:
        self.popen.send_signal(number)
        return self.popen.wait(30)


@pytest.fixture
def started(tmp_path: Path) -> Generator[Callable[[], Process]]:
    processes: list[Process] = []

    def start() -> Process:
        processes.append(Process(tmp_path))
        return processes[-1]

    yield start
    for process in processes:
        if process.popen.poll() is None:
            process.end(signal.SIGKILL)


def test_it_listens_for_its_own_user_alone_and_leaves_nothing(started: Callable[[], Process], tmp_path: Path) -> None:
    migrate_store(SETTINGS, folder=tmp_path)
    process = started()
    answer = process.until(lambda: process.get("/healthz"))
    assert answer.json() == {"status": "ok", "store": "ok"}
    assert stat.S_IMODE(process.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(process.socket.parent.stat().st_mode) == 0o700
    process.popen.send_signal(signal.SIGHUP)
    assert process.get("/api/v1/whoami") is not None
    assert process.end() == 0
    assert [path.name for path in process.socket.parent.iterdir() if path.is_socket()] == []


def test_it_waits_for_the_controller_to_make_the_store(started: Callable[[], Process], tmp_path: Path) -> None:
    process = started()
    process.until(lambda: "store_awaited" in process.log.read_text())
    assert process.get("/healthz") is None
    migrate_store(SETTINGS, folder=tmp_path)
    assert process.until(lambda: process.get("/healthz")).status_code == 200
    assert process.end(signal.SIGINT) == 0


def test_it_can_be_stopped_while_it_waits(started: Callable[[], Process]) -> None:
    process = started()
    process.until(lambda: "store_awaited" in process.log.read_text())
    assert process.end() == 0


def test_a_killed_one_is_followed_by_another_on_the_same_socket(started: Callable[[], Process], tmp_path: Path) -> None:
    migrate_store(SETTINGS, folder=tmp_path)
    first = started()
    first.until(lambda: first.get("/healthz"))
    first.end(signal.SIGKILL)
    assert first.socket.exists()
    second = started()
    assert second.until(lambda: second.get("/healthz")).status_code == 200


def test_one_that_has_been_followed_does_not_take_its_followers_socket_away(
    started: Callable[[], Process], tmp_path: Path
) -> None:
    migrate_store(SETTINGS, folder=tmp_path)
    first = started()
    first.until(lambda: first.get("/healthz"))
    inode = first.socket.stat().st_ino
    second = started()
    second.until(lambda: second.socket.exists() and second.socket.stat().st_ino != inode)
    assert first.end() == 0
    assert second.until(lambda: second.get("/healthz")).status_code == 200


def test_held_launchers_do_not_keep_it_from_ending(started: Callable[[], Process], tmp_path: Path) -> None:
    migrate_store(SETTINGS, folder=tmp_path)
    store = open_store(SETTINGS, folder=tmp_path)
    term = store.take_term(holder="test", ttl_s=60.0)
    assert term is not None
    job = Job(
        id="j-000000000001",
        cluster="c",
        deployment="d",
        revision=1,
        spec="s",
        run_dir="/r",
        state=JobState.RUNNING,
        reason=Reason.DEMAND,
        state_at=0.0,
        created_at=0.0,
        token_digest=hashlib.sha256(b"tok").hexdigest(),
    )
    store.save(term, jobs=[job])
    process = started()
    process.until(lambda: process.get("/healthz"))
    body = json.dumps({"schema": 1, "job": job.id, "seq": 1, "uptime_s": 1.0, "state": "RUNNING"})
    answers: list[int] = []

    def hold() -> None:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(process.socket)), timeout=30) as client:
            headers = {"authorization": "Bearer tok", "prefer": "wait=25"}
            answer = client.put(f"http://api/control/v1/jobs/{job.id}/status", content=body, headers=headers)
            answers.append(answer.status_code)

    thread = threading.Thread(target=hold)
    thread.start()
    health = process.until(
        lambda: (found := process.get("/api/v1/health")) and found.json()["launchers_held"] and found
    )
    assert health.json()["launchers_held"] == 1
    assert process.end() == 0
    thread.join()
    assert answers == [204]
    store.close()


def test_a_path_that_no_socket_fits_into_is_said_in_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    migrate_store(SETTINGS, folder=folder)
    process = Process(folder)
    assert process.popen.wait(30) == 1
    (line,) = process.log.read_text().strip().splitlines()
    assert line.startswith("first: ")
    assert "shorter path" in line
