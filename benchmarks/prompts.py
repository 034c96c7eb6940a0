# SPDX-License-Identifier: Apache-2.0
"""Request bodies: chat completions of a chosen size, as the usual clients write them."""

from __future__ import annotations

import base64
import json
import random

CHARACTERS_PER_TOKEN = 4
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "seven",
    "wizards",
    "calmly",
    "mix",
    "potent",
    "black",
    "elixirs",
    "by",
    "moonlight",
]


def chat(
    *, model: str, stream: bool, max_tokens: int = 128, nonce: int = 0, usage: bool = True, content: object = None
) -> bytes:
    """Write a chat completion request. The nonce stands in it so that an answer can be told from every other one."""
    user = f"nonce-{nonce:08d} Tell me the story of the fox and the dog in about one hundred words, please."
    body: dict[str, object] = {
        "model": model,
        "messages": [
            {
                "role": "system",
                "content": f"nonce-{nonce:08d} You are a helpful assistant. Answer briefly and to the point.",
            },
            {"role": "user", "content": user if content is None else content},
        ],
        "max_tokens": max_tokens,
        "temperature": 0.7,
        "stream": stream,
    }
    if stream and usage:
        body["stream_options"] = {"include_usage": True}
    return json.dumps(body).encode()


def text(tokens: int) -> str:
    """Make English-looking text of about so many tokens, the same at every call."""
    pick = random.Random(tokens)
    length = tokens * CHARACTERS_PER_TOKEN
    words: list[str] = []
    size = 0
    while size < length:
        words.append(pick.choice(WORDS))
        size += len(words[-1]) + 1
    return " ".join(words)[:length]


def image(size_bytes: int) -> list[object]:
    """Make the content of a message with an image of so many bytes in base64 (a third more on the wire)."""
    data = base64.b64encode(random.Random(size_bytes).randbytes(size_bytes)).decode()
    return [
        {"type": "text", "text": "What is in this picture?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
    ]


def sized(name: str, *, model: str) -> bytes:
    """Make one of the named large bodies: `1k`, `32k`, `100k` tokens, `10m` bytes of image."""
    contents: dict[str, object] = {"10m": image(10_000_000)} if name == "10m" else {}
    if name in {"1k", "32k", "100k"}:
        contents[name] = text(int(name[:-1]) * 1000)
    return chat(model=model, stream=False, max_tokens=32, content=contents[name])
