# SPDX-License-Identifier: Apache-2.0
"""How many instances there are: kept, started by the first request, more under load, fewer when nobody asks."""

import json
from collections.abc import Generator
from pathlib import Path

import pytest
from installation import Installation, installation
from paced import Stream, asks, config, paced

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Generator[Installation]:
    deployments = {
        "kept": paced("kept"),
        "streamed": paced("streamed", min=0, idle="1s", arguments=("--load-s", "1.5")),
        "plain": paced("plain", min=0, idle="1h", arguments=("--load-s", "1.5")),
        "hasty": paced("hasty", min=0, idle="6s", arguments=("--load-s", "1.5")),
        "elastic": paced("elastic", max=3, in_flight=2, idle="8s"),
    }
    gateway = {"hold_head": "300ms", "comment_every": "300ms"}
    with installation(
        tmp_path_factory.mktemp("scaling"), config=config(deployments=deployments, gateway=gateway)
    ) as it:
        it.wait_hot("kept", "elastic")
        yield it


def wait_cold(running: Installation, model: str) -> None:
    running.until(lambda: running.models()[model]["state"] == "cold")


def test_what_must_be_kept_is_there_without_being_asked_for(running: Installation) -> None:
    assert len(running.ready_instances("kept")) == 1


def test_a_stream_to_a_cold_model_gets_comments_and_then_the_answer_and_the_model_cools_again(
    running: Installation,
) -> None:
    assert running.models()["streamed"]["state"] == "cold"
    stream = Stream(running, asks("tokens=5", model="streamed", stream=True))
    stream.assert_whole(5)
    comments = [line for line in stream.data.split(b"\n") if line.startswith(b":")]
    assert comments, stream.data
    assert stream.data.index(b":") < stream.data.index(b"data:")
    assert any(word in line for line in comments for word in (b"cold", b"queued", b"warm")), comments
    wait_cold(running, "streamed")


def test_an_unstreamed_request_to_a_cold_model_waits_for_its_answer(running: Installation) -> None:
    assert running.models()["plain"]["state"] == "cold"
    status, headers, body = running.request("POST", "/v1/chat/completions", asks("tokens=2", model="plain"))
    assert status == 200, body
    assert json.loads(body)["choices"][0]["message"]["content"] == "w0 w1 "
    assert headers["x-first-instance"].startswith("i-")


def test_who_will_not_wait_is_told_when_to_come_back_and_first_wait_blocks_until_the_model_is_hot(
    running: Installation,
) -> None:
    def hasty() -> tuple[int, dict[str, str], bytes]:
        body = asks("tokens=2", model="hasty")
        return running.request("POST", "/v1/chat/completions", body, headers={"x-first-max-wait": "0"})

    status, headers, answer = hasty()
    assert status == 503, answer
    error = json.loads(answer)["error"]
    assert error["code"] == "model_starting"
    assert "first wait hasty" in error["message"]
    assert "retry-after" not in headers  # it has never been started: nothing is known, and nothing made up
    done = running.first("wait", "hasty")
    assert done.returncode == 0, done.stdout + done.stderr
    assert hasty()[0] == 200
    wait_cold(running, "hasty")
    status, headers, answer = hasty()
    assert status == 503, answer
    assert int(headers["retry-after"]) >= 1


def test_more_requests_than_one_instance_takes_bring_more_and_what_is_too_many_goes_when_it_has_finished(
    running: Installation,
) -> None:
    streams = [Stream(running, asks("tokens=30 every=0.1", model="elastic", stream=True)) for _ in range(8)]
    running.until(lambda: len(running.ready_instances("elastic")) == 3)
    for stream in streams:
        stream.assert_whole(30)
    assert len([one for one in running.instances(ended=True) if one["model"] == "elastic"]) == 3
    long = [Stream(running, asks("tokens=200 every=0.1", model="elastic", stream=True)) for _ in range(3)]
    for stream in long:
        stream.wait_for(b"w0 ")
    running.until(lambda: [one["in_flight"] for one in running.instances() if one["model"] == "elastic"] == [1, 1, 1])
    running.until(lambda: len(running.ready_instances("elastic")) == 2)  # two are enough, but three are at work
    assert not any(stream.over for stream in long)
    for stream in long:
        stream.assert_whole(200)
    running.until(lambda: len(running.ready_instances("elastic")) == 1)


def test_usage_of_every_request_is_in_the_books(running: Installation, tmp_path: Path) -> None:
    def counted() -> tuple[int, int]:
        status, _, body = running.request("GET", "/api/v1/usage")
        assert status == 200, body
        rows = [row for row in json.loads(body)["data"] if row["model"] == "kept"]
        return (rows[0]["requests"], rows[0]["output_tokens"]) if rows else (0, 0)

    requests, tokens = counted()
    for number in range(3):
        Stream(running, asks(f"tokens={number + 1}", model="kept", stream=number % 2 == 0)).end()
    running.until(lambda: counted() == (requests + 3, tokens + 6))
