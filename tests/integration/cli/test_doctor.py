# SPDX-License-Identifier: Apache-2.0
"""`first doctor` walks a cluster of a real Slurm, names what fails and the remedy, and leaves nothing behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from firstkit.adapters.links.authority import Authority
from firstkit.apps.cli.trial_link import ask
from firstkit.core.catalog import Cluster, LinkSpec, RunnerSpec, SchedulerSpec
from firstkit.core.control import ReportedAddress
from firstkit.testing.slurm import RealSlurm

ENGINE = {"kind": "command", "argv": ["sleep", "{socket}"]}
ASKED = {"memory": "500MB", "walltime": "30m"}
Found = dict[str, tuple[str, str]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Site:
    """A cluster of the real Slurm in a file of its own, and the doctor on it."""

    def __init__(self, folder: Path, slurm: RealSlurm) -> None:
        self.folder = folder
        self.slurm = slurm
        self.run_dir = folder / "run"
        self.process: subprocess.Popen[str] | None = None

    def write(self, deployments: dict[str, Any], **more: Any) -> None:
        first = free_port()
        cluster = {
            "scheduler": {"kind": "slurm", "partition": "gpu", "conf": str(self.slurm.conf), "python": sys.executable},
            "runner": {"kind": "local"},
            "link": {"kind": "direct", "ports": f"{first}-{first + 20}", "address": "127.0.0.1"},
            "run_dir": str(self.run_dir),
        }
        named = {name: {"model": "m", "cluster": "here"} | one for name, one in deployments.items()}
        text = {"clusters": {"here": cluster | more}, "models": {"m": {}}, "deployments": named}
        (self.folder / "first.yaml").write_text(json.dumps(text))

    def command(self, *options: str) -> list[str]:
        where = ["--config", str(self.folder / "first.yaml"), "--data", str(self.folder / "state"), "--json"]
        return [sys.executable, "-m", "firstkit.apps.cli", "doctor", "here", *where, *options]

    def look(self, *options: str, code: int = 0) -> Found:
        """Run the doctor to its end; what it found, by the step's name."""
        done = subprocess.run(self.command(*options), capture_output=True, text=True, timeout=150, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        steps = json.loads(done.stdout)
        assert all(step["took_s"] >= 0 for step in steps)
        return {step["check"].removeprefix("here: "): (step["state"], step["detail"]) for step in steps}

    def live(self) -> set[str]:
        """List our waiting and running jobs by their numbers and folders."""
        rows = self.slurm.run("squeue", "-h", "-t", "PENDING,RUNNING", "-o", "%i %Z").stdout.splitlines()
        return {row.split()[0] for row in rows if str(self.run_dir) in row}

    def left(self) -> list[str]:
        """List what is left in the run directory beside the launcher, which the next job uses."""
        return [path.name for path in self.run_dir.iterdir() if not path.name.startswith("launcher-")]

    def until(self, holds: Callable[[], Any]) -> Any:
        end = time.monotonic() + 60
        while not (value := holds()):
            assert time.monotonic() < end
            time.sleep(0.05)
        return value


@pytest.fixture
def site(slurm: RealSlurm, tmp_path: Path) -> Iterator[Site]:
    it = Site(tmp_path, slurm)
    yield it
    if numbers := it.live():
        slurm.run("scancel", *numbers)


pytestmark = [pytest.mark.slurm, pytest.mark.timeout(180)]


def test_a_cluster_in_order_is_walked_to_an_answer_through_its_door_and_nothing_stays(site: Site) -> None:
    absent = {"kind": "command", "argv": ["nosuchprogram", "{socket}"]}
    site.write(
        {"good": {"engine": ENGINE, "resources": ASKED | {"gpus": 2}}, "odd": {"engine": absent, "resources": ASKED}}
    )
    found = site.look()
    assert {state for state, _ in found.values()} <= {"ok", "skip", "warn"}
    assert found["commands"][1].startswith("slurm: slurm-wlm ")
    assert found["good as a job"][0] == "ok"
    assert found["link"][0] == "ok", "an answer came over TLS"
    assert found["run_dir on the node"][0] == found["launcher"][0] == found["sockets"][0] == "ok"
    assert found["gpus"][0] == "ok"
    assert "CUDA_VISIBLE_DEVICES=" in found["gpus"][1]
    assert found["good"] == ("ok", "its program and files are on the node")
    assert found["odd"][0] == "warn"
    assert "nosuchprogram" in found["odd"][1]
    assert "--deployment odd" in found["odd"][1]
    assert found["test job"][1].endswith("was cancelled and is gone")
    assert (site.live(), site.left()) == (set(), [])
    assert not (site.folder / "state").exists(), "no state folder is made by looking"


def test_a_partition_that_slurm_does_not_know_is_named_before_anything_is_submitted(site: Site) -> None:
    site.write({"odd": {"engine": ENGINE, "resources": ASKED | {"partition": "nosuch"}}})
    found = site.look("--no-job", code=1)
    state, words = found["odd as a job"]
    assert state == "fail"
    assert "Invalid partition name specified" in words
    assert found["test job"] == ("skip", "not asked for")
    assert [name for name, (state, _) in found.items() if state == "fail"] == ["odd as a job"]


def test_a_setup_line_that_fails_on_the_node_is_shown(site: Site) -> None:
    site.write({"odd": {"engine": ENGINE | {"setup": "echo loading\nmodule-nobody-has load x"}, "resources": ASKED}})
    state, words = site.look(code=1)["launcher"]
    assert state == "fail"
    assert "module-nobody-has load x" in words
    assert (site.live(), site.left()) == (set(), [])


def test_a_node_without_the_gpus_that_the_engine_needs_is_unfit(site: Site) -> None:
    site.write({"odd": {"engine": ENGINE, "resources": ASKED | {"gpus": 1, "gpu_request": "none"}}})
    state, words = site.look(code=1)["launcher"]
    assert state == "fail"
    assert words.startswith("NODE_UNFIT: ")
    assert (site.live(), site.left()) == (set(), [])


def test_a_job_that_does_not_start_in_time_is_cancelled_with_slurms_reason(site: Site) -> None:
    site.write({"later": {"engine": ENGINE, "resources": ASKED | {"extra": ["--begin=now+1hour"]}}})
    state, words = site.look("--wait", "1s")["job wait"]
    assert state == "warn"
    assert "BeginTime" in words
    assert (site.live(), site.left()) == (set(), [])


def test_ctrl_c_cancels_the_job_that_waits(site: Site) -> None:
    site.write({"later": {"engine": ENGINE, "resources": ASKED | {"extra": ["--begin=now+1hour"]}}})
    with subprocess.Popen(site.command(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            site.until(site.live)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=100)
        finally:
            process.kill()
    assert process.returncode == 1
    assert (site.live(), site.left()) == (set(), [])


# ----------------------------------------------------------------------------------------------------------- the link


def direct(ports: tuple[int, int]) -> Cluster:
    return Cluster(
        name="here",
        scheduler=SchedulerSpec(kind="slurm"),
        runner=RunnerSpec(kind="local"),
        link=LinkSpec(kind="direct", ports=ports),
        run_dir="/run",
    )


def test_where_nothing_answers_the_firewall_rule_to_ask_for_is_written_out(tmp_path: Path) -> None:
    port = free_port()
    address = ReportedAddress(kind="tls", host="127.0.0.1", port=port)
    context = Authority(tmp_path).gateway_context()
    asked = ask(address, cluster=direct((42000, 42099)), job="j-1", context=context)
    assert asked.report is None
    assert "TCP from 127.0.0.1 (gateway)" in asked.fault
    assert "127.0.0.1), destination ports 42000-42099" in asked.fault


def test_somebody_else_at_the_port_is_not_taken_for_the_door(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = ReportedAddress(kind="tls", host="127.0.0.1", port=listening.getsockname()[1])
        context = Authority(tmp_path).gateway_context()
        child = os.fork()
        if child == 0:
            connection, _ = listening.accept()
            connection.sendall(b"SSH-2.0-OpenSSH_9.2p1\r\n")
            connection.close()
            os._exit(0)
        try:
            asked = ask(address, cluster=direct((1, 2)), job="j-1", context=context)
        finally:
            os.waitpid(child, 0)
    assert asked.report is None
    assert "not as the job's door" in asked.fault


def test_a_node_whose_name_nobody_knows_is_an_address_to_be_set(tmp_path: Path) -> None:
    address = ReportedAddress(kind="tls", host="node.invalid", port=1)
    asked = ask(address, cluster=direct((1, 2)), job="j-1", context=Authority(tmp_path).gateway_context())
    assert "link.address" in asked.fault
