# SPDX-License-Identifier: Apache-2.0
"""What every test lives under: nothing is left behind, unit tests touch no runtime, and CI skips nothing unseen."""

import asyncio
import contextlib
import functools
import gc
import inspect
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from firstkit.testing.slurm import RealSlurm, missing_programs

# how long an example takes says how busy the machine is
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

LEAK_GRACE_S = 20.0
"""How long a test's processes, sockets and tasks may take to go once the test is over."""

ALLOWED_SKIP = "allowed:"
"""A skip whose reason begins so is right in CI too (the thing cannot exist there); any other fails the run."""


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


# ---------------------------------------------------------------------------------------------------- a real Slurm


@contextlib.contextmanager
def slurm_in(folder: Path, **manners: Any) -> Iterator[RealSlurm]:
    """Run a real Slurm in a folder, or skip the test that asks for one."""
    if missing := missing_programs():
        pytest.skip(f"Slurm is not installed: no {', '.join(missing)} (Debian: apt-get install slurm-wlm)")
    cluster = RealSlurm(folder, **manners)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSlurm]:
    """A real Slurm for the whole run. Whoever uses it cancels what it submits and leaves the daemons alone."""
    with slurm_in(tmp_path_factory.mktemp("slurm"), name="c") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def fragile_slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSlurm]:
    """A real Slurm of the module's own, whose daemons may be killed; it forgets jobs soon after they have ended."""
    with slurm_in(
        tmp_path_factory.mktemp("fragile"), name="d", settings={"MinJobAge": "2", "SlurmdTimeout": "6"}
    ) as cluster:
        yield cluster


# ------------------------------------------------------------------------------------------------ sealed unit tests


@pytest.fixture
def sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make sockets and event loops impossible: what decides never acts."""

    def refuse(what: str) -> Callable[..., None]:
        def refused(*_args: object, **_kwargs: object) -> None:
            pytest.fail(f"a unit test must not make {what}; put the test into tests/contract or tests/integration")

        return refused

    monkeypatch.setattr(socket, "socket", refuse("a socket"))
    monkeypatch.setattr(socket, "socketpair", refuse("a socket"))
    monkeypatch.setattr(socket, "create_connection", refuse("a socket"))
    monkeypatch.setattr(asyncio, "new_event_loop", refuse("an event loop"))
    monkeypatch.setattr(asyncio.events, "new_event_loop", refuse("an event loop"))
    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "__init__", refuse("an event loop"))


# ------------------------------------------------------------------------------------------------------------- leaks


def child_processes() -> dict[int, str]:
    """Map the pid of each living child of this process to its command line; a zombie is listed too."""
    found: dict[int, str] = {}
    for listing in Path("/proc/self/task").glob("*/children"):
        try:
            pids = [int(pid) for pid in listing.read_text().split()]
        except OSError:  # the thread has just ended
            continue
        for pid in pids:
            try:
                argv = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue
            found[pid] = argv or "(zombie: nobody waited for it)"
    return found


def open_descriptors() -> dict[str, str]:
    """Map each open socket, pipe and file, named so that a reused number is a new one, to what it is."""
    found: dict[str, str] = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = link.readlink().as_posix()
        except OSError:  # the listing's own descriptor
            continue
        if target.startswith(("/dev/", "/proc/", "anon_inode:", "/memfd:")):
            continue
        found[f"{link.name} {target}"] = target
    return found


def running_threads() -> dict[int, str]:
    return {thread.ident or 0: thread.name for thread in threading.enumerate() if not thread.daemon}


WATCHED: dict[str, Callable[[], dict[Any, str]]] = {
    "child process": child_processes,
    "open descriptor": open_descriptors,
    "thread": running_threads,
}


def left_behind(before: dict[str, dict[Any, str]]) -> list[str]:
    """Say what is there now and was not before."""
    return [
        f"{kind} {key}: {text}"
        for kind, look in WATCHED.items()
        for key, text in look().items()
        if key not in before[kind]
    ]


@pytest.fixture
def leaks() -> Iterator[None]:
    """Fail a test that leaves a process, a socket, pipe or file, or a thread behind.

    What fixtures of a wider scope hold was there before and is not counted. Tasks are watched in `pytest_pyfunc_call`.
    """
    before = {kind: look() for kind, look in WATCHED.items()}
    yield
    deadline = time.monotonic() + LEAK_GRACE_S
    while leftover := left_behind(before):
        if time.monotonic() > deadline:
            pytest.fail("left behind: " + "; ".join(sorted(leftover)))
        gc.collect()
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def _watched(request: pytest.FixtureRequest) -> None:
    """Seal unit tests, watch all others. Asked for by name so that a folder need not do anything for it."""
    parts = request.path.relative_to(request.config.rootpath).parts
    request.getfixturevalue("sealed" if parts[:2] == ("tests", "unit") else "leaks")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """Fail an asynchronous test that leaves tasks running: its loop would cancel them unseen."""
    function = pyfuncitem.obj
    if inspect.iscoroutinefunction(function) and not hasattr(function, "hypothesis"):
        pyfuncitem.obj = _leaving_no_task(function)
        try:
            return (yield)
        finally:
            pyfuncitem.obj = function
    return (yield)


def _leaving_no_task(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def watched(*args: Any, **kwargs: Any) -> Any:
        before = asyncio.all_tasks()
        result = await function(*args, **kwargs)
        if leftover := asyncio.all_tasks() - before:
            _, leftover = await asyncio.wait(leftover, timeout=LEAK_GRACE_S)
        if leftover:
            pytest.fail("tasks left behind: " + "; ".join(sorted(repr(task.get_coro()) for task in leftover)))
        return result

    return watched


# ----------------------------------------------------------------------------------------------------- skips in CI

_skipped: list[tuple[str, str]] = []


def _note_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = re.sub(r"^Skipped: ", "", text)
        if not reason.startswith(ALLOWED_SKIP):
            _skipped.append((report.nodeid, reason))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note_skip(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note_skip(report)


def _skips_fail() -> bool:
    return bool(_skipped) and os.environ.get("CI") == "true"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skips_fail() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _skips_fail():
        terminalreporter.section("skipped where nothing may be skipped (CI=true)", red=True)
        for nodeid, reason in _skipped:
            terminalreporter.line(f"{nodeid}: {reason}")
