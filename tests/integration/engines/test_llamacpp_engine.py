# SPDX-License-Identifier: Apache-2.0
"""llama.cpp under the launcher: embeddings, bad weights, the end of a server that hangs."""

import dataclasses
import math
import os
import re
import signal
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from firstkit.adapters import demo
from firstkit.adapters.engines.llamacpp import ADAPTER
from firstkit.core.catalog import Deployment, EngineSpec, Scaling
from firstkit.testing.engine_run import INSTANCE, EngineRun

pytestmark = pytest.mark.llamacpp


def deployment(model: Path, **options: Any) -> Deployment:
    engine = EngineSpec(kind="llamacpp", model=str(model), args={"threads": 1}, options={"context": 512} | options)
    return Deployment(name="it", model="it", engine=engine, scaling=Scaling(in_flight=2))


def server_pid(run: EngineRun) -> int:
    """Find the server, the child of the program that was started."""
    found = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if str(run.folder / INSTANCE / "serve_llamacpp.py").encode() in read(path)
    ]
    parents = {pid: int(read(Path(f"/proc/{pid}/stat")).rpartition(b")")[2].split()[1]) for pid in found}
    return next(pid for pid in found if parents[pid] in found)


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


def test_texts_that_mean_the_same_lie_closer_together(folder: Path, kept: Path) -> None:
    texts = ["A man is eating food.", "A man is eating a piece of bread.", "The stock market fell sharply."]
    with EngineRun(ADAPTER, deployment(demo.embedding_gguf(kept), embeddings=True), folder) as run:
        run.wait_for("READY")
        with run.client() as client:
            answer = client.post("/v1/embeddings", json={"model": "it", "input": texts}).json()
            paths = {
                path: client.post(path, json={"model": "it", "content": "a"}).status_code for path in ("/tokenize",)
            }
    one, two, three = (entry["embedding"] for entry in answer["data"])
    assert len(one) == 384
    assert cosine(one, two) > 0.6
    assert cosine(one, three) < 0.3
    assert paths == {"/tokenize": 200}


def test_weights_that_are_none_are_told_as_the_reason(folder: Path, tmp_path: Path) -> None:
    weights = tmp_path / "broken.gguf"
    weights.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))  # whole as a file, but no model
    with EngineRun(ADAPTER, deployment(weights), folder) as run:
        ended = run.wait_for("ENDED")
    assert (ended["reason"], ended["exit"]["code"]) == ("WEIGHTS_MISSING", 1)


def test_weights_that_do_not_exist_are_named(folder: Path, tmp_path: Path) -> None:
    with EngineRun(ADAPTER, deployment(tmp_path / "none.gguf"), folder) as run:
        ended = run.wait_for("ENDED")
    assert ended["reason"] == "WEIGHTS_MISSING"
    assert "none.gguf" in ended["detail"]


def test_a_python_without_xllamacpp_is_told_as_the_reason(folder: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to("/usr/bin/python3")
    if not Path("/usr/bin/python3").exists():
        pytest.skip("allowed: this machine has no Python of its distribution")
    with EngineRun(ADAPTER, deployment(demo.chat_gguf(), venv=str(venv)), folder) as run:
        ended = run.wait_for("ENDED")
    assert ended["reason"] == "SETUP_FAILED"
    assert any("xllamacpp cannot be imported" in line for line in ended["exit"]["log_tail"])


def test_a_server_that_is_killed_takes_its_sieve_along_and_the_signal_is_told(folder: Path) -> None:
    with EngineRun(ADAPTER, deployment(demo.chat_gguf()), folder) as run:
        run.wait_for("READY")
        limits = read(Path(f"/proc/{server_pid(run)}/limits")).decode()
        assert re.search(r"Max core file size\s+0 ", limits), "a core file would hold prompts"
        os.kill(server_pid(run), signal.SIGKILL)
        ended = run.wait_for("ENDED")
    assert (ended["reason"], ended["exit"]["signal"]) == ("ENGINE_EXIT", signal.SIGKILL)


def test_a_server_that_hangs_is_ended_by_force_and_nothing_is_left(folder: Path) -> None:
    found = deployment(demo.chat_gguf(), context=8192)
    run = EngineRun(ADAPTER, found, folder)
    run.spec = dataclasses.replace(run.spec, stop_grace_s=0.5)
    with run:
        run.wait_for("READY")
        body = {"messages": [{"role": "user", "content": "x"}], "stream": True, "ignore_eos": True}
        with run.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert next(answer.iter_raw())
            pid = server_pid(run)
            os.kill(pid, signal.SIGSTOP)
            run.stop()
            report = run.wait(deadline_s=55)
        gone_by = time.monotonic() + 5
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < gone_by, read(Path(f"/proc/{pid}/status"))
            time.sleep(0.02)
    assert report["signal"] == signal.SIGKILL
