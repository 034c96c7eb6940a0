# SPDX-License-Identifier: Apache-2.0
"""Errors of the api as answers: the surface's error body for every one, whoever raised it."""

from __future__ import annotations

import json
import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from firstkit.core.errors import ConfigError, FirstError, InternalError, InvalidRequest, NotFound, SiteError, TooLarge
from firstkit.wire.admin.revisions import FindingView
from firstkit.wire.problems import problem

log = logging.getLogger("firstkit.api")


def answer(error: FirstError) -> Response:
    """Turn an error of ours into a response; a wrong configuration lists all of its mistakes beside the sentence."""
    made = problem(error)
    body = made.body
    if isinstance(error, ConfigError):
        document: dict[str, Any] = json.loads(body)
        document["error"]["findings"] = [FindingView.of(item).model_dump() for item in error.findings]
        body = json.dumps(document).encode()
    return Response(body, status_code=made.status, headers=dict(made.headers), media_type="application/json")


def install_answers(app: FastAPI) -> None:
    """Answer every error in the surface's body."""

    @app.exception_handler(FirstError)
    async def ours(_request: Request, error: FirstError) -> Response:  # pyright: ignore[reportUnusedFunction]
        if isinstance(error, (InternalError, SiteError)):
            log.warning("request_failed code=%s", error.code)
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(  # pyright: ignore[reportUnusedFunction]
        _request: Request, error: RequestValidationError
    ) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in {"body", "query", "path", "header"})
        return answer(InvalidRequest(f"{where or 'the body'}: {first['msg']}", param=where or None))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:  # pyright: ignore[reportUnusedFunction]
        if error.status_code == 404:
            return answer(NotFound(f"there is nothing at {request.url.path}; /api/docs lists what there is"))
        if error.status_code == 405:
            allowed = tuple((error.headers or {}).items())
            sentence = f"{request.method} does nothing at {request.url.path}"
            return answer(InvalidRequest(sentence, code="method_not_allowed", headers=allowed))
        if error.status_code == 413:
            return answer(TooLarge(str(error.detail)))
        return answer(InvalidRequest(str(error.detail)))

    @app.exception_handler(Exception)
    async def unforeseen(_request: Request, error: Exception) -> Response:  # pyright: ignore[reportUnusedFunction]
        log.error("request_crashed error=%s", type(error).__name__, exc_info=error)
        return answer(InternalError("firstkit failed to answer this; its log says where"))
