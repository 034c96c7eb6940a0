# SPDX-License-Identifier: Apache-2.0
"""Settings, catalog and the gateway itself change under traffic, and no request is lost or cut."""

import asyncio
import contextlib
import json
import signal
import threading
from collections.abc import Generator
from typing import Any

import pytest
from crowd import Crowd
from installation import Installation, installation
from paced import Beside, Stream, asks, beside, config, paced

pytestmark = pytest.mark.timeout(180)

MANY = 1000


@pytest.fixture(scope="module")
def double() -> Generator[Beside]:
    with beside("beside") as engine:
        yield engine


def catalog(double: Beside, **changes: Any) -> dict[str, Any]:
    """Write the configuration of these tests, with some deployments changed, added, or (None) taken away."""
    deployments = {
        "rolled": paced("rolled"),
        "leaving": paced("leaving"),
        "slow": paced("slow", min=0, arguments=("--load-s", "3")),
        "beside": double.deployment(),
    } | changes
    gateway = {"hold_head": "300ms", "comment_every": "300ms"}
    kept = {name: item for name, item in deployments.items() if item is not None}
    return config(deployments=kept, gateway=gateway)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, double: Beside) -> Generator[Installation]:
    with installation(tmp_path_factory.mktemp("changes"), config=catalog(double)) as it:
        it.wait_hot("rolled", "leaving", "beside")
        yield it


class Traffic(threading.Thread):
    """Asks again and again, streamed and not, until told to stop; every answer must be whole."""

    def __init__(self, running: Installation, model: str) -> None:
        super().__init__(daemon=True)
        self._running = running
        self._model = model
        self._over = threading.Event()
        self.answered = 0
        self.instances: set[str] = set()
        self.wrong: list[str] = []

    def run(self) -> None:
        while not self._over.is_set():
            for streams in (False, True):
                body = asks("tokens=4 every=0.02", model=self._model, stream=streams)
                try:
                    status, headers, answer = self._running.request("POST", "/v1/chat/completions", body)
                except OSError as error:
                    self.wrong.append(repr(error))
                    continue
                whole = b"[DONE]" in answer if streams else b"w0 w1 w2 w3 " in answer
                if status != 200 or not whole:
                    self.wrong.append(f"{status} {answer[-300:]!r}")
                self.answered += 1
                self.instances.add(headers.get("x-first-instance", ""))

    def end(self) -> None:
        self._over.set()
        self.join(60)

    def assert_nothing_lost(self) -> None:
        assert not self.wrong, f"{len(self.wrong)} of {self.answered}: {self.wrong[:3]}"
        assert self.answered


