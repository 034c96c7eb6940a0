# SPDX-License-Identifier: Apache-2.0
"""A streamed chat as the commands read it."""

import json
from typing import Any

import httpx
import pytest

from firstkit.adapters.clients.http import Client
from firstkit.adapters.clients.target import Target
from firstkit.apps.cli.streaming import End, Piece, Waiting, chat, waiting_words
from firstkit.core.errors import UpstreamError

TARGET = Target(base_url="http://gateway", named="test", key="fk-secret")


def chunk(**delta: Any) -> str:
    return "data: " + json.dumps({"choices": [{"delta": delta, "finish_reason": None}]}) + "\n\n"


STOP = 'data: {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"completion_tokens": 2}}\n\n'


def read(body: str, **options: Any) -> tuple[list[Any], httpx.Request]:
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, text=body, headers={"content-type": "text/event-stream"})

    with Client(TARGET, transport=httpx.MockTransport(handle)) as client:
        return list(chat(client, {"model": "m"}, **options)), seen[0]


def test_what_the_gateway_says_comes_before_the_pieces_of_the_answer() -> None:
    comment = ': first state=warm reason=LOADING position=2 expected="34 s" progress=40% text="loading weights"\n\n'
    parts, request = read(
        comment + ": other\n\n" + chunk(content="Hel") + chunk(content="lo") + STOP + "data: [DONE]\n\n"
    )
    assert parts == [
        Waiting(text="warm, place 2, 40%, loading weights, about 34 s"),
        Piece(text="Hel"),
        Piece(text="lo"),
        End(reason="stop", usage={"completion_tokens": 2}),
    ]
    assert request.headers["authorization"] == "Bearer fk-secret"
    assert json.loads(request.content)["stream"] is True
    assert "x-first-max-wait" not in request.headers


def test_a_bound_on_waiting_is_handed_on() -> None:
    _, request = read(STOP + "data: [DONE]\n\n", max_wait_s=0.0)
    assert request.headers["x-first-max-wait"] == "0"


def test_reasoning_is_told_apart_from_the_answer() -> None:
    parts, _ = read(
        chunk(reasoning_content="hm") + chunk(reasoning="so") + chunk(content="42") + STOP + "data: [DONE]\n\n"
    )
    assert [(part.text, part.thought) for part in parts[:3]] == [("hm", True), ("so", True), ("42", False)]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (chunk(content="Hel"), "broke off"),
        ("", "broke off"),
        (chunk(content="Hel") + STOP, "broke off"),
        (chunk(content="Hel") + 'data: {"error": {"message": "it died"}}\n\n', "it died"),
        ('data: {"error": "odd"}\n\n', "odd"),
        ("data: {oops\n\n", "no JSON"),
    ],
)
def test_an_answer_that_is_not_whole_is_an_error(body: str, words: str) -> None:
    with pytest.raises(UpstreamError, match=words):
        read(body)


def test_comments_of_others_say_nothing() -> None:
    assert waiting_words("keep-alive") is None
    assert waiting_words("first state=sent cluster=here instance=i-1") == "sent to here"
    assert waiting_words('first state=queued position=1 expected="unknown"') == "queued, place 1, time unknown"
