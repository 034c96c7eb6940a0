# SPDX-License-Identifier: Apache-2.0
"""The guards of tests/conftest.py, tried on tests that break each of them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"

UNIT = """
import asyncio, socket

def test_makes_a_socket():
    socket.socket()

def test_makes_a_loop():
    asyncio.run(asyncio.sleep(0))

def test_is_pure():
    pass
"""

INTEGRATION = """
import asyncio, socket, subprocess, sys, threading
import pytest
kept = []

def test_leaves_a_socket():
    kept.append(socket.socket())

def test_leaves_a_file(tmp_path):
    kept.append((tmp_path / "a").open("w"))

def test_leaves_a_process():
    kept.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))

@pytest.mark.anyio
async def test_leaves_a_task():
    kept.append(asyncio.create_task(asyncio.Event().wait()))

@pytest.mark.anyio
async def test_ends_its_task():
    task = asyncio.create_task(asyncio.Event().wait())
    task.cancel()

@pytest.fixture(scope="module")
def server():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening

def test_uses_a_socket_that_outlives_it(server):
    with socket.create_connection(server.getsockname()):
        pass
"""

SKIPS = """
import pytest

def test_is_skipped():
    pytest.skip("no such tool")

def test_is_skipped_rightly():
    pytest.skip("allowed: cannot exist here")

@pytest.mark.xfail(reason="known")
def test_fails_as_expected():
    assert False

def test_passes():
    pass
"""


def run(folder: Path, kind: str, source: str, *, ci: bool = False) -> tuple[int, dict[str, str], str]:
    """Run pytest on one file and return its exit code, each test's outcomes and the output."""
    tests = folder / "tests" / kind
    tests.mkdir(parents=True)
    text = CONFTEST.read_text().replace("LEAK_GRACE_S = 20.0", "LEAK_GRACE_S = 0.2")
    (folder / "tests" / "conftest.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\n")
    (tests / "test_it.py").write_text(source)
    env = {key: value for key, value in os.environ.items() if key != "CI" and not key.startswith("PYTEST_")}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:randomly",
            "-p",
            "no:cacheprovider",
            "-v",
            "-ra",
            "--import-mode=importlib",
        ],
        cwd=folder,
        env=env | ({"CI": "true"} if ci else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    outcomes: dict[str, str] = {}
    for test, outcome in re.findall(r"::(\w+) (PASSED|FAILED|ERROR|SKIPPED|XFAIL)", done.stdout):
        outcomes[test] = "FAILED" if outcome == "ERROR" else outcome
    return done.returncode, outcomes, done.stdout


def test_a_unit_test_can_make_neither_a_socket_nor_an_event_loop(tmp_path: Path) -> None:
    _, outcomes, _ = run(tmp_path, "unit", UNIT)
    assert outcomes == {"test_makes_a_socket": "FAILED", "test_makes_a_loop": "FAILED", "test_is_pure": "PASSED"}


def test_a_test_that_leaves_something_behind_fails(tmp_path: Path) -> None:
    _, outcomes, output = run(tmp_path, "integration", INTEGRATION)
    assert outcomes == {
        "test_leaves_a_socket": "FAILED",
        "test_leaves_a_file": "FAILED",
        "test_leaves_a_process": "FAILED",
        "test_leaves_a_task": "FAILED",
        "test_ends_its_task": "PASSED",
        "test_uses_a_socket_that_outlives_it": "PASSED",
    }, output
    assert "child process" in output
    assert "tasks left behind" in output


@pytest.mark.parametrize(("ci", "code"), [(False, 0), (True, 1)])
def test_a_skip_without_leave_fails_the_run_in_ci_alone(tmp_path: Path, ci: bool, code: int) -> None:
    returncode, outcomes, output = run(tmp_path, "integration", SKIPS, ci=ci)
    assert returncode == code, output
    assert outcomes["test_passes"] == "PASSED"
    assert ("test_is_skipped: no such tool" in output) == ci
    assert "test_is_skipped_rightly: allowed" not in output
