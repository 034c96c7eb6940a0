# SPDX-License-Identifier: Apache-2.0
"""A real engine with a real model in a real container, from the deployment's words to an answer."""

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from firstkit.adapters import demo
from firstkit.adapters.engines.llamacpp import ADAPTER
from firstkit.core.catalog import ContainerSpec, Deployment, EngineSpec, Resources, Scaling
from firstkit.testing.engine_run import EngineRun

pytestmark = [
    pytest.mark.llamacpp,
    pytest.mark.skipif(
        shutil.which("ch-run") is None,
        reason="needs Charliecloud: run `make debian` as root on Debian (package charliecloud)",
    ),
]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Make an image that has nothing but the places of a system; what it lacks is bound."""
    if subprocess.run(["unshare", "--user", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("allowed: this machine has no user namespaces, without which no container runs")
    made = tmp_path / "image"
    for name in ("usr", "etc", "dev", "proc", "sys", "tmp", "root"):
        (made / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (made / name).symlink_to(f"usr/{name}")
    for name in ("passwd", "group", "hosts", "resolv.conf"):
        (made / "etc" / name).touch()
    return made


def process_of(word: str) -> int:
    """Find a process by a word of its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if word.encode() in path.read_bytes():
                return int(path.parent.name)
    raise LookupError(word)


def test_llamacpp_answers_out_of_a_container_and_ends_when_asked(folder: Path, image: Path) -> None:
    container = ContainerSpec(
        runtime="charliecloud",
        image=str(image),
        binds=("/usr:/usr:ro", f"{sys.base_prefix}:{sys.base_prefix}:ro", f"{sys.prefix}:{sys.prefix}:ro"),
    )
    engine = EngineSpec(
        kind="llamacpp",
        model=str(demo.chat_gguf()),
        args={"threads": 1},
        options={"context": 512, "venv": sys.prefix},
        container=container,
    )
    deployment = Deployment(name="it", model="it", engine=engine, resources=Resources(), scaling=Scaling(in_flight=1))
    with EngineRun(ADAPTER, deployment, folder) as run:
        ready = run.wait_for("READY")
        with run.client() as client:
            body = {"model": "it", "max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}]}
            answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] >= 1
        pid = process_of(str(folder / "i-contract" / "serve_llamacpp.py"))
        assert Path(f"/proc/{pid}/ns/mnt").readlink() != Path("/proc/self/ns/mnt").readlink(), "it is in a container"
    assert ready["state"] == "READY"
    assert not Path(f"/proc/{pid}").exists()
