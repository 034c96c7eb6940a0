# SPDX-License-Identifier: Apache-2.0
"""A thousand streams at once, on raw connections in one event loop, each watched to its last byte."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass


@dataclass
class Watched:
    """One stream: what came, and whether its framing was whole."""

    data: bytes = b""
    whole: bool = False
    error: str = ""

    @property
    def tokens(self) -> int:
        return self.data.count(b'"delta"')


class Crowd:
    """Opens streams at a steady pace; `begun` is set once each has had its first token."""

    def __init__(self, port: int, *, key: str, body: dict[str, object], count: int) -> None:
        data = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        head += f"content-type: application/json\r\nconnection: close\r\ncontent-length: {len(data)}\r\n\r\n"
        self._request = head.encode() + data
        self._port = port
        self.streams = [Watched() for _ in range(count)]
        self.begun = asyncio.Event()
        self._begun = 0

    async def run(self) -> None:
        """Run them all to their ends."""
        async with asyncio.TaskGroup() as group:
            for number, stream in enumerate(self.streams):
                group.create_task(self._one(stream))
                if number % 25 == 24:
                    await asyncio.sleep(0.02)

    async def _one(self, stream: Watched) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError as error:
            stream.error = repr(error)
            return
        try:
            writer.write(self._request)
            while piece := await reader.read(65536):
                if not stream.data:
                    self._begun += 1
                    if self._begun == len(self.streams):
                        self.begun.set()
                stream.data += piece
            stream.whole = stream.data.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        except OSError as error:
            stream.error = repr(error)
        finally:
            writer.close()

    def assert_whole(self, tokens: int) -> None:
        """Fail unless every stream had all its tokens, its end, and its framing's end."""
        bad = [one for one in self.streams if not one.whole or one.tokens != tokens or one.error]
        assert not bad, (
            f"{len(bad)} of {len(self.streams)}, first: {bad[0].error} {bad[0].tokens} {bad[0].data[-400:]!r}"
        )
