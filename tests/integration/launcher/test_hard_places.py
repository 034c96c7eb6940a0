# SPDX-License-Identifier: Apache-2.0
"""Nodes that make it hard: a home that nobody can write, very long paths, a proxy that swallows all, a full disk."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from firstkit.adapters.schedulers.script import start_script
from firstkit.core.catalog import Resources
from firstkit.ports.scheduler import Submission

from .test_control import talking_to
from .test_life import ask

NOWHERE = "/proc/first"
"""A folder that cannot be made or written, not even by root."""
BLACK_HOLE = "http://127.0.0.1:9"
LONG = "/".join(["a-rather-long-name-of-a-scratch-folder"] * 4)
NEEDS = {"gpus": 0, "gpu_memory": 0.0, "shm_bytes": 0, "disk_bytes": 65536}


def test_a_home_that_cannot_be_written_is_no_hindrance(node: Any) -> None:
    """From the login shell of start.sh on: nothing of ours is kept in a home."""
    job = node.launch(node.engine("WellBehavedEngine", needs=NEEDS), run="first", env={"HOME": NOWHERE})
    job.until("READY")
    assert job.end() == 0
    run_dir = node.folder / "second"
    run_dir.mkdir(mode=0o700)
    for name in ("job.json", "control.key"):
        (run_dir / name).write_bytes((job.run_dir / name).read_bytes())
    submission = Submission(
        tag="first-abcdefgh-j-1", run_dir=str(run_dir), script=f"{run_dir}/start.sh", resources=Resources()
    )
    script = start_script(
        submission, setup="true\n", launcher=str(node.archive), python=node.python, login=True, directives=()
    )
    (run_dir / "start.sh").write_text(script)
    shell = subprocess.Popen(
        ["/bin/bash", "--login", "start.sh"], cwd=run_dir, env={"HOME": NOWHERE}, start_new_session=True
    )
    try:
        status = run_dir / "status.json"
        node.eventually(lambda: status.exists() and '"READY"' in status.read_text())
        shell.terminate()
        assert shell.wait(20) == 0
    finally:
        if shell.poll() is None:
            shell.kill()
            shell.wait()


def test_very_long_paths_of_scratch_and_run_directory_are_no_hindrance(node: Any) -> None:
    scratch = node.folder / LONG
    scratch.mkdir(parents=True)
    assert len(str(scratch)) > 150
    job = node.launch(node.engine("WellBehavedEngine", needs=NEEDS), run=f"{LONG}/run", env={"TMPDIR": str(scratch)})
    address = job.until("READY")["address"]
    assert ask(address, "/health") == 200
    assert job.end() == 0
    assert not Path(address["path"]).parent.exists()


def test_a_proxy_that_swallows_everything_is_not_asked(node: Any, control_server: Any) -> None:
    names = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    job = node.launch(
        node.engine("WellBehavedEngine"),
        control=talking_to(control_server),
        env=dict.fromkeys(names, BLACK_HOLE),
    )
    control_server.until("READY")
    assert ask(job.instance()["address"], "/health") == 200
    assert job.end() == 0
    assert control_server.last()["state"] == "ENDED"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Put a disk of 1 MB where the run directory is to be."""
    if os.getuid() != 0:
        pytest.skip("allowed: only root can put a small disk there")
    folder = tmp_path / "run"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"allowed: nothing can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(b"\0" * 4096)
        except OSError:
            pass


def test_an_engine_serves_on_when_the_disk_of_the_run_directory_is_full(
    node: Any, control_server: Any, small_disk: Path
) -> None:
    job = node.launch(node.engine("WellBehavedEngine"), control=talking_to(control_server, beat_s=0.2))
    address = control_server.until("READY")["instances"][0]["address"]
    fill(small_disk)
    told = "status.json cannot be written: No space left on device"
    node.eventually(lambda: control_server.last().get("detail") == told, "the full disk is told over HTTP")
    assert ask(address, "/health") == 200
    assert job.end() == 0
    assert control_server.last()["state"] == "ENDED"


def test_a_full_disk_at_the_start_is_told_in_one_sentence(node: Any, control_server: Any, small_disk: Path) -> None:
    """The documents have been put, and there is room for nothing else."""
    spec = node.engine("WellBehavedEngine", needs=NEEDS)
    job = node.launch(spec, control=talking_to(control_server), before=fill)
    assert job.wait() == 1
    last = control_server.last()
    assert (last["state"], last["reason"]) == ("ENDED", "SETUP_FAILED")
    assert "make room there" in last["detail"] or "No space left on device" in last["detail"]
