# SPDX-License-Identifier: Apache-2.0
"""An OpenAI-compatible engine that does what each request's own text asks for, at the pace that it asks for.

The last user message holds words such as `tokens=20 every=0.1`: how many tokens, and the seconds between two; `first=S`
waits before the head, `break=N` breaks the connection after N tokens, `die=N` ends the whole process then, `status=503`
answers with that status, `backwards=TEXT` begins with it, reversed, `call=F` calls the tool F (chat alone). `GET /seen`
returns every request as it came, byte for byte. Token i of an answer is `w<i> `.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"

_CHUNK: dict[str, Any] = {"id": "c1", "object": "chat.completion.chunk", "created": 1}


class Wish:
    """What a request's text asks for."""

    def __init__(self, body: dict[str, Any]) -> None:
        text = _text(body)
        words = dict(word.split("=", 1) for word in text.split() if "=" in word)
        self.tokens = int(words.get("tokens", "3"))
        self.every_s = float(words.get("every", "0"))
        self.first_s = float(words.get("first", "0"))
        self.break_after = int(words["break"]) if "break" in words else None
        self.die_after = int(words["die"]) if "die" in words else None
        self.status = int(words.get("status", "200"))
        self.says = words.get("backwards", "")[::-1]
        self.call = words.get("call", "")
        self.stream = bool(body.get("stream"))
        self.usage = bool((body.get("stream_options") or {}).get("include_usage"))


def _text(body: dict[str, Any]) -> str:
    """Find the last thing the user said, in each of the shapes of a request."""
    given = body.get("messages") or body.get("input") or body.get("prompt") or ""
    if isinstance(given, list):
        given = given[-1] if given else ""
    if isinstance(given, dict):
        given = given.get("content", "")
    if isinstance(given, list):
        given = " ".join(part.get("text", "") for part in given if isinstance(part, dict))
    return str(given)


class PacedEngine:
    """The server; one coroutine for each connection."""

    def __init__(self, name: str, *, key: str = "") -> None:
        self.name = name
        self.key = key
        self.seen: list[dict[str, str]] = []
        self.running = 0
        self.most_running = 0
        self.cut_off = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's requests."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.decode("latin-1").split("\r\n")
                headers = {
                    name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
                }
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                method, target, _ = lines[0].split(" ", 2)
                if self.key and headers.get("authorization") != f"Bearer {self.key}":
                    await _plain(writer, 401, {"error": {"message": "no key"}})
                elif not await self._answer(writer, f"{method} {target.partition('?')[0]}", head, body):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, writer: asyncio.StreamWriter, what: str, head: bytes, body: bytes) -> bool:
        """Answer one request; False when the connection is at its end."""
        method, path = what.split(" ")
        if path == "/health":
            return await _plain(writer, 200, {"status": "ok"})
        if path == "/v1/models":
            return await _plain(writer, 200, {"object": "list", "data": [{"id": self.name, "object": "model"}]})
        if path == "/seen":
            told = {"seen": self.seen, "running": self.running, "most": self.most_running, "cut_off": self.cut_off}
            return await _plain(writer, 200, told)
        if method != "POST":
            return await _plain(writer, 404, {"error": {"message": "nothing here"}})
        self.seen.append({"head": base64.b64encode(head).decode(), "body": base64.b64encode(body).decode()})
        wish = Wish(json.loads(body))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await self._generate(writer, path, wish)
        except (ConnectionError, asyncio.CancelledError):
            self.cut_off += 1
            raise
        finally:
            self.running -= 1

    async def _generate(self, writer: asyncio.StreamWriter, path: str, wish: Wish) -> bool:
        await asyncio.sleep(wish.first_s)
        if wish.status != 200:
            return await _plain(writer, wish.status, {"error": {"message": "as asked for", "type": "x", "code": None}})
        if not wish.stream:
            for number in range(wish.tokens):
                self._perhaps_die(wish, number)
                await asyncio.sleep(wish.every_s)
            text = wish.says + "".join(f"w{number} " for number in range(wish.tokens))
            whole = _whole(path, self.name, text, wish.tokens)
            if wish.call:
                whole["choices"][0]["message"]["tool_calls"] = _calls(wish.call)
            answer = json.dumps(whole).encode()
            if wish.break_after is not None:
                writer.write(_head(200, "application/json", f"content-length: {len(answer)}") + answer[:20])
                await writer.drain()
                writer.transport.abort()
                return False
            writer.write(_head(200, "application/json", f"content-length: {len(answer)}") + answer)
            await writer.drain()
            return True
        writer.write(_head(200, "text/event-stream", "transfer-encoding: chunked"))
        for event in _opening(path, self.name):
            _write_chunk(writer, event)
        for number in range(wish.tokens):
            if number == wish.break_after:
                await writer.drain()
                writer.transport.abort()
                return False
            self._perhaps_die(wish, number)
            _write_chunk(writer, _token(path, self.name, (wish.says if number == 0 else "") + f"w{number} "))
            await writer.drain()
            if writer.transport.is_closing():
                raise ConnectionError
            await asyncio.sleep(wish.every_s)
        if wish.call:
            choice = {"index": 0, "delta": {"tool_calls": _calls(wish.call)}, "finish_reason": "tool_calls"}
            _write_chunk(writer, _event(_CHUNK | {"model": self.name, "choices": [choice]}))
        for event in _closing(path, self.name, wish):
            _write_chunk(writer, event)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    def _perhaps_die(self, wish: Wish, number: int) -> None:
        if number == wish.die_after:
            os.kill(os.getpid(), signal.SIGKILL)


