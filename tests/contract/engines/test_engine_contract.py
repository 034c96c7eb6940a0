# SPDX-License-Identifier: Apache-2.0
"""Every engine does what its adapter says of it, seen on the wire of the real one."""

import json
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from firstkit.testing.engine_run import EngineRun

pytestmark = pytest.mark.timeout(240)

CANARY = "sesame-7f3a"
LONG = 1500
MESSAGES = [{"role": "user", "content": "Say something."}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 2},
    "/v1/completions": {"prompt": "Say", "max_tokens": 2},
    "/v1/responses": {"input": "Say", "max_output_tokens": 2},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 2},
    "/v1/messages/count_tokens": {"messages": MESSAGES},
    "/v1/embeddings": {"input": "Say"},
    "/tokenize": {"prompt": "Say", "content": "Say"},
    "/detokenize": {"tokens": [70, 71]},
}
# As listed in llama.cpp's tools/server/README.md; it has no OpenAPI document.
LLAMACPP_ROUTES = """
    GET /health, GET /v1/health, GET /metrics, GET /props, POST /props, GET /models, GET /v1/models, GET /api/tags,
    POST /api/show, POST /api/chat, POST /completion, POST /completions, POST /v1/completions, POST /chat/completions,
    POST /v1/chat/completions, POST /v1/responses, POST /v1/messages, POST /v1/messages/count_tokens, POST /infill,
    POST /embedding, POST /embeddings, POST /v1/embeddings, POST /rerank, POST /reranking, POST /v1/rerank,
    POST /v1/reranking, POST /tokenize, POST /detokenize, POST /apply-template, GET /lora-adapters, POST /lora-adapters,
    GET /slots, POST /slots/0?action=erase, POST /v1/audio/transcriptions, GET /
"""


@pytest.fixture
def client(engine_run: EngineRun) -> Iterator[httpx.Client]:
    with engine_run.client() as client:
        yield client


def asked(run: EngineRun, path: str, **more: Any) -> dict[str, Any]:
    return {"model": run.adapter.served_name(run.deployment), **BODIES[path], **more}


def events(answer: httpx.Response) -> list[str]:
    """Give the data of each event of a stream, as sent."""
    return re.findall(r"^data: (.*)$", answer.text, re.MULTILINE)


def counted(client: httpx.Client, kind: str) -> tuple[bool, float]:
    """Read from an engine's metrics whether it is at work on a request, and how many tokens it has made."""
    text = client.get("/metrics").text
    running, waiting, tokens = {
        "vllm": ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:generation_tokens_total"),
        "llamacpp": ("llamacpp:requests_processing", "llamacpp:requests_deferred", "llamacpp:tokens_predicted_total"),
    }[kind]

    def value(name: str) -> float:
        return sum(float(found) for found in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))

    return value(running) + value(waiting) > 0, value(tokens)


def processor_ticks(run: EngineRun) -> int:
    """Tell how much an engine without metrics has computed: one thread of its own does all the work."""
    program = str(run.folder / "i-contract" / "serve_transformers.py").encode()
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if program in line.read_bytes():
                fields = (line.parent / "stat").read_bytes().rpartition(b")")[2].split()
                return int(fields[11]) + int(fields[12])
        except OSError:
            continue
    raise AssertionError("the engine's process is gone")


def work_once_idle(run: EngineRun, client: httpx.Client) -> float:
    """Wait until the engine has ended all its work and tell how much that was: tokens, or processor time."""
    kind = run.adapter.traits.kind
    if kind == "transformers":  # one request after the other: when this one is answered, those before it have ended
        assert client.post("/v1/completions", json=asked(run, "/v1/completions", max_tokens=1)).status_code == 200
        return processor_ticks(run)
    deadline = time.monotonic() + 120
    while True:
        busy, done = counted(client, kind)
        if not busy:
            return done
        assert time.monotonic() < deadline, "the engine never became idle"
        time.sleep(0.05)


def wait_until_busy(run: EngineRun, client: httpx.Client) -> None:
    kind = run.adapter.traits.kind
    before = processor_ticks(run) if kind == "transformers" else 0
    deadline = time.monotonic() + 60
    while not (processor_ticks(run) > before + 5 if kind == "transformers" else counted(client, kind)[0]):
        assert time.monotonic() < deadline, "the engine never began"
        time.sleep(0.01)


