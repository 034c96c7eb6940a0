# SPDX-License-Identifier: Apache-2.0
"""A real sshd, and the runners that the tests are about."""

import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from firstkit.adapters.runners.local import LocalRunner
from firstkit.adapters.runners.ssh import SshRunner
from firstkit.adapters.runners.ssh_master import SshMaster
from firstkit.adapters.runners.ssh_place import SshPlace, socket_folder
from firstkit.ports.runner import Runner
from firstkit.testing.sshd import Sshd, installed

MakeRunner = Callable[..., SshRunner]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd | None]:
    """One server for a module; a test that breaks it starts it again. None where there is no sshd."""
    if not installed():
        yield None
        return
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def sshd(server: Sshd | None) -> Sshd:
    if server is None:
        pytest.skip("openssh-server is not installed; run `make debian` as root")
    return server


@pytest.fixture
async def ssh_runner(sshd: Sshd, tmp_path: Path) -> AsyncIterator[MakeRunner]:
    """Make runners whose connections are closed after the test."""
    masters: list[SshMaster] = []

    def make(place: SshPlace | None = None, *, keeper: bool = True, idle_s: int = 600, **others: Any) -> SshRunner:
        place = place or sshd.place(**{"python": sys.executable, **others})
        folder = socket_folder(tmp_path / "state")
        masters.append(SshMaster(place, folder=folder, environment=os.environ, keeper=keeper, idle_s=idle_s))
        return SshRunner(masters[-1])

    yield make
    for master in masters:
        await master.close()
        with contextlib.suppress(OSError):  # another one's files are there yet
            master.folder.rmdir()


@pytest.fixture(params=["local", "ssh"])
async def runner(request: pytest.FixtureRequest, server: Sshd | None) -> AsyncIterator[Runner]:
    """Each runner in turn."""
    if request.param == "local":
        yield LocalRunner(os.environ)
        return
    sshd: Sshd = request.getfixturevalue("sshd")
    folder = socket_folder(request.getfixturevalue("tmp_path_factory").mktemp("state"))
    master = SshMaster(sshd.place(python=sys.executable), folder=folder, environment=os.environ, keeper=True)
    yield SshRunner(master)
    await master.close()
    folder.rmdir()