async def _plain(writer: asyncio.StreamWriter, status: int, body: dict[str, Any]) -> bool:
    data = json.dumps(body).encode()
    writer.write(_head(status, "application/json", f"content-length: {len(data)}") + data)
    await writer.drain()
    return True


def _head(status: int, content_type: str, framing: str) -> bytes:
    return f"HTTP/1.1 {status} Status\r\ncontent-type: {content_type}\r\n{framing}\r\n\r\n".encode()


def _write_chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def _event(data: dict[str, Any] | str, name: str = "") -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}


def _whole(path: str, model: str, text: str, tokens: int) -> dict[str, Any]:
    if path == MESSAGES:
        content = [{"type": "text", "text": text}]
        usage = {"input_tokens": 7, "output_tokens": tokens}
        more = {"stop_reason": "end_turn", "stop_sequence": None, "usage": usage}
        return {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": content, **more}
    if path == RESPONSES:
        part = {"type": "output_text", "text": text, "annotations": []}
        item = {"type": "message", "id": "m1", "status": "completed", "role": "assistant", "content": [part]}
        usage = {"input_tokens": 7, "output_tokens": tokens, "total_tokens": 7 + tokens}
        fixed = {"id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "error": None}
        more = {"incomplete_details": None, "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
        return fixed | more | {"model": model, "output": [item], "usage": usage}
    if path == COMPLETIONS:
        choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}
        kind = "text_completion"
    else:
        message = {"role": "assistant", "content": text}
        choice, kind = {"index": 0, "message": message, "finish_reason": "stop"}, "chat.completion"
    return {"id": "c1", "object": kind, "created": 1, "model": model, "choices": [choice], "usage": _usage(tokens)}


def _opening(path: str, model: str) -> list[bytes]:
    if path == MESSAGES:
        message = _whole(MESSAGES, model, "", 0) | {"content": [], "stop_reason": None}
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        start = {"type": "message_start", "message": message}
        return [_event(start, "message_start"), _event(block, "content_block_start")]
    if path == RESPONSES:
        response = _whole(RESPONSES, model, "", 0) | {"status": "in_progress", "output": [], "usage": None}
        created = {"type": "response.created", "sequence_number": 0, "response": response}
        return [_event(created, "response.created")]
    return []


def _token(path: str, model: str, text: str) -> bytes:
    if path == MESSAGES:
        delta = {"type": "text_delta", "text": text}
        return _event({"type": "content_block_delta", "index": 0, "delta": delta}, "content_block_delta")
    if path == RESPONSES:
        more = {"item_id": "m1", "output_index": 0, "content_index": 0, "sequence_number": 1, "logprobs": []}
        name = "response.output_text.delta"
        return _event({"type": name, "delta": text, **more}, name)
    if path == COMPLETIONS:
        choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": None}
        return _event({"id": "c1", "object": "text_completion", "created": 1, "model": model, "choices": [choice]})
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return _event(_CHUNK | {"model": model, "choices": [choice]})


def _calls(name: str) -> list[dict[str, Any]]:
    function = {"name": name, "arguments": '{"city": "Rome"}'}
    return [{"index": 0, "id": "call_1", "type": "function", "function": function}]


def _closing(path: str, model: str, wish: Wish) -> list[bytes]:
    if path == MESSAGES:
        delta = {"stop_reason": "end_turn", "stop_sequence": None}
        end = {"type": "message_delta", "delta": delta, "usage": {"output_tokens": wish.tokens}}
        stop = _event({"type": "content_block_stop", "index": 0}, "content_block_stop")
        return [stop, _event(end, "message_delta"), _event({"type": "message_stop"}, "message_stop")]
    if path == RESPONSES:
        response = _whole(RESPONSES, model, "".join(f"w{number} " for number in range(wish.tokens)), wish.tokens)
        name = "response.completed"
        return [_event({"type": name, "sequence_number": 2, "response": response}, name)]
    more: list[bytes] = []
    if wish.usage:
        more = [_event(_CHUNK | {"model": model, "choices": [], "usage": _usage(wish.tokens)})]
    return [*more, _event("[DONE]")]


async def _run(options: argparse.Namespace, key: str) -> None:
    engine = PacedEngine(options.name, key=key)
    stop = asyncio.Event()
    until = time.monotonic() + options.load_s
    steps = 10
    for step in range(1, steps + 1):
        await asyncio.sleep(max(0.0, until - time.monotonic()) / (steps - step + 1))
        print(f"loading {100 * step // steps}%", flush=True)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, stop.set)
    if options.socket:
        server = await asyncio.start_unix_server(engine.serve, options.socket)
    else:
        server = await asyncio.start_server(engine.serve, "127.0.0.1", options.port, backlog=2048)
        print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await stop.wait()
        server.close()
        while engine.running:  # noqa: ASYNC110 — as a good engine does: what is in flight is finished
            await asyncio.sleep(0.02)


def main() -> None:
    """Run until TERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--socket", default="")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--key-file", default="")
    parser.add_argument("--load-s", type=float, default=0.0)
    parser.add_argument("--unless", default="", help="a file; while it exists, end with an error")
    parser.add_argument("--version", default="1", help="means nothing; another one is another command line")
    options = parser.parse_args()
    if options.unless and Path(options.unless).exists():
        print("the cat has eaten the weights", flush=True)
        sys.exit(3)
    asyncio.run(_run(options, Path(options.key_file).read_text().strip() if options.key_file else ""))
    os._exit(0)


if __name__ == "__main__":
    main()
