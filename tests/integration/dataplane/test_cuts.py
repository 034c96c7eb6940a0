# SPDX-License-Identifier: Apache-2.0
"""An engine that dies at every byte of its answer, in every shape: no silent truncation, and nothing is left behind."""

import asyncio
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from firstkit.core.request import Outcome
from firstkit.testing.planes import MODEL, PlainEngine, plane_world
from firstkit.testing.raw_client import Answer, request
from firstkit.testing.raw_engine import STREAM_HEAD, Visit, answer, chunked, raw_engine

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

AT_ONCE = 16
PLAIN = json.dumps(
    {"id": "x", "choices": [{"message": {"content": "word " * 150}}], "usage": {"prompt_tokens": 1}}
).encode()


def openai(count: int) -> tuple[bytes, ...]:
    def event(fields: object) -> bytes:
        return b"data: " + json.dumps(fields).encode() + b"\n\n"

    tokens = [event({"choices": [{"index": 0, "delta": {"content": f"t{number}"}}]}) for number in range(count)]
    usage = event({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": count}})
    return (*tokens, usage, b"data: [DONE]\n\n")


def named(*kinds: str) -> tuple[bytes, ...]:
    return tuple(
        f"event: {kind}\ndata: {json.dumps({'type': kind, 'delta': 'abc', 'n': number})}\n\n".encode()
        for number, kind in enumerate(kinds)
    )


RESPONSES = named("response.created", *["response.output_text.delta"] * 12, "response.completed")
MESSAGES = named("message_start", *["content_block_delta"] * 14, "message_delta", "message_stop")
CLOSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


@dataclass(frozen=True, kw_only=True)
class Shape:
    raw: bytes
    body: bytes
    stream: bool = True
    path: str = "/v1/chat/completions"
    version: str = "1.1"
    asks: bool = False
    ends: bool = False  # the connection's end is the answer's


CRLF = tuple(piece.replace(b"\n", b"\r\n") for piece in openai(14))
TOKENS = openai(16)
SHAPES = {
    "length": Shape(raw=answer(PLAIN), body=PLAIN, stream=False),
    "chunked": Shape(
        raw=b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        + chunked(*(PLAIN[at : at + 70] for at in range(0, len(PLAIN), 70))),
        body=PLAIN,
        stream=False,
    ),
    "length, old client": Shape(raw=answer(PLAIN), body=PLAIN, stream=False, version="1.0"),
    "chat": Shape(raw=STREAM_HEAD + chunked(*TOKENS), body=b"".join(TOKENS)),
    "chat, usage kept back": Shape(
        raw=STREAM_HEAD + chunked(*TOKENS), body=b"".join((*TOKENS[:-2], TOKENS[-1])), asks=True
    ),
    "chat in CRLF": Shape(raw=STREAM_HEAD + chunked(*CRLF), body=b"".join(CRLF)),
    "chat until close": Shape(raw=CLOSE_HEAD + b"".join(TOKENS), body=b"".join(TOKENS), ends=True),
    "chat with a length": Shape(
        raw=answer(b"".join(TOKENS), content_type="text/event-stream"), body=b"".join(TOKENS)
    ),
    "responses": Shape(raw=STREAM_HEAD + chunked(*RESPONSES), body=b"".join(RESPONSES), path="/v1/responses"),
    "messages": Shape(raw=STREAM_HEAD + chunked(*MESSAGES), body=b"".join(MESSAGES), path="/v1/messages"),
}  # fmt: skip


def test_there_are_ten_thousand_cuts() -> None:
    assert sum(len(shape.raw) for shape in SHAPES.values()) >= 10_000


def judge(shape: Shape, cut: int, got: Answer, outcome: Outcome) -> str:
    """Say what is wrong with what a client saw of an answer cut at that byte; "" when nothing is."""
    whole_sent = cut == len(shape.raw)
    if not got.whole:
        if whole_sent:
            return "a whole answer came as a broken one"
        return "" if shape.body.startswith(got.body) else "other bytes than the engine's"
    if got.status == 502:
        return "" if not whole_sent and outcome is Outcome.ENGINE_ERROR else f"502, recorded as {outcome}"
    if got.body == shape.body:
        complete = whole_sent or (shape.ends and cut >= len(shape.raw) - 1)
        return "" if complete and outcome is Outcome.COMPLETE else f"looked whole, recorded as {outcome}"
    if not shape.stream:
        return "a short answer that looks whole"
    events, error = got.body[: got.body.rindex(b"data: ")], json.loads(got.body[got.body.rindex(b"data: ") + 6 :])
    if shape.path != "/v1/chat/completions":
        events = events.removesuffix(b"event: error\n")
    if error["error"]["code"] != "engine_cut" or outcome is not Outcome.CUT:
        return f"ended in {error}, recorded as {outcome}"
    return "" if shape.body.startswith(events) else "other bytes than the engine's before the error"


@pytest.mark.parametrize("name", SHAPES)
async def test_no_cut_goes_unnoticed(tmp_path: Path, name: str) -> None:
    shape = SHAPES[name]
    wrong: list[str] = []
    body = {"model": MODEL, "messages": [], "stream": shape.stream}

    async def script(visit: Visit) -> None:
        cut = int(visit.headers["user-agent"])
        await visit.send(shape.raw[:cut])
        await visit.close()

    async with (
        raw_engine(tmp_path) as engine,
        plane_world(tmp_path, engine=PlainEngine(usage_on_request=shape.asks)) as world,
    ):
        world.serve(engine)
        engine.script = script
        cuts = iter(range(1, len(shape.raw) + 1))

        async def one(cuts: Iterator[int]) -> None:
            for cut in cuts:
                async with world.client() as client:
                    raw = request(body, path=shape.path, headers={"user-agent": str(cut), "x-request-id": str(cut)})
                    await client.send(raw.replace(b"HTTP/1.1", f"HTTP/{shape.version}".encode()))
                    got = await client.answer()
                outcome = next(
                    record.outcome for record in reversed(world.records) if record.client_request_id == str(cut)
                )
                if problem := judge(shape, cut, got, outcome):
                    wrong.append(f"cut at {cut} ({shape.raw[:cut][-20:]!r}): {problem}: {got}")

        await asyncio.gather(*(one(cuts) for _ in range(AT_ONCE)))
        await world.until(lambda: not any(world.leftovers().values()))
        assert len(world.records) == len(shape.raw)
        assert {record.ended for record in world.records} == {True}
        await world.until(lambda: len(world.plane.pools.open()) == 0)
    assert not wrong, "\n".join(itertools.islice(wrong, 10))
