# SPDX-License-Identifier: Apache-2.0
"""Start gateways that do nothing but record and settle, kill each at a random moment, and compare.

A child tells by a pipe what it is about to append and what it has appended. At the end the store must have all of the
latter and nothing beyond the former.
"""

import json
import os
import random
import select
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from firstkit.adapters.store import migrate_store, open_store
from firstkit.core.request import AttemptRecord, Outcome, RequestClass, Usage
from firstkit.core.settings import StoreSettings
from firstkit.services import settlement
from firstkit.services.settlement import Settlement, Spool

SETTINGS = StoreSettings(url="sqlite:///first.db")
RECORD = AttemptRecord(
    request="",
    attempt=1,
    ended=True,
    at=1.0,
    subject="s",
    project="",
    client_request_id="",
    path="/",
    model="m",
    asked="m",
    deployment="d",
    cluster="c",
    instance="i",
    stream=False,
    request_class=RequestClass.INTERACTIVE,
    outcome=Outcome.COMPLETE,
    status=200,
    error_code="",
    decision="x" * 300,
    usage=Usage(),
    waited_s=0,
    first_byte_s=None,
    first_token_s=None,
    total_s=1,
    gap_max_s=None,
    gap_mean_s=None,
    chunks=1,
    request_bytes=1,
    response_bytes=1,
)


def journal(_event: str, **_facts: object) -> None:
    """Say nothing: what is torn or adopted is seen in the result."""


def gateway(folder: Path, number: int, pipe: int) -> NoReturn:
    """Append on this thread; sweep, rotate and adopt on another, without a pause, until killed."""
    settlement.ROTATE_BYTES = 8000
    settlement.BATCH = 5
    spool = Spool(folder / "spool", owner=f"gw-{number}")
    store = open_store(SETTINGS, folder=folder)
    moves = Settlement(spool, store, folder=folder / "spool", journal=journal)

    def settle() -> None:
        while True:
            moves.sweep()
            moves.adopt()

    os.write(pipe, b"ready\n")
    threading.Thread(target=settle, daemon=True).start()
    count = 0
    while True:
        name = f"r-{number}-{count}"
        os.write(pipe, f"will {name}\n".encode())
        spool.append(replace(RECORD, request=name))
        os.write(pipe, f"did {name}\n".encode())
        count += 1
        if count % 20 == 0:
            time.sleep(0.0005)


def run_one(folder: Path, number: int, after_s: float) -> list[str]:
    """Fork a gateway, kill it some time after it is ready, and return what it told."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            gateway(folder, number, writing)
        finally:
            os._exit(3)
    os.close(writing)
    told = b""
    kill_at = None
    while kill_at is None or time.monotonic() < kill_at:
        left_s = 10 if kill_at is None else max(0, kill_at - time.monotonic())
        ready, _, _ = select.select([reading], [], [], left_s)
        if ready:
            chunk = os.read(reading, 65536)
            if not chunk:
                break
            told += chunk
        if kill_at is None:
            kill_at = time.monotonic() + after_s
    os.kill(child, signal.SIGKILL)
    while chunk := os.read(reading, 65536):
        told += chunk
    os.close(reading)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        raise SystemExit(f"gateway {number} ended by itself: {status}")
    return told.decode().splitlines()


def main(folder: Path, rounds: int) -> None:
    """Run the rounds and print what came of them as JSON."""
    moments = random.Random(7)
    migrate_store(SETTINGS, folder=folder)
    (folder / "spool").mkdir(mode=0o700)
    will: set[str] = set()
    did: set[str] = set()
    for number in range(rounds):
        for line in run_one(folder, number, moments.uniform(0, 0.02)):
            word, _, name = line.partition(" ")
            (will if word == "will" else did if word == "did" else set()).add(name)
    store = open_store(SETTINGS, folder=folder)
    last = Spool(folder / "spool", owner="last")
    Settlement(last, store, folder=folder / "spool", journal=journal).adopt()
    last.close()
    settled = {name for name in will if store.attempts(name)}
    usage = store.usage_since(subject=None, since=0.0)
    store.close()
    result = {
        "killed": rounds,
        "appended": len(did),
        "settled": len(settled),
        "requests": sum(requests for _, requests, _, _ in usage),
        "lost": sorted(did - settled),
        "files_left": sorted(path.name for path in (folder / "spool").iterdir()),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