def work_of_a_whole_answer(run: EngineRun, client: httpx.Client, length: int) -> float:
    """Tell how much work an answer of that length is."""
    if run.adapter.traits.kind != "transformers":
        return length
    before = work_once_idle(run, client)
    assert client.post("/v1/completions", json=asked(run, "/v1/completions", max_tokens=length)).status_code == 200
    return work_once_idle(run, client) - before


def forever(run: EngineRun) -> dict[str, Any]:
    """Keep an engine writing to the end where it can be told to."""
    return {} if run.adapter.traits.kind == "transformers" else {"ignore_eos": True}


# ------------------------------------------------------------------------------------------------------- what it is


def test_it_serves_each_path_that_its_adapter_lists(engine_run: EngineRun, client: httpx.Client) -> None:
    statuses = {
        path: client.post(path, json=asked(engine_run, path)).status_code
        for path in engine_run.adapter.paths(engine_run.deployment)
    }
    assert statuses
    assert set(statuses.values()) == {200}, statuses


def test_its_adapter_lists_no_path_that_it_was_not_tried_on(engine_run: EngineRun) -> None:
    assert engine_run.adapter.paths(engine_run.deployment) <= engine_run.adapter.traits.paths


def test_it_answers_under_its_public_name_and_tells_its_length(engine_run: EngineRun, client: httpx.Client) -> None:
    name = engine_run.adapter.served_name(engine_run.deployment)
    assert name == engine_run.deployment.model
    answer = client.post("/v1/chat/completions", json=asked(engine_run, "/v1/chat/completions")).json()
    told = {"vllm": name, "llamacpp": name, "transformers": f"{name}@main"}
    assert answer["model"] == told[engine_run.adapter.traits.kind]
    info = engine_run.adapter.models_info(client.get("/v1/models").content, name)
    assert info == ({} if engine_run.adapter.traits.kind == "transformers" else {"max_model_len": 2048})


def test_it_refuses_a_wrong_name_itself_if_declared(engine_run: EngineRun, client: httpx.Client) -> None:
    body = asked(engine_run, "/v1/chat/completions", model="another")
    refused = client.post("/v1/chat/completions", json=body).status_code in {400, 404}
    assert refused == engine_run.adapter.traits.checks_model


def test_loading_was_told_from_its_own_log(engine_run: EngineRun) -> None:
    lines = engine_run.log().splitlines()
    seen = [
        mark.text for mark in engine_run.spec.progress if any(re.search(mark.match, line) is not None for line in lines)
    ]
    assert len(seen) >= 3, seen
    assert engine_run.spec.progress[-1].start == 1.0
    assert seen[-1] == engine_run.spec.progress[-1].text


def test_nobody_else_on_the_machine_can_reach_any_of_its_paths(
    engine_run: EngineRun, client: httpx.Client, stranger: Callable[..., dict[str, str]]
) -> None:
    if engine_run.adapter.traits.kind == "llamacpp":
        routes = [tuple(route.split()) for route in LLAMACPP_ROUTES.replace("\n", " ").split(",")]
    else:
        document = client.get("/openapi.json").json()
        routes = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
        routes += [("GET", "/openapi.json"), ("GET", "/metrics"), ("GET", "/docs")]
    assert {path for _, path in routes} >= engine_run.adapter.paths(engine_run.deployment)
    found = stranger(engine_run.address(), routes)
    assert len(found) == len(set(routes))
    assert set(found.values()) == {"PermissionError"}, found


