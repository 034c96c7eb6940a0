# SPDX-License-Identifier: Apache-2.0
"""`/api/docs`: the API's reference in a browser, from files of our own, so that it works without any internet."""

from __future__ import annotations

import gzip
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from firstkit.core.errors import NotFound

_FOLDER = "firstkit.apps.api.swagger_ui"
_TYPES = {"swagger-ui-bundle.js": "text/javascript; charset=utf-8", "swagger-ui.css": "text/css; charset=utf-8"}
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SAFE = {"content-security-policy": _CSP, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>firstkit API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" href="data:,">
</head>
<body>
<main id="api"></main>
<noscript>This page needs JavaScript; the description itself is at <a href="openapi.json">openapi.json</a>.</noscript>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """\
"use strict";
SwaggerUIBundle({
  url: "openapi.json", dom_id: "#api", deepLinking: true, docExpansion: "list", persistAuthorization: false,
  defaultModelsExpandDepth: 0, validatorUrl: null
});
"""


@cache
def _packed(name: str) -> bytes:
    return files(_FOLDER).joinpath(f"{name}.gz").read_bytes()


def pages_router() -> APIRouter:
    """Make the page's routes; nothing in them is secret, so nobody has to sign in."""
    router = APIRouter(include_in_schema=False)

    @router.get("/api/docs")
    async def docs() -> HTMLResponse:  # pyright: ignore[reportUnusedFunction]
        return HTMLResponse(_PAGE, headers=_SAFE)

    @router.get("/api")
    @router.get("/api/")
    async def start() -> RedirectResponse:  # pyright: ignore[reportUnusedFunction]
        return RedirectResponse("/api/docs")

    @router.get("/api/docs/start.js")
    async def script() -> Response:  # pyright: ignore[reportUnusedFunction]
        return Response(_START, media_type="text/javascript", headers=_SAFE)

    @router.get("/api/docs/{name}")
    async def file(name: str, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        if name not in _TYPES:
            raise NotFound(f"there is no {name[:100]!r} here")
        body, headers = _packed(name), {"cache-control": "public, max-age=86400", "vary": "accept-encoding"} | _SAFE
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["content-encoding"] = "gzip"
        else:
            body = gzip.decompress(body)
        return Response(body, media_type=_TYPES[name], headers=headers)

    return router
