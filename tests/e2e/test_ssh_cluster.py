# SPDX-License-Identifier: Apache-2.0
"""A service whose cluster is behind a real sshd serves whatever becomes of the login node, and leaves nothing there."""

import getpass
import json
import sys
import time
from collections.abc import Generator

import pytest
from installation import Installation, free_port, installation
from paced import Stream, asks, config, local_cluster, paced

from firstkit.testing.sshd import Sshd, installed

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Generator[Sshd]:
    if not installed():
        pytest.skip("openssh-server is not installed; run `make debian` as root")
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, sshd: Sshd) -> Generator[Installation]:
    first = free_port()
    runner = {
        "kind": "ssh",
        "host": "127.0.0.1",
        "port": sshd.port,
        "user": getpass.getuser(),
        "key": str(sshd.folder / "user"),
        "known_hosts": str(sshd.folder / "known_hosts"),
        "ssh_config": "none",
        "python": sys.executable,
    }
    link = {"kind": "direct", "ports": f"{first}-{first + 3}", "address": "127.0.0.1"}
    here = local_cluster(link=link)
    here |= {"runner": runner, "run_dir": str(tmp_path_factory.mktemp("run") / "first")}
    here["scheduler"] = {"kind": "local", "python": sys.executable}
    text = config(deployments={"a": paced("a")}, clusters={"here": here})
    with installation(tmp_path_factory.mktemp("behind"), config=text) as it:
        it.wait_hot("a")
        yield it
    deadline = time.monotonic() + 30
    while len(sshd.processes()) > 1:
        assert time.monotonic() < deadline, "a connection was left behind"
        time.sleep(0.05)


def test_a_job_started_over_ssh_answers_and_streams(running: Installation) -> None:
    status, _, body = running.request("POST", "/v1/chat/completions", asks("tokens=2", model="a"))
    assert status == 200, body
    assert json.loads(body)["choices"][0]["message"]["content"] == "w0 w1 "
    Stream(running, asks("tokens=20 every=0.01", model="a", stream=True)).assert_whole(20)


def test_an_instance_serves_on_while_its_login_node_is_down(running: Installation, sshd: Sshd) -> None:
    stream = Stream(running, asks("tokens=60 every=0.05", model="a", stream=True))
    sshd.cut()
    sshd.freeze()
    try:
        stream.assert_whole(60)
        assert running.request("POST", "/v1/chat/completions", asks("tokens=1", model="a"))[0] == 200
        assert len(running.jobs()) == 1
    finally:
        sshd.thaw()
