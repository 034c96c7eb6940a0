# SPDX-License-Identifier: Apache-2.0
"""Engines in a real container, run by Charliecloud: bytes, signals, exit codes, and what they see of the node.

The other runtimes are not in Debian or do not run in a container themselves; of those the command lines are tested.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.launcher.test_life import ask

pytestmark = pytest.mark.skipif(
    shutil.which("ch-run") is None,
    reason="needs Charliecloud: run `make debian` as root on Debian (package charliecloud)",
)
HERE = Path(__file__).parent


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Make an image with nothing in it but the places of a system; programs are bound from the host."""
    if subprocess.run(["unshare", "--user", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("allowed: this machine has no user namespaces, without which no container runs")
    made = tmp_path / "image"
    for name in ("usr", "etc", "dev", "proc", "sys", "tmp", "root", "ch"):
        (made / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (made / name).symlink_to(f"usr/{name}")
    for name in ("passwd", "group", "hosts", "resolv.conf"):
        (made / "etc" / name).touch()
    (made / "etc" / "inside").write_text("yes")
    (made / "ch" / "environment").write_text(f"PATH={Path(sys.executable).resolve().parent}:/usr/bin:/bin\nOF=image\n")
    return made


@pytest.fixture
def contained(node: Any, image: Path) -> Callable[..., dict[str, Any]]:
    """Describe an instance whose engine runs in the image, with Python and the doubles bound from the host."""
    binds = ["/usr", sys.base_prefix, str(HERE)]

    def make(kind: str, **more: Any) -> dict[str, Any]:
        container = {"runtime": "charliecloud", "image": str(image), "binds": binds, "gpus": False}
        return node.engine(kind, container=container | more.pop("container", {}), **more)

    return make


def test_an_engine_in_a_container_serves_and_ends_by_its_signal(node: Any, contained: Any) -> None:
    job = node.launch(contained("WellBehavedEngine"))
    ready = job.until("READY")
    assert ask(ready["address"], "/health") == 200
    assert job.end() == 0
    assert job.exit()["code"] == 0
    assert job.exit()["log_tail"][-1] == "asked to end"


def test_an_engine_in_a_container_is_reached_where_paths_are_very_long(node: Any, contained: Any) -> None:
    job = node.launch(contained("WellBehavedEngine"), run="/".join(["a-rather-long-name"] * 8))
    assert ask(job.until("READY")["address"], "/health") == 200
    assert job.end() == 0


def test_its_exit_code_and_its_last_words_are_told(node: Any, contained: Any) -> None:
    job = node.launch(contained("CrashingEngine"))
    assert job.wait() == 1
    assert (job.exit()["reason"], job.exit()["code"]) == ("OUT_OF_MEMORY", 1)


def test_it_sees_the_image_and_what_every_engine_gets_and_no_program_path_of_the_host(
    node: Any, contained: Any, image: Path
) -> None:
    job = node.launch(
        contained("IndiscreetEngine", env={"OWN": "x"}),
        env={"CUDA_VISIBLE_DEVICES": "GPU-1", "LD_LIBRARY_PATH": "/canary", "HTTPS_PROXY": "http://canary"},
    )
    job.wait()
    told, _, working, _ = (job.run_dir / "i-a" / "engine.log").read_text().splitlines()
    environment = json.loads(told)
    assert (environment["OWN"], environment["OF"], environment["CUDA_VISIBLE_DEVICES"]) == ("x", "image", "GPU-1")
    assert environment["HOME"] == str(job.run_dir / "i-a" / "home")
    assert environment["PATH"].startswith(str(Path(sys.executable).resolve().parent))
    assert "canary" not in told
    assert working == f"working in {job.run_dir / 'i-a' / 'work'} which holds []"


def test_it_sees_its_own_folder_of_the_job_and_nothing_else_of_it(node: Any, contained: Any) -> None:
    look = "import os; print(sorted(os.listdir('{dir}/..')), os.path.exists('/etc/inside'))"
    job = node.launch(contained("WellBehavedEngine", argv=["{python}", "-c", look]))
    job.wait()
    assert (job.run_dir / "i-a" / "engine.log").read_text() == "['i-a'] True\n"


def test_the_images_digest_is_told_and_another_content_is_another_digest(
    node: Any, contained: Any, image: Path
) -> None:
    told = []
    for run in ("one", "two"):
        job = node.launch(contained("WellBehavedEngine"), run=run)
        job.until("READY")
        told.append(node.eventually(lambda job=job: job.instance()["image"]))
        job.end()
        assert job.exit("i-a")["image"] == told[-1]
        (image / "etc" / "inside").write_text("other")
    assert told[0].startswith("listing-sha256:")
    assert told[0] != told[1]


def test_what_an_engine_leaves_behind_in_a_container_is_killed(node: Any, contained: Any) -> None:
    job = node.launch(contained("HidingEngine"))
    job.until("READY")
    assert node.bearers("i-a")
    job.end()
    assert not node.bearers("FIRST_INSTANCE=i-a")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"image": "/nowhere/image"}, "the image /nowhere/image: No such file or directory"),
        ({"runtime": "apptainer"}, "apptainer is not on this node's PATH; load it in the cluster's setup lines"),
        ({"binds": ["/nowhere/x"]}, "what the container is to see is not there: /nowhere/x: No such file"),
    ],
)
def test_what_is_missing_for_a_container_is_told_before_it_starts(
    node: Any, contained: Any, wrong: dict[str, Any], words: str
) -> None:
    if shutil.which("apptainer") and "runtime" in wrong:
        pytest.skip("allowed: this machine has apptainer")
    job = node.launch(contained("WellBehavedEngine", container=wrong))
    assert job.wait() == 1
    assert job.exit()["reason"] == "SETUP_FAILED"
    assert job.exit()["detail"].startswith(words)


def test_a_runtimes_own_complaint_is_a_failure_of_the_setup(node: Any, contained: Any, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    job = node.launch(contained("WellBehavedEngine", container={"image": str(empty)}))
    assert job.wait() == 1
    assert job.exit()["reason"] == "SETUP_FAILED"
    assert any(line.startswith("ch-run[") for line in job.exit()["log_tail"])