# ------------------------------------------------------------------------------------------------------------ usage


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_asking_for_usage_changes_no_other_chunk_if_declared(
    engine_run: EngineRun, client: httpx.Client, path: str
) -> None:
    def chunks(**more: Any) -> list[dict[str, Any]]:
        body = asked(engine_run, path, stream=True, temperature=0, max_tokens=16, **forever(engine_run), **more)
        found = [json.loads(data) for data in events(client.post(path, json=body)) if data != "[DONE]"]
        assert all(chunk.pop("id") and chunk.pop("created") for chunk in found)
        return found

    plain, asked_for = chunks(), chunks(stream_options={"include_usage": True})
    extra = [chunk for chunk in asked_for if chunk["choices"] == []]
    others = [chunk for chunk in asked_for if chunk["choices"] != []]
    if engine_run.adapter.traits.usage_on_request:
        assert folded(others) == folded(plain)
        assert len(extra) == 1
        assert extra[0]["usage"]["completion_tokens"] == 16
    elif engine_run.adapter.traits.kind == "llamacpp" and path == "/v1/chat/completions":
        assert plain[-1]["timings"]["predicted_n"] == 16
        assert folded(others) != folded(plain), "asking would be free now: declare it"
    else:
        assert extra == []
        assert plain[-1]["usage"]["completion_tokens"] == 16


def folded(chunks: list[dict[str, Any]]) -> tuple[str, set[str]]:
    """Give a stream's text and the kinds of its chunks: how many tokens share a chunk is a matter of moments."""
    text, kinds = "", set[str]()
    for chunk in chunks:
        choice = chunk["choices"][0]
        piece = choice if "text" in choice else choice["delta"]
        text += (piece.pop("text", "") if "text" in piece else piece.pop("content", "")) or ""
        if "timings" in chunk:
            chunk["timings"] = sorted(chunk["timings"])
        kinds.add(json.dumps(chunk, sort_keys=True))
    return text, kinds


# ----------------------------------------------------------------------------------------------------------- aborts


def test_a_client_that_leaves_a_stream_ends_the_work(engine_run: EngineRun, client: httpx.Client) -> None:
    assert engine_run.adapter.traits.aborts_streams
    length = 600 if engine_run.adapter.traits.kind == "transformers" else LONG
    whole = work_of_a_whole_answer(engine_run, client, length)
    before = work_once_idle(engine_run, client)
    body = asked(engine_run, "/v1/chat/completions", stream=True, max_tokens=length, **forever(engine_run))
    with engine_run.client() as leaving, leaving.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert next(answer.iter_raw())
    assert work_once_idle(engine_run, client) - before < 0.7 * whole


def test_a_client_that_leaves_before_its_plain_answer_ends_the_work_if_declared(
    engine_run: EngineRun, client: httpx.Client
) -> None:
    length = {"transformers": 600, "llamacpp": 100}.get(engine_run.adapter.traits.kind, LONG)
    whole = work_of_a_whole_answer(engine_run, client, length)
    before = work_once_idle(engine_run, client)
    body = asked(engine_run, "/v1/completions", max_tokens=length, **forever(engine_run))
    with connected(engine_run.address()) as leaving:
        leaving.sendall(request_bytes("/v1/completions", body))
        wait_until_busy(engine_run, client)
    done = work_once_idle(engine_run, client) - before
    assert (done < 0.7 * whole) == engine_run.adapter.traits.aborts_unary


def connected(address: dict[str, Any]) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(60)
    try:
        connection.connect(address["path"])
    except OSError:
        connection.close()
        raise
    return connection


