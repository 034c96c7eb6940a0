# SPDX-License-Identifier: Apache-2.0
"""Launchers and the api: reports taken, desired documents held until they change."""

import json
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from firstkit.core.control import Desired
from firstkit.core.job.record import JobState
from firstkit.ports.store import StoreUnavailable
from firstkit.wire.control import JsonDocuments

pytestmark = pytest.mark.anyio
JOB = "j-000000000001"


async def until(condition: Callable[[], Any]) -> None:
    with anyio.fail_after(30):
        while not condition():  # noqa: ASYNC110 what is waited for belongs to the code under test
            await anyio.sleep(0.005)


def status(job: str = JOB, seq: int = 1, **more: Any) -> dict[str, Any]:
    return {"schema": 1, "job": job, "seq": seq, "uptime_s": 1.0, "state": "RUNNING", **more}


async def put(world, body: Any = None, *, job: str = JOB, token: str = "tok", have: str = "0", wait: str = ""):
    headers = {"authorization": f"Bearer {token}", "x-first-desired-version": have}
    if wait:
        headers["prefer"] = f"wait={wait}"
    content = body if isinstance(body, bytes) else json.dumps(status() if body is None else body).encode()
    return await world.client.put(f"/control/v1/jobs/{job}/status", content=content, headers=headers)


def want(world, version: int, job: str = JOB) -> bytes:
    document = JsonDocuments().write_desired(Desired(job=job, version=version))
    world.store.set_desired(world.term, job=job, version=version, document=document)
    return document


async def test_a_report_is_kept_as_it_came_and_the_controller_is_nudged(world) -> None:
    world.job()
    answer = await put(world)
    assert answer.status_code == 204
    assert [report.document for report in world.store.reports()] == [json.dumps(status()).encode()]
    assert world.nudges.sent == ["report"]


async def test_what_is_desired_is_answered_at_once_when_it_is_newer(world) -> None:
    world.job()
    document = want(world, 3)
    answer = await put(world, wait="25")
    assert (answer.status_code, answer.content) == (200, document)


async def test_without_prefer_nothing_is_held(world) -> None:
    world.job()
    document = want(world, 3)
    answer = await put(world, have="3")
    assert (answer.status_code, answer.content) == (200, document)


async def test_a_launcher_is_held_until_something_newer_is_desired(world) -> None:
    world.job()
    want(world, 3)
    answers: list[Any] = []
    document = b""
    async with anyio.create_task_group() as tasks:
        await tasks.start(world.api.run)

        async def ask() -> None:
            answers.append(await put(world, have="3", wait="25"))

        tasks.start_soon(ask)
        await until(lambda: world.api.feed.waiting == 1)
        assert not answers
        document = want(world, 4)
        world.api.nudged("desired")
        await until(lambda: answers)
        tasks.cancel_scope.cancel()
    assert answers[0].content == document


async def test_a_wait_that_is_over_answers_what_there_is(world) -> None:
    world.job()
    document = want(world, 3)
    answer = await put(world, have="3", wait="0.05")
    assert (answer.status_code, answer.content) == (200, document)


async def test_a_launcher_that_asks_anew_frees_its_older_request(world) -> None:
    world.job()
    answers: list[int] = []
    async with anyio.create_task_group() as tasks:

        async def ask(seq: int) -> None:
            await put(world, status(seq=seq), wait="25")
            answers.append(seq)

        tasks.start_soon(ask, 1)
        await until(lambda: world.api.feed.waiting == 1)
        tasks.start_soon(ask, 2)
        await until(lambda: answers == [1])
        assert world.api.feed.waiting == 1
        world.api.close()
    assert answers == [1, 2]
    assert world.api.feed.waiting == 0


async def test_hundreds_of_launchers_are_held_and_each_is_answered_its_own(world) -> None:
    jobs = [f"j-{number:012d}" for number in range(300)]
    for job in jobs:
        world.job(job)
    answers: dict[str, bytes] = {}
    documents: dict[str, bytes] = {}
    async with anyio.create_task_group() as tasks:
        await tasks.start(world.api.run)

        async def ask(job: str) -> None:
            answers[job] = (await put(world, status(job), job=job, wait="25")).content

        for job in jobs:
            tasks.start_soon(ask, job)
        await until(lambda: world.api.feed.waiting == len(jobs))
        documents = {job: want(world, 1, job) for job in jobs}
        world.api.nudged("desired")
        await until(lambda: len(answers) == len(jobs))
        tasks.cancel_scope.cancel()
    assert answers == documents


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "status:"),
        (b"[]", "status:"),
        (json.dumps(status(schema=9)).encode(), "schema"),
        (json.dumps({**status(), "state": "HAPPY"}).encode(), "state"),
        (json.dumps(status("j-000000000002")).encode(), "another job"),
    ],
)
async def test_a_bad_status_is_refused_with_a_sentence(world, body: bytes, words: str) -> None:
    world.job()
    answer = await put(world, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_status"
    assert words in answer.json()["error"]["message"]
    assert world.store.reports() == []


async def test_a_status_that_is_too_long_is_not_read_to_its_end(world) -> None:
    world.job()
    read = 0

    async def endless():
        nonlocal read
        while True:
            read += 1
            yield b" " * 65536

    answer = await world.client.put(
        f"/control/v1/jobs/{JOB}/status", content=endless(), headers={"authorization": "Bearer tok"}
    )
    assert answer.status_code == 413
    assert read < 30


async def test_each_job_has_its_own_token(world) -> None:
    world.job()
    world.job("j-000000000002", token="other")
    for token in ("other", "tok2", "é"):
        answer = await put(world, token=token) if token.isascii() else await put(world, token="tok%C3")
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_job_token"
    assert world.store.reports() == []


async def test_a_launcher_without_token_and_one_of_no_job_are_told_so(world) -> None:
    world.job()
    answer = await world.client.put(f"/control/v1/jobs/{JOB}/status", content=b"{}")
    assert answer.status_code == 401
    answer = await put(world, status("j-000000000009"), job="j-000000000009")
    assert answer.status_code == 404


async def test_a_job_that_has_ended_is_gone(world) -> None:
    world.job(state=JobState.ENDED)
    answer = await put(world)
    assert answer.status_code == 410
    assert answer.json()["error"]["code"] == "job_gone"


async def test_a_store_that_is_away_is_no_reason_to_end_a_job(world) -> None:
    world.job()
    world.store.away = StoreUnavailable("the store does not answer")
    answer = await put(world)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "store_unavailable"


async def test_a_strangers_report_is_turned_away_before_it_is_looked_at(world) -> None:
    world.job()
    assert (await put(world, b"no json", token="guessed")).status_code == 401
    assert (await put(world, b"no json", job="j-000000000002")).status_code == 404
    assert (await put(world, b"no json")).json()["error"]["code"] == "invalid_status"


@pytest.mark.parametrize(
    "have", ["9" * 5000, "-1", "1.0", "\u0661".encode()], ids=["endless", "minus", "dot", "arabic"]
)
async def test_a_version_that_is_no_number_is_told(world, have) -> None:
    world.job()
    assert (await put(world, have=have)).status_code == 400


async def test_a_count_of_reports_that_no_store_holds_is_told(world) -> None:
    world.job()
    assert (await put(world, status(seq=2**63))).json()["error"]["code"] == "invalid_status"
