# SPDX-License-Identifier: Apache-2.0
"""A streamed chat as the commands read it: the gateway's words while it waits, pieces of text, then whole or cut."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from firstkit.core.errors import UpstreamError

if TYPE_CHECKING:
    from firstkit.adapters.clients.http import Client

IDLE_S = 120.0
"""A gateway says something every few seconds while a request waits; engines may think for a while."""
_WORD = re.compile(r'(\w+)=(?:"([^"]*)"|(\S+))')


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What the gateway says while the request waits."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A piece of the answer; `thought` when it is the model's reasoning."""

    text: str
    thought: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The answer is whole. `reason` is the engine's finish reason, `usage` its token counts when it told them."""

    reason: str | None
    usage: dict[str, Any] | None


def waiting_words(comment: str) -> str | None:
    """Put the gateway's comment into words; None for other comments."""
    kind, _, rest = comment.partition(" ")
    if kind != "first":
        return None
    facts = {match[1]: match[2] or match[3] or "" for match in _WORD.finditer(rest)}
    if facts.get("state") == "sent":
        return f"sent to {facts.get('cluster', 'a cluster')}"
    parts = [facts.get("state", "waiting")]
    if facts.get("position"):
        parts.append(f"place {facts['position']}")
    if facts.get("progress"):
        parts.append(facts["progress"])
    if facts.get("text"):
        parts.append(facts["text"])
    expected = facts.get("expected")
    if expected:
        parts.append("time unknown" if expected == "unknown" else f"about {expected}")
    return ", ".join(parts)


def chat(client: Client, body: dict[str, Any], *, max_wait_s: float | None = None) -> Iterator[Waiting | Piece | End]:
    """Send a streamed chat and yield what comes.

    Raises UpstreamError for an error event, and for a stream that ends before its end: a cut answer is never whole.
    """
    from firstkit.adapters.clients.http import events

    headers = {} if max_wait_s is None else {"x-first-max-wait": f"{max_wait_s:g}"}
    path = "/v1/chat/completions"
    with client.stream("POST", path, idle_s=IDLE_S, json={**body, "stream": True}, headers=headers) as answer:
        reason: str | None = None
        usage: dict[str, Any] | None = None
        for event, data in events(answer):
            if event == "":
                words = waiting_words(data)
                if words:
                    yield Waiting(text=words)
                continue
            if data == "[DONE]":
                yield End(reason=reason, usage=usage)
                return
            chunk = _chunk(data)
            usage = chunk.get("usage") or usage
            for choice in cast("list[dict[str, Any]]", chunk.get("choices") or []):
                reason = choice.get("finish_reason") or reason
                yield from _pieces(choice.get("delta") or {})
    raise UpstreamError("the answer broke off before its end; send the request again", code="cut")


def _chunk(data: str) -> dict[str, Any]:
    try:
        chunk: Any = json.loads(data)
    except ValueError:
        raise UpstreamError("the answer holds something that is no JSON", code="bad_stream") from None
    if isinstance(chunk, dict) and "error" in chunk:
        error = cast("dict[str, Any]", chunk)["error"]
        message = cast("dict[str, Any]", error).get("message") if isinstance(error, dict) else error
        raise UpstreamError(str(message), code="engine_failed")
    return cast("dict[str, Any]", chunk) if isinstance(chunk, dict) else {}


def _pieces(delta: dict[str, Any]) -> Iterator[Piece]:
    thought = delta.get("reasoning_content") or delta.get("reasoning")
    if thought:
        yield Piece(text=str(thought), thought=True)
    if delta.get("content"):
        yield Piece(text=str(delta["content"]))