def request_bytes(path: str, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


# ----------------------------------------------------------------------------------------------------------- its end


class Ending(NamedTuple):
    """What was seen while the engine was stopped with one stream open."""

    stream: str
    late: list[tuple[int, bytes]]
    exit: dict[str, Any]
    left: dict[str, bytes]


@pytest.fixture(scope="module")
def ending(engine_run: EngineRun) -> Ending:
    """Send the canary down every path, open a stream, stop the engine, send more, read the stream to its end."""
    address = engine_run.address()
    with engine_run.client() as client:
        for path in engine_run.adapter.paths(engine_run.deployment):
            for body in canaries(engine_run, path):
                client.post(path, content=body, headers={"content-type": "application/json"})
        body = asked(engine_run, "/v1/chat/completions", stream=True, max_tokens=150, **forever(engine_run))
        late: list[tuple[int, bytes]] = []
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            pieces = answer.iter_raw()
            received = next(pieces)
            engine_run.stop()
            received += next(pieces)
            for number, piece in enumerate(pieces):
                received += piece
                if number % 10 == 0 and len(late) < 3:
                    late.append(attempt(address, asked(engine_run, "/v1/completions")))
    report = engine_run.wait()
    left = {str(path.relative_to(engine_run.folder)): path.read_bytes() for path in engine_run.reports()}
    return Ending(stream=received.decode(), late=late, exit=report, left=left)


def attempt(address: dict[str, Any], body: dict[str, Any]) -> tuple[int, bytes]:
    """Send a request to an engine that is ending; status 0 where no answer came."""
    try:
        with connected(address) as connection:
            connection.sendall(request_bytes("/v1/completions", body))
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
    except OSError:
        return 0, b""
    head, _, rest = answer.partition(b"\r\n\r\n")
    return (int(head.split()[1]), rest) if head else (0, b"")


def canaries(run: EngineRun, path: str) -> Iterator[bytes]:
    """Make requests, good and bad in every way we know engines to complain of, each with the canary in it."""
    good = asked(run, path)
    secret = {key: CANARY if isinstance(value, str) and key != "model" else value for key, value in good.items()} | (
        {"messages": [{"role": "user", "content": CANARY}]} if "messages" in good else {}
    )
    yield json.dumps(secret).encode()
    yield json.dumps(secret).encode()[:-1] + f', "a": {CANARY}}}'.encode()
    for field, value in {
        "temperature": CANARY,
        "max_tokens": CANARY,
        "tools": [{"type": "function", "function": {"name": CANARY}}],
        "tool_choice": {"type": CANARY},
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": CANARY}}},
        "grammar": CANARY,
        "structured_outputs": {"regex": f"({CANARY}"},
        "json_schema": {"type": CANARY},
        "logit_bias": {CANARY: 1},
        "stop": {CANARY: 1},
        "messages": [{"role": CANARY}],
        "input": [{"role": "user", "content": [{"type": CANARY}]}],
        "prompt": {CANARY: CANARY},
        CANARY: CANARY,
    }.items():
        yield json.dumps(secret | {field: value}).encode()
    tool = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{" + CANARY}}
    yield json.dumps(secret | {"messages": [{"role": "assistant", "tool_calls": [tool]}]}).encode()
    image = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{CANARY}"}}]
    yield json.dumps(secret | {"messages": [{"role": "user", "content": image}]}).encode()


def test_a_stream_that_is_open_when_it_is_stopped_is_finished_if_declared(
    engine_run: EngineRun, ending: Ending
) -> None:
    chunks = [json.loads(data) for data in re.findall(r"^data: ({.*)$", ending.stream, re.MULTILINE)]
    finished = [chunk["choices"][0].get("finish_reason") for chunk in chunks if chunk.get("choices")]
    assert (finished[-1] == "length") == engine_run.adapter.traits.drains
    assert not [chunk for chunk in chunks if "error" in chunk]
    assert ("data: [DONE]" in ending.stream) == (engine_run.adapter.traits.kind != "transformers")


def test_what_it_answers_while_it_ends_is_an_answer_or_a_reason_to_try_elsewhere(
    engine_run: EngineRun, ending: Ending
) -> None:
    assert ending.late
    wrong = [
        (status, body)
        for status, body in ending.late
        if status not in {0, 200} and not engine_run.adapter.retryable(status, body[:2048])
    ]
    assert not wrong
    if engine_run.adapter.traits.kind == "vllm":
        assert [status for status, _ in ending.late if status == 500], ending.late


def test_being_stopped_is_a_clean_end(engine_run: EngineRun, ending: Ending) -> None:
    assert ending.exit["reason"] == "CANCELLED"
    assert (ending.exit["code"], ending.exit["signal"]) in {(0, None), (None, signal.SIGTERM)}, ending.exit


def test_nothing_of_a_request_is_left_in_any_file(engine_run: EngineRun, ending: Ending) -> None:
    assert {"status.json", "exit.json", "launcher.log", "i-contract/engine.log"} <= set(ending.left)
    assert ending.left["i-contract/engine.log"]
    leaks = {name: around(data) for name, data in ending.left.items() if CANARY.encode() in data}
    assert not leaks


def around(data: bytes) -> list[bytes]:
    return [line[:300] for line in data.splitlines() if CANARY.encode() in line]
