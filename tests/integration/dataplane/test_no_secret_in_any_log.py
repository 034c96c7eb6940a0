# SPDX-License-Identifier: Apache-2.0
"""A canary secret down every path of the data plane: it is in no log line, no record, no metric and no answer."""

import asyncio
import logging
from dataclasses import asdict
from pathlib import Path

import pytest

from firstkit.core.settings import GatewaySettings
from firstkit.testing.planes import MODEL, Keys, plane_world
from firstkit.testing.raw_client import request
from firstkit.testing.raw_engine import STREAM_HEAD, Visit, answer, chunked, raw_engine, says

pytestmark = pytest.mark.anyio

CANARY = "canary-7f3a91"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": CANARY}]}
SECRETS = {"cookie": CANARY, "x-api-key": CANARY, "x-other": CANARY}


async def test_a_secret_in_headers_bodies_and_answers_is_written_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = GatewaySettings(
        uploads=str(tmp_path), body_memory=1000, upstream_idle_s=0.2, hold_head_s=0.02, comment_every_s=0.02
    )
    keys = Keys({}, slow={})
    told: list[bytes] = []

    async def broken(visit: Visit) -> None:
        await visit.send(STREAM_HEAD + chunked(b"data: " + CANARY.encode() + b"\n\n", end=False))
        visit.reset()

    async def silent(visit: Visit) -> None:
        await visit.wait_gone()

    secret_answer = f'{{"error":{{"message":"{CANARY}"}}}}'.encode()
    scripts = [
        says(answer(secret_answer)),
        says(answer(secret_answer, status="500 Internal Server Error")),
        says(answer(secret_answer, status="503 Service Unavailable")),
        says(CANARY.encode() + b"\r\n\r\n"),
        broken,
        silent,
    ]
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path, settings=settings) as world:
        for script in scripts:
            for stream in (False, True):
                world.serve(engine)
                engine.script = script
                async with world.client() as client:
                    await client.send(request({**CHAT, "stream": stream}, headers={"cookie": CANARY}))
                    await engine.visit(len(engine.visits))
                    world.hurry_upstreams()
                    await client.answer()
                world.publish()
                world.dispatcher.alive("i-0")
        records = [*world.records]
        metrics = world.telemetry.scrape()[1]
    async with plane_world(tmp_path, settings=settings, keys=keys) as world:
        keys.error = None
        for raw in (
            request(CHAT, key=CANARY, headers={"cookie": CANARY}),
            request(CHAT, key=None, headers=SECRETS),
            request(CHAT, path=f"/{CANARY}"),
            request(b"", path=f"/v1/models/{CANARY}", method="GET", key=CANARY),
            f"{CANARY} / HTTP/1.1\r\n\r\n".encode(),
            f"GET / HTTP/1.1\r\nhost: x\r\n{CANARY}\r\n\r\n".encode(),
            f"GET / HTTP/1.1\r\nhost: x\r\nx: {CANARY}\x00\r\n\r\n".encode(),
        ):
            async with world.client() as client:
                await client.send(raw)
                got = await client.answer()
                told.append(got.body + repr(got.headers).encode())
        records += world.records
        metrics += world.telemetry.scrape()[1]
    keys.error = None
    await asyncio.sleep(0)
    assert records
    assert CANARY not in repr([asdict(record) for record in records])
    assert CANARY.encode() not in metrics
    assert CANARY not in caplog.text
    out, err = capfd.readouterr()
    assert CANARY not in out + err
    assert not [answered for answered in told if CANARY.encode() in answered]
