# SPDX-License-Identifier: Apache-2.0
"""The small batch system as a program: submit, list, cancel, and what becomes of its processes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from firstkit.adapters.schedulers import local_jobs

PROGRAM = str(files("firstkit.adapters.schedulers").joinpath("local_jobs.py"))
PATIENCE_S = 30.0


def eventually(holds: Callable[[], object], what: str) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.02)


class Batch:
    """One folder of jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {"PATH": os.environ["PATH"], "HOME": str(folder)}

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-I", "-S", PROGRAM, *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def script(self, text: str, name: str = "a") -> str:
        path = self.folder / name / "start.sh"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return str(path)

    def submit(self, text: str, *, walltime_s: float = 0, kill_wait_s: float = 5, name: str = "a") -> str:
        script = self.script(text, name)
        done = self.call("submit", str(self.folder), f"first-x-{name}", str(walltime_s), script, str(kill_wait_s))
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def cancel(self, *numbers: str) -> None:
        done = self.call("cancel", str(self.folder), *numbers)
        assert done.returncode == 0, done.stderr

    def list(self) -> dict[str, dict[str, Any]]:
        done = self.call("list", str(self.folder))
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert lines[-1] == {"end": True}
        return {line["id"]: line for line in lines[:-1]}

    def until(self, number: str, state: str) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def there() -> bool:
            found.update(self.list()[number])
            return found["state"] == state

        eventually(there, f"job {number} {state}")
        return found

    def record(self, number: str) -> dict[str, Any]:
        return json.loads((self.folder / ".jobs" / f"{number}.json").read_text())

    def rewrite(self, number: str, **changes: object) -> None:
        path = self.folder / ".jobs" / f"{number}.json"
        path.write_text(json.dumps(self.record(number) | changes))

    def wait_for(self, name: str) -> str:
        """Wait until a job has written a file beside its script; return the content."""
        path = self.folder / name
        eventually(lambda: path.exists() and path.read_text().endswith("\n"), name)
        return path.read_text().strip()

    def clear(self) -> None:
        """End every process that a job or its supervisor still has."""
        for path in (self.folder / ".jobs").glob("*.json"):
            job = json.loads(path.read_text())
            for who in ("supervisor", "pid"):
                if job.get(who) and job["boot"] == local_jobs.boot_id() and local_jobs.alive(job, who):
                    os.kill(job[who], 9)
            if job.get("session"):
                local_jobs.end_session(job["session"])


@pytest.fixture
def batch(tmp_path: Path) -> Iterator[Batch]:
    one = Batch(tmp_path)
    yield one
    one.clear()