@contextlib.contextmanager
def traffic(running: Installation, *models: str) -> Generator[list[Traffic]]:
    threads = [Traffic(running, model) for model in models for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        for thread in threads:
            thread.end()
    for thread in threads:
        thread.assert_nothing_lost()


def revision(running: Installation) -> int:
    return json.loads(running.admin("GET", "/api/v1/health")[2])["revision"]


def test_a_changed_engine_is_rolled_under_traffic_and_no_request_is_lost(running: Installation, double: Beside) -> None:
    (old,) = running.ready_instances("rolled")
    long = Stream(running, asks("tokens=60 every=0.1", model="rolled", stream=True))
    long.wait_for(b"w0 ")
    with traffic(running, "rolled", "beside") as threads:
        running.reload(catalog(double, rolled=paced("rolled", arguments=("--version", "2"))))
        (new,) = running.until(lambda: (found := running.ready_instances("rolled")) not in ([old], []) and found)
        seen = threads[0].answered
        running.until(lambda: threads[0].answered > seen + 10)
    assert new != old
    assert {old, new} <= threads[0].instances | threads[1].instances
    assert long.headers["x-first-instance"] == old
    long.assert_whole(60)
    running.until(lambda: old not in {one["id"] for one in running.instances()})


def test_an_alias_and_bounds_change_in_place(running: Installation, double: Beside) -> None:
    before = {one["id"] for one in running.instances()}
    changed = catalog(double)
    changed["models"]["beside"] = {"aliases": ["other-name"]}
    changed["deployments"]["leaving"]["scaling"]["in_flight"] = 8
    with traffic(running, "leaving", "beside"):
        number = revision(running)
        running.reload(changed)
        running.until(lambda: revision(running) == number + 1)
        running.until(lambda: running.request("POST", "/v1/chat/completions", asks("x", model="other-name"))[0] == 200)
    assert set(running.ready_instances("leaving")) <= before


def test_a_broken_file_is_refused_whole_and_what_runs_stays(running: Installation) -> None:
    before, number = running.instances(), revision(running)
    good = (running.data.parent / "first.yaml").read_text()
    refused, kept = running.log("controller").count("apply_refused"), running.log("gateway").count("reload_refused")
    try:
        running.reload('{"gateway": {"lisen": "127.0.0.1:1"}, "deployments": {}}')
        running.until(lambda: running.log("controller").count("apply_refused") > refused)
        running.until(lambda: running.log("gateway").count("reload_refused") > kept)
    finally:
        (running.data.parent / "first.yaml").write_text(good)
    assert revision(running) == number
    assert {one["id"] for one in running.instances()} == {one["id"] for one in before}
    assert running.request("POST", "/v1/chat/completions", asks("x", model="beside"))[0] == 200


def test_a_removed_deployment_finishes_what_it_has_and_ends(running: Installation, double: Beside) -> None:
    running.reload(catalog(double))
    running.until(lambda: running.ready_instances("leaving"))
    stream = Stream(running, asks("tokens=40 every=0.1", model="leaving", stream=True))
    stream.wait_for(b"w0 ")
    running.reload(catalog(double, leaving=None))
    running.until(lambda: not running.ready_instances("leaving"))
    assert not stream.over
    stream.assert_whole(40)
    running.until(lambda: not [one for one in running.instances() if one["model"] == "leaving"])
    status, _, body = running.request("POST", "/v1/chat/completions", asks("x", model="leaving"))
    assert status == 404, body
    running.reload(catalog(double))
    running.until(lambda: running.ready_instances("leaving"))


@pytest.mark.anyio
async def test_a_thousand_open_streams_live_through_a_reload(running: Installation, double: Beside) -> None:
    crowd = Crowd(running.port, key=running.key, count=MANY, body=asks("tokens=8 every=1", model="beside", stream=True))
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        group.create_task(crowd.run())
        await crowd.begun.wait()
        count = running.log("gateway").count("reloaded")
        await asyncio.to_thread(running.reload, catalog(double))
        await asyncio.to_thread(running.until, lambda: running.log("gateway").count("reloaded") > count)
    crowd.assert_whole(8)


@pytest.mark.anyio
async def test_a_thousand_open_streams_live_through_the_gateway_s_replacement(running: Installation) -> None:
    (old,) = running.until(lambda: len(found := running.part_pids("gateway")) == 1 and found)
    taken_over = running.said().count("a new gateway has taken over")
    crowd = Crowd(running.port, key=running.key, count=MANY, body=asks("tokens=8 every=1", model="beside", stream=True))
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        group.create_task(crowd.run())
        await crowd.begun.wait()
        running.process.send_signal(signal.SIGUSR2)
        await asyncio.to_thread(
            running.until, lambda: running.said().count("a new gateway has taken over") > taken_over
        )
        both = running.part_pids("gateway")
        assert len(both) == 2
        assert old in both
    crowd.assert_whole(8)
    await asyncio.to_thread(running.until, lambda: old not in running.part_pids("gateway"))
    assert running.request("POST", "/v1/chat/completions", asks("x", model="beside"))[0] == 200


def test_short_requests_notice_nothing_of_a_gateway_s_replacement(running: Installation) -> None:
    (old,) = running.until(lambda: len(found := running.part_pids("gateway")) == 1 and found)
    with traffic(running, "rolled", "beside") as threads:
        running.process.send_signal(signal.SIGUSR2)
        running.until(lambda: old not in running.part_pids("gateway"))
        seen = threads[0].answered
        running.until(lambda: threads[0].answered > seen + 10)


def test_who_waits_for_a_cold_model_keeps_waiting_through_a_gateway_s_replacement(running: Installation) -> None:
    (old,) = running.until(lambda: len(found := running.part_pids("gateway")) == 1 and found)
    waiting = Stream(running, asks("tokens=3", model="slow", stream=True))
    waiting.wait_for(b": ")
    running.process.send_signal(signal.SIGUSR2)
    running.until(lambda: len(running.part_pids("gateway")) == 2)
    waiting.assert_whole(3)
    running.until(lambda: old not in running.part_pids("gateway"))


def test_a_gateway_that_does_not_come_up_leaves_the_old_one_in_place(running: Installation, double: Beside) -> None:
    (old,) = running.until(lambda: len(found := running.part_pids("gateway")) == 1 and found)
    good = (running.data.parent / "first.yaml").read_text()
    (running.data.parent / "first.yaml").write_text("gateway: {lisen: 1}\n")
    try:
        running.process.send_signal(signal.SIGUSR2)
        running.until(lambda: "did not come up, so the old one stays" in running.said())
        assert running.part_pids("gateway") == [old]
        assert running.request("POST", "/v1/chat/completions", asks("x", model="beside"))[0] == 200
    finally:
        (running.data.parent / "first.yaml").write_text(good)
