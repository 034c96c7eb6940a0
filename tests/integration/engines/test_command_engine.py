# SPDX-License-Identifier: Apache-2.0
"""Any server by its command line: on a socket, or on a port behind a key that nobody else has."""

import os
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest

from firstkit.adapters import demo
from firstkit.adapters.engines.command import ADAPTER
from firstkit.core.catalog import Deployment, EngineSpec, Scaling
from firstkit.testing.engine_run import KEY, EngineRun

pytestmark = pytest.mark.llamacpp

KEYED = Path(__file__).parents[2] / "fixtures" / "engines" / "keyed_llamacpp.py"
SOCKET = Path(str(files("firstkit.adapters.engines"))) / "programs" / "serve_llamacpp.py"


def deployment(argv: list[str], env: dict[str, str] | None = None, **options: Any) -> Deployment:
    engine = EngineSpec(
        kind="command",
        model=str(demo.chat_gguf()),
        env=env or {},
        options={"argv": argv, "health": "/health"} | options,
    )
    return Deployment(name="it", model="lab/it", engine=engine, scaling=Scaling(in_flight=1))


def answer(client: httpx.Client, **headers: str) -> int:
    body = {"model": "lab/it", "prompt": "x", "max_tokens": 1}
    return client.post("/v1/completions", json=body, headers=headers).status_code


def test_a_server_is_started_on_a_socket(folder: Path) -> None:
    argv = [sys.executable, str(SOCKET), "--socket", "{socket}", "--model", "{model}", "--alias", "{name}"]
    with EngineRun(ADAPTER, deployment([*argv, "--set", "n_ctx=512"]), folder) as run:
        run.wait_for("READY")
        with run.client() as client:
            assert answer(client) == 200


@pytest.mark.parametrize(
    ("more", "env"), [(["{key_file}"], {}), ([], {"API_KEY": "{key}"})], ids=["by a file", "by its environment"]
)
def test_a_server_on_a_port_answers_only_who_has_its_key(
    folder: Path, more: list[str], env: dict[str, str], stranger: Callable[..., dict[str, str]]
) -> None:
    argv = [sys.executable, str(KEYED), "{port}", "{model}", "{name}", *more]
    with EngineRun(ADAPTER, deployment(argv, env), folder) as run:
        ready = run.wait_for("READY")
        assert ready["address"]["kind"] == "tcp"
        with run.client() as client:
            assert answer(client) == 200
        routes = [("GET", path) for path in run.spec.guarded] + [("POST", path) for path in run.spec.guarded]
        routes += [("GET", "/metrics"), ("GET", "/props"), ("GET", "/slots"), ("POST", "/tokenize")]
        found = stranger(run.address(), routes)
        assert set(found.values()) == {"HTTP/1.1 401 Unauthorized"}, found
        left = [path for path in run.reports() if path.name not in {"job.json", "engine.key"}]
        assert not [path for path in left if KEY.encode() in path.read_bytes()]


def test_a_server_that_lets_everybody_in_is_ended(folder: Path) -> None:
    argv = [sys.executable, str(KEYED), "{port}", "{model}", "{name}", "{key_file}"]
    with EngineRun(ADAPTER, deployment(argv, {"OPEN": "1"}), folder) as run:
        ended = run.wait_for("ENDED")
    assert ended["reason"] == "ENGINE_UNGUARDED"
    assert "/v1/models" in ended["detail"]


def test_a_program_that_does_not_exist_is_named(folder: Path) -> None:
    with EngineRun(ADAPTER, deployment(["no-such-server", "{socket}"]), folder) as run:
        ended = run.wait_for("ENDED")
    assert ended["reason"] == "SETUP_FAILED"
    assert "no-such-server" in ended["detail"]


def test_its_command_line_is_seen_by_everybody_and_does_not_hold_the_key(folder: Path) -> None:
    argv = [sys.executable, str(KEYED), "{port}", "{model}", "{name}"]
    with EngineRun(ADAPTER, deployment(argv, {"API_KEY": "{key}"}), folder) as run:
        run.wait_for("READY")
        lines = [read(path) for path in Path("/proc").glob("[0-9]*/cmdline")]
        assert [line for line in lines if os.fsencode(KEYED) in line]
        assert not [line for line in lines if KEY.encode() in line]


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
