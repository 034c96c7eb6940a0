# SPDX-License-Identifier: Apache-2.0
"""Bodies of requests that wait: in memory up to a bound, then in unlinked files, then refused; released in time."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from firstkit.core.settings import GatewaySettings
from firstkit.testing.planes import MODEL, PlainEngine, plane_world
from firstkit.testing.raw_client import request
from firstkit.testing.raw_engine import STREAM_HEAD, Visit, answer, chunked, raw_engine, says

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("every_link")]

BIG = json.dumps({"pad": "x" * 700_000, "model": "demo-alias", "messages": [], "more": "é\\" * 1000}).encode()


def tight(folder: Path, **more: object) -> GatewaySettings:
    plain = {"body_memory": 300_000, "body_disk": 2_000_000, "uploads": str(folder)}
    return GatewaySettings(**{**plain, **more})  # type: ignore[arg-type]


def open_files(folder: Path) -> list[str]:
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.append(os.readlink(link))  # noqa: PTH115
        except OSError:
            continue
    return [name for name in found if name.startswith(str(folder)) and "deleted" in name]


@pytest.mark.parametrize("chunks", [False, True])
async def test_a_body_beyond_the_memory_lies_in_an_unlinked_file_until_the_engine_answers(
    tmp_path: Path, chunks: bool
) -> None:
    go_on, end = asyncio.Event(), asyncio.Event()

    async def script(visit: Visit) -> None:
        await go_on.wait()
        await visit.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
        await end.wait()
        await visit.send(b"{}")

    async with raw_engine(tmp_path) as engine, plane_world(tmp_path, settings=tight(tmp_path)) as world:
        world.serve(engine)
        engine.script = script
        async with world.client() as client:
            raw = request(BIG)
            if chunks:
                raw = raw[: -len(BIG)].replace(
                    b"content-length: %d" % len(BIG), b"transfer-encoding: chunked"
                ) + chunked(*(BIG[at : at + 9999] for at in range(0, len(BIG), 9999)))
            await client.send(raw)
            visit = await engine.visit()
            assert world.plane.bodies.memory == 0
            assert world.plane.bodies.disk == len(BIG)
            assert len(open_files(tmp_path)) == 1
            go_on.set()
            await client.read_until(b"\r\n\r\n")
            assert world.plane.bodies.disk == 0
            assert open_files(tmp_path) == []
            end.set()
            assert await client.read_until(b"{}") == b"{}"
    assert visit.body == BIG.replace(b'"demo-alias"', b'"org/demo"')
    assert open_files(tmp_path) == []


async def test_a_spilled_body_is_spliced_and_sent_again_like_any_other(tmp_path: Path) -> None:
    body = json.dumps({"pad": "x" * 700_000, "model": "demo-alias", "stream": True}).encode()

    async def unwell(visit: Visit) -> None:
        await visit.send(answer(b"{}", status="503 Service Unavailable"))

    manners = PlainEngine(usage_on_request=True)
    async with (
        raw_engine(tmp_path) as one,
        raw_engine(tmp_path) as two,
        plane_world(tmp_path, settings=tight(tmp_path), engine=manners) as world,
    ):
        world.serve(one, two)
        one.script = unwell
        two.script = says(STREAM_HEAD + chunked(b"data: [DONE]\n\n"))
        async with world.client() as client:
            for _ in range(4):
                await client.send(request(body))
                assert (await client.answer()).body == b"data: [DONE]\n\n"
    expected = b'{"stream_options":{"include_usage":true},' + body[1:].replace(b"demo-alias", b"org/demo")
    assert {visit.body for visit in (*one.visits, *two.visits)} == {expected}
    assert len(two.visits) == 4


async def test_bodies_beyond_memory_and_disk_are_refused(tmp_path: Path) -> None:
    async with (
        raw_engine(tmp_path) as engine,
        plane_world(tmp_path, settings=tight(tmp_path, body_disk=1_000_000)) as world,
    ):
        world.publish()
        async with world.client() as first, world.client() as second:
            await first.send(request(BIG))
            await world.until(lambda: world.dispatcher.waiting == 1)
            sending = asyncio.create_task(second.send(request(BIG)))
            got = await second.answer()
            assert (got.status, got.code, got.headers["retry-after"]) == (429, "body_memory_full", "2")
            await asyncio.gather(sending, return_exceptions=True)
            world.serve(engine)
            assert (await first.answer()).status == 200


async def test_without_a_folder_a_body_beyond_the_memory_is_refused(tmp_path: Path) -> None:
    async with plane_world(tmp_path, settings=tight(tmp_path, uploads="")) as world, world.client() as client:
        sending = asyncio.create_task(client.send(request(BIG)))
        assert (await client.answer()).code == "body_memory_full"
        await asyncio.gather(sending, return_exceptions=True)


async def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    async with (
        plane_world(tmp_path, settings=tight(tmp_path, uploads=str(tmp_path / "gone"))) as world,
        world.client() as client,
    ):
        sending = asyncio.create_task(client.send(request(BIG)))
        got = await client.answer()
        assert (got.status, got.code) == (503, "body_not_kept")
        await asyncio.gather(sending, return_exceptions=True)


async def test_a_client_that_leaves_with_a_spilled_body_leaves_no_file(tmp_path: Path) -> None:
    async with plane_world(tmp_path, settings=tight(tmp_path)) as world:
        world.publish()
        async with world.client() as client:
            await client.send(request(BIG))
            await world.until(lambda: world.dispatcher.waiting == 1)
        await world.until(lambda: not world.plane.bodies.disk)
        async with world.client() as client:
            await client.send(request(BIG)[:-10])
            await world.until(lambda: world.plane.bodies.disk)
        await world.until(lambda: not world.plane.bodies.disk)
        await world.until(lambda: not open_files(tmp_path))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (BIG[:-2], "invalid_json"),
        (BIG.replace(b'"messages": []', b'"model": "x"'), "ambiguous_field"),
        (BIG[:-1] + b',"x":"\xff"}', "invalid_encoding"),
        (BIG.replace(b"demo-alias", b"nothing"), "model_not_found"),
    ],
)
async def test_a_spilled_body_is_judged_like_any_other(tmp_path: Path, body: bytes, code: str) -> None:
    async with plane_world(tmp_path, settings=tight(tmp_path)) as world, world.client() as client:
        await client.send(request(body))
        assert (await client.answer()).code == code


async def test_the_bodies_of_many_that_wait_stay_within_the_memory(tmp_path: Path) -> None:
    body = json.dumps({"model": MODEL, "messages": [], "pad": "x" * 40_000}).encode()
    settings = tight(tmp_path, queue=100, queue_per_principal=100)
    async with raw_engine(tmp_path) as engine, plane_world(tmp_path, settings=settings) as world:
        world.publish()

        async def one() -> int:
            async with world.client() as client:
                await client.send(request(body))
                return (await client.answer()).status

        asking = [asyncio.create_task(one()) for _ in range(30)]
        await world.until(lambda: world.dispatcher.waiting == 30)
        assert 0 < world.plane.bodies.memory <= 300_000
        assert world.plane.bodies.memory + world.plane.bodies.disk == 30 * len(body)
        world.serve(engine)
        assert await asyncio.gather(*asking) == [200] * 30
    assert {visit.body for visit in engine.visits} == {body}
