# SPDX-License-Identifier: Apache-2.0
"""What a person sees of `make up`: one URL, a real engine, every byte."""

import json
import shutil
import stat
import subprocess
import sys

import pytest
from installation import Installation

pytestmark = [pytest.mark.llamacpp, pytest.mark.timeout(120)]

CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]


def test_it_says_that_it_is_ready_with_the_base_url_and_where_the_key_lies(demo: Installation) -> None:
    ready = next(line for line in demo.said().splitlines() if line.startswith("first: ready"))
    assert demo.base_url in ready
    assert str(demo.data / "api-key") in ready
    assert stat.S_IMODE((demo.data / "api-key").stat().st_mode) == 0o600


def test_a_model_answers_from_the_real_engine(demo: Installation) -> None:
    body = {"model": "smollm2", "messages": CAPITAL, "temperature": 0, "max_tokens": 16}
    status, headers, answer = demo.request("POST", "/v1/chat/completions", body)
    assert status == 200, answer
    assert json.loads(answer)["choices"][0]["message"]["content"].strip()
    assert headers["x-first-instance"].startswith("i-")
    assert headers["x-first-cluster"] == "laptop"
    assert headers["x-request-id"]


def test_a_stream_arrives_in_events_and_ends_with_done(demo: Installation) -> None:
    body = {"model": "smollm2", "messages": CAPITAL, "temperature": 0, "max_tokens": 16, "stream": True}
    status, _, answer = demo.request("POST", "/v1/chat/completions", body)
    assert status == 200
    events = [line for line in answer.split(b"\n\n") if line]
    assert events[-1] == b"data: [DONE]"
    text = "".join(
        (json.loads(event.removeprefix(b"data: "))["choices"] or [{"delta": {}}])[0]["delta"].get("content") or ""
        for event in events[:-1]
    )
    assert text.strip()


def test_the_model_is_listed_as_hot_with_its_context_length(demo: Installation) -> None:
    status, _, body = demo.request("GET", "/v1/models")
    assert status == 200
    (model,) = json.loads(body)["data"]
    assert model["id"] == "SmolLM2-135M-Instruct"
    assert model["max_model_len"] == 2048
    assert model["first"]["state"] == "hot"


def test_nobody_is_served_without_a_key(demo: Installation) -> None:
    body = {"model": "smollm2", "messages": CAPITAL}
    status, _, answer = demo.request("POST", "/v1/chat/completions", body, key="fk-00000000-nonsense")
    assert status == 401
    assert json.loads(answer)["error"]["code"] == "invalid_api_key"


def test_the_curl_line_and_the_python_snippet_that_it_prints_work_as_they_are(demo: Installation) -> None:
    _, curl, snippet = demo.said()[demo.said().index("first: ready") :].split("\n\n")[:3]
    assert curl.startswith("curl ")
    if shutil.which("curl") is not None:
        done = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout.strip().endswith("data: [DONE]"), done.stdout + done.stderr
    done = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
