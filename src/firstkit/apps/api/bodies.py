# SPDX-License-Identifier: Apache-2.0
"""No route of the api takes a long body, and none is kept in memory before anybody has looked at who sends it."""

from __future__ import annotations

import contextlib

from fastapi import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from firstkit.apps.api.answers import answer
from firstkit.core.errors import TooLarge

BODY_LIMIT = 1_000_000
"""The longest bodies are configuration files and launchers' reports."""


class BodyLimit:
    """Refuse longer bodies: at once when a length is given, otherwise as soon as it is known."""

    def __init__(self, app: ASGIApp, *, limit: int = BODY_LIMIT) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its body counted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sentence = f"the body is longer than {self._limit} bytes"
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length[:19]) > self._limit:
            await answer(TooLarge(sentence))(scope, receive, send)
            return
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                if taken > self._limit:
                    raise HTTPException(413, sentence)  # FastAPI lets none but its own error through
            return message

        with contextlib.suppress(ClientDisconnect):  # in the middle of its body: nobody is left to answer
            await self._app(scope, counted, send)
