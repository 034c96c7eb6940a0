# SPDX-License-Identifier: Apache-2.0
"""Start gateways, two at once, that do nothing but record and settle, kill each at a random moment, and compare.

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
from firstkit.services.settlement import Settlement
from firstkit.services.spool import Spool

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


def start(folder: Path, number: int) -> tuple[int, int]:
    """Fork a gateway; return its pid and the pipe by which it tells."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            gateway(folder, number, writing)
        finally:
            os._exit(3)
    os.close(writing)
    return child, reading


def run_two(folder: Path, numbers: tuple[int, int], after_s: tuple[float, float]) -> list[str]:
    """Run two gateways at once, kill each some time after it is ready, and return what they told."""
    children = [start(folder, number) for number in numbers]
    told = {reading: b"" for _, reading in children}
    kill_at: dict[int, float] = {}
    alive = {reading: child for child, reading in children}
    while told.keys() - kill_at.keys() or alive:
        for reading in [pipe for pipe in alive if time.monotonic() >= kill_at.get(pipe, float("inf"))]:
            os.kill(alive.pop(reading), signal.SIGKILL)
        ready, _, _ = select.select(list(alive), [], [], 0.0005)
        for reading in ready:
            told[reading] += (chunk := os.read(reading, 65536))
            if not chunk:
                raise SystemExit("a gateway ended by itself")
            kill_at.setdefault(reading, time.monotonic() + after_s[reading == children[1][1]])
    for child, reading in children:
        while chunk := os.read(reading, 65536):
            told[reading] += chunk
        os.close(reading)
        os.waitpid(child, 0)
    return b"".join(told.values()).decode().splitlines()


def main(folder: Path, rounds: int) -> None:
    """Run the rounds and print what came of them as JSON."""
    moments = random.Random(7)
    migrate_store(SETTINGS, folder=folder)
    (folder / "spool").mkdir(mode=0o700)
    will: set[str] = set()
    did: set[str] = set()
    for number in range(0, rounds, 2):
        after_s = (moments.uniform(0, 0.02), moments.uniform(0, 0.02))
        for line in run_two(folder, (number, number + 1), after_s):
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
