# SPDX-License-Identifier: Apache-2.0
"""The real vLLM on the CPU behind a whole installation, with small random weights."""

import http.client
import json
import os
import re
import socket
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import openai
import pytest
from installation import Installation, installation
from paced import Stream, config

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300), pytest.mark.slow]

ROOT = Path(__file__).parents[2]
VENV = ROOT / ".venv-vllm"
MODEL = "lab/random"


@pytest.fixture(scope="module")
def weights(request: pytest.FixtureRequest) -> Path:
    """Small random weights, made once and kept in pytest's cache."""
    if not (VENV / ".installed").exists():
        pytest.skip("vLLM's environment is not installed (make vllm-env)")
    assert request.config.cache is not None
    kept = request.config.cache.mkdir("random-llama") / "weights-1"
    if not kept.exists():
        program = ROOT / "tests" / "fixtures" / "engines" / "make_random_llama.py"
        with tempfile.TemporaryDirectory(dir=kept.parent) as making:
            env = {"PATH": os.defpath, "HOME": making, "HF_HUB_OFFLINE": "1"}
            argv = [str(VENV / "bin" / "python"), str(program), str(Path(making) / "weights")]
            subprocess.run(argv, cwd=making, env=env, check=True, capture_output=True, timeout=120)
            (Path(making) / "weights").rename(kept)
    return kept


@pytest.fixture
def ending() -> None:
    """Marks a test that ends the module's engine, so that it comes last (see conftest.py)."""


def document(weights: Path, *, served: bool = True) -> dict[str, Any]:
    args = {"dtype": "float32", "max-model-len": 2048, "enforce-eager": True, "gpu-memory-utilization": 0.3}
    env = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    engine = {"kind": "vllm", "model": str(weights), "venv": str(VENV), "args": args, "env": env}
    deployment = {"model": MODEL, "cluster": "here", "engine": engine, "scaling": {"min": 1, "in_flight": 8}}
    return config(deployments={"real": deployment} if served else {})


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Generator[Installation]:
    with installation(tmp_path_factory.mktemp("vllm"), config=document(weights)) as it:
        it.wait_hot(MODEL, within_s=240)
        yield it


def asks(text: str, *, tokens: int, stream: bool = False, **more: Any) -> dict[str, Any]:
    """Ask for an exact number of tokens."""
    body = {"model": "random", "messages": [{"role": "user", "content": text}], "max_tokens": tokens}
    return body | {"ignore_eos": True, "temperature": 0, "stream": stream} | more


def metric(running: Installation, name: str) -> float:
    """Read one of the engine's own numbers over its socket."""
    (instance,) = running.ready_instances(MODEL)
    words = Path(f"/proc/{running.engine_pid(instance)}/cmdline").read_bytes().decode().split("\0")
    connection = http.client.HTTPConnection("localhost", timeout=30)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.sock.connect(words[words.index("--uds") + 1])
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    return sum(float(value) for value in re.findall(rf"^{re.escape(name)}\{{[^}}]*\}} (\S+)$", text, re.MULTILINE))


def test_the_openai_client_chats_streamed_and_not(running: Installation) -> None:
    with openai.OpenAI(base_url=running.base_url, api_key=running.key, max_retries=0) as client:
        messages: Any = [{"role": "user", "content": "Hello"}]
        extra = {"ignore_eos": True}
        whole = client.chat.completions.create(
            model=MODEL, messages=messages, max_tokens=12, temperature=0, extra_body=extra
        )
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 12
        with client.chat.completions.create(
            model=MODEL, messages=messages, max_tokens=12, temperature=0, stream=True, extra_body=extra
        ) as stream:
            chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert all(chunk.choices for chunk in chunks), "a chunk of usage that the client had not asked for"


def test_usage_is_exact_whether_the_client_asked_for_it_or_not(running: Installation) -> None:
    key = json.loads(running.first("keys", "create", "counted", "--json").stdout)["key"]

    def used() -> list[tuple[int, int, int]]:
        rows = json.loads(running.request("GET", "/api/v1/usage", key=key)[2])["data"]
        return [(row["requests"], row["input_tokens"], row["output_tokens"]) for row in rows]

    def sent(body: dict[str, Any]) -> bytes:
        status, _, answer = running.request("POST", "/v1/chat/completions", body, key=key)
        assert status == 200, answer
        return answer

    prompt = json.loads(sent(asks("Hi", tokens=7)))["usage"]["prompt_tokens"]
    unasked = sent(asks("Hi", tokens=30, stream=True))
    assert b"usage" not in unasked
    asked = sent(asks("Hi", tokens=40, stream=True, stream_options={"include_usage": True}))
    assert b'"completion_tokens":40' in asked
    running.until(lambda: used() == [(3, 3 * prompt, 7 + 30 + 40)])


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_the_engine(running: Installation, stream: bool) -> None:
    before = metric(running, "vllm:generation_tokens_total")
    body = json.dumps(asks("Tell me everything", tokens=2000, stream=stream)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.key}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as client:
        client.sendall(head.encode() + body)
        running.until(lambda: metric(running, "vllm:num_requests_running") == 1)
    running.until(lambda: metric(running, "vllm:num_requests_running") == 0)
    made = metric(running, "vllm:generation_tokens_total") - before
    print(f"\n{made:.0f} of 2000 tokens were made")
    assert made < 2000
    running.until(lambda: sum(one["in_flight"] for one in running.instances()) == 0)


def test_what_only_the_engine_knows_is_out_of_reach(running: Installation) -> None:
    for path in ("/invocations", "/scale_elastic_ep", "/metrics", "/load", "/inference/v1/generate", "/v1/load_lora"):
        status, _, body = running.request("POST", path, asks("x", tokens=1))
        assert status in {404, 405}, (path, status, body)
    status, _, body = running.request("POST", "/v1/chat/completions", asks("x", tokens=1, priority=-5))
    assert status == 400
    assert json.loads(body)["error"]["param"] == "priority"


def test_an_instance_that_drains_finishes_its_stream(running: Installation, weights: Path, ending: None) -> None:
    stream = Stream(running, asks("Go on", tokens=1500, stream=True))
    stream.wait_for(b"data: ")
    running.reload(document(weights, served=False))
    running.until(lambda: not running.ready_instances(MODEL))
    assert not stream.over
    stream.end()
    assert stream.data.endswith(b"data: [DONE]\n\n")
    assert "error" not in stream.events[-1]
    running.until(lambda: not running.instances())
