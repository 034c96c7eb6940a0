# SPDX-License-Identifier: Apache-2.0
"""What a real launcher finds out about weights and node before it starts an engine."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from firstkit.launcher.weights import fault_of

HOST = socket.gethostname()
NEEDS = {"gpus": 0, "gpu_memory": 0.9, "shm_bytes": 0, "disk_bytes": 0}


@pytest.fixture
def tool(tmp_path: Path) -> Any:
    """Put a stand-in for a vendor's tool on the job's PATH; gives the environment of the job."""

    def make(name: str, script: str) -> dict[str, str]:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o700)
        return {"PATH": f"{folder}:{os.environ['PATH']}"}

    return make


def test_weights_that_are_not_whole_are_named_and_nothing_starts(node: Any, tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"\x20\0\0\0\0\0\0\0{")
    job = node.launch(node.engine("WellBehavedEngine", weights=[str(tmp_path)]))
    assert job.wait() == 1
    assert job.exit()["reason"] == job.exit("i-a")["reason"] == "WEIGHTS_MISSING"
    assert job.exit()["detail"] == fault_of(str(tmp_path))
    assert not (job.run_dir / "i-a" / "engine.log").exists()


def test_a_look_at_the_weights_that_hangs_is_given_up_and_the_engine_starts(node: Any, tmp_path: Path) -> None:
    """A pipe that nobody writes to stands for a file server that does not answer."""
    os.mkfifo(tmp_path / "model.gguf")
    job = node.launch(node.engine("WellBehavedEngine", weights=[str(tmp_path / "model.gguf")]))
    job.until("READY")
    assert "started unseen: the weights could not be looked at within 5 s" in job.log()
    assert job.end() == 0


def test_a_job_that_is_cancelled_while_the_look_hangs_ends_at_once(node: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.gguf")
    job = node.launch(node.engine("WellBehavedEngine", weights=[str(tmp_path / "model.gguf")] * 2))
    node.eventually((job.run_dir / "i-a" / "cache").exists)
    assert job.end() == 0
    assert job.exit()["reason"] == "CANCELLED"
    assert "started unseen: the job is to end" in job.log()


def test_fewer_gpus_than_were_asked_for_make_a_node_unfit(node: Any) -> None:
    spec = node.engine("WellBehavedEngine", needs=NEEDS | {"gpus": 4})
    job = node.launch(spec, env={"CUDA_VISIBLE_DEVICES": "GPU-1,MIG-2"})
    assert job.wait() == 1
    assert job.exit()["reason"] == "NODE_UNFIT"
    assert job.exit()["detail"] == (
        f"{HOST}: 4 GPUs were asked for and 2 can be used (CUDA_VISIBLE_DEVICES=GPU-1,MIG-2)"
    )


def test_as_many_gpus_as_were_asked_for_are_enough_where_no_tool_tells_more(node: Any) -> None:
    job = node.launch(
        node.engine("WellBehavedEngine", needs=NEEDS | {"gpus": 2}), env={"ROCR_VISIBLE_DEVICES": "GPU-a,GPU-b"}
    )
    job.until("READY")
    assert job.end() == 0


def test_a_gpu_that_is_not_free_makes_a_node_unfit(node: Any, tool: Any) -> None:
    env = tool("nvidia-smi", "echo '0, GPU-1, 1000, 10'; echo '1, GPU-2, 1000, 999'")
    spec = node.engine("WellBehavedEngine", needs=NEEDS | {"gpus": 1})
    job = node.launch(spec, env=env | {"CUDA_VISIBLE_DEVICES": "GPU-1"})
    assert job.wait() == 1
    assert job.exit()["reason"] == "NODE_UNFIT"
    assert job.exit()["detail"].startswith(f"{HOST}: GPU 0 has 0.0 of 1.0 GiB free, and 90% are needed")


def test_a_gpu_that_becomes_free_in_a_moment_is_waited_for(node: Any, tool: Any, tmp_path: Path) -> None:
    once = tmp_path / "once"
    env = tool("nvidia-smi", f'[ -e {once} ] && free=1000 || free=1; touch {once}; echo "0, GPU-1, 1000, $free"')
    job = node.launch(
        node.engine("WellBehavedEngine", needs=NEEDS | {"gpus": 1}), env=env | {"CUDA_VISIBLE_DEVICES": "0"}
    )
    job.until("READY")
    assert job.end() == 0


def test_a_broken_driver_is_told_in_its_own_words(node: Any, tool: Any) -> None:
    env = tool("nvidia-smi", "echo 'Unable to determine the device handle: GPU is lost'; exit 15")
    spec = node.engine("WellBehavedEngine", needs=NEEDS | {"gpus": 1})
    job = node.launch(spec, env=env | {"CUDA_VISIBLE_DEVICES": "0"})
    assert job.wait() == 1
    assert job.exit()["reason"] == "NODE_UNFIT"
    assert job.exit()["detail"] == (
        f"{HOST}: nvidia-smi fails with code 15: Unable to determine the device handle: GPU is lost"
    )


@pytest.mark.parametrize("lack", ["shm_bytes", "disk_bytes"])
def test_too_little_room_is_told_with_the_place_and_what_is_needed(node: Any, lack: str) -> None:
    job = node.launch(node.engine("WellBehavedEngine", needs=NEEDS | {lack: 2**50}))
    assert job.wait() == 1
    assert "MiB free, and 1073741824 MiB are needed" in job.exit()["detail"]
    assert job.exit()["detail"].startswith(f"{HOST}: /dev/shm has " if lack == "shm_bytes" else f"{HOST}: /")
    assert job.exit()["reason"] == "NODE_UNFIT"
