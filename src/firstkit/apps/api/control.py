# SPDX-License-Identifier: Apache-2.0
"""`PUT /control/v1/jobs/{job}/status`: a launcher reports and is told what is wanted of it, held until that changes."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Annotated

import anyio
from fastapi import APIRouter, Header, Request, Response

from firstkit.apps.api.desired_feed import DesiredFeed
from firstkit.apps.api.parts import Nudges, StoreCalls
from firstkit.core.errors import InvalidRequest, NotFound, TooLarge, Unauthenticated
from firstkit.ports.store import Store
from firstkit.wire.control import decode_status

STATUS_LIMIT = 1_000_000
"""A status of a few hundred instances with their last log lines has a tenth of this."""
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*(\d{1,6}(?:\.\d+)?)")
_VERSION = re.compile(r"[0-9]{1,18}")


async def bounded_body(request: Request, *, limit: int) -> bytes:
    """Read a request's body; TooLarge as soon as it is known to be longer than `limit` bytes."""
    sentence = f"the body is longer than {limit} bytes"
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limit:
        raise TooLarge(sentence)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise TooLarge(sentence)
    return bytes(body)


def _admit(store: Store, *, job: str, token: str) -> None:
    """Let in the launcher of a job that is still wanted; nobody else's body is read."""
    found = store.job_token_digest(job)
    if found is None:
        raise NotFound("there is no such job", code="job_not_found")
    digest, ended = found
    if not digest or not hmac.compare_digest(hashlib.sha256(token.encode()).hexdigest(), digest.lower()):
        raise Unauthenticated("that is not this job's token", code="invalid_job_token")
    if ended:
        raise InvalidRequest("this job has ended or has been replaced; end it", code="job_gone")


def _report(store: Store, *, job: str, seq: int, document: bytes) -> tuple[int, bytes] | None:
    """Keep the report, and return what is desired; one trip to the store's thread."""
    store.put_report(job=job, seq=seq, document=document)
    return store.desired(job)


def _bearer(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("a launcher sends its job's token as `Authorization: Bearer …`", code="missing_job_token")
    return token.strip()


def wait_s(prefer: str, *, limit_s: float) -> float:
    """Read `Prefer: wait=N` (RFC 7240); 0 when it is not there, at most `limit_s`."""
    match = _WAIT.search(prefer)
    return min(float(match[1]), limit_s) if match else 0.0


def control_router(store: StoreCalls, feed: DesiredFeed, nudges: Nudges, *, hold_limit_s: float) -> APIRouter:
    """Make the launchers' one route."""
    router = APIRouter(include_in_schema=False)

    @router.put("/control/v1/jobs/{job}/status")
    async def report(  # pyright: ignore[reportUnusedFunction]
        job: str,
        request: Request,
        authorization: Annotated[str, Header()] = "",
        prefer: Annotated[str, Header()] = "",
        x_first_desired_version: Annotated[str, Header()] = "0",
    ) -> Response:
        token = _bearer(authorization)
        if not _VERSION.fullmatch(x_first_desired_version):
            raise InvalidRequest("X-First-Desired-Version is a number", param="X-First-Desired-Version")
        have = int(x_first_desired_version)
        await store.call(lambda opened: _admit(opened, job=job, token=token))
        body = await bounded_body(request, limit=STATUS_LIMIT)
        status = decode_status(body)
        if status.job != job:
            raise InvalidRequest("the status is of another job than the path says", code="invalid_status", param="job")
        desired = await store.call(lambda opened: _report(opened, job=job, seq=status.seq, document=body))
        nudges.send("report")
        within_s = wait_s(prefer, limit_s=hold_limit_s)
        if within_s > 0 and (desired is None or desired[0] <= have):
            desired = await _hold(request, feed, job=job, than=have, within_s=within_s) or desired
        if desired is None:
            return Response(status_code=204)
        return Response(desired[1], media_type="application/json")

    return router


async def _hold(
    request: Request, feed: DesiredFeed, *, job: str, than: int, within_s: float
) -> tuple[int, bytes] | None:
    """Wait for a newer desired document, no longer than the launcher itself does."""
    found: tuple[int, bytes] | None = None
    async with anyio.create_task_group() as tasks:

        async def until_gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        tasks.start_soon(until_gone)
        found = await feed.newer(job, than=than, within_s=within_s)
        tasks.cancel_scope.cancel()
    return found
