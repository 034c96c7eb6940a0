# SPDX-License-Identifier: Apache-2.0
"""`first up` that cannot start says in one sentence what to do; however it ends, nothing is left of it."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from installation import Installation, as_text, environment, free_port, installation, processes_naming
from paced import Stream, asks, config, local_cluster, paced

pytestmark = pytest.mark.timeout(120)


def up(data: Path, *arguments: str, port: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run `first up` to its end."""
    command = [sys.executable, "-m", "firstkit.apps.cli", "up", "--data", str(data)]
    command += ["--port", str(port or free_port()), *arguments]
    return subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=60, cwd=data.parent, check=False
    )


def written(folder: Path, document: dict[str, object]) -> str:
    path = folder / "first.yaml"
    path.write_text(as_text(document, folder / "state"))
    return str(path)


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Fail unless it ended with 1 and one sentence that has these words."""
    assert done.returncode == 1, done
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("first: ")
    for word in words:
        assert word in lines[0], lines[0]


def assert_nothing_left(data: Path) -> None:
    """Fail when a process, a socket or a half-written file is there."""
    assert not processes_naming(str(data))
    left = [
        str(path)
        for path in data.rglob("*")
        if stat.S_ISSOCK(path.lstat().st_mode) or path.name.endswith((".new", ".tmp", ".partial"))
    ]
    assert not left, left


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    """A disk of 300 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted(folder, "size=300k,mode=0700")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def unwritable(tmp_path: Path) -> Generator[Path]:
    """A folder in which nobody may write, root neither."""
    folder = tmp_path / "fixed"
    folder.mkdir(mode=0o500)
    if os.geteuid() != 0:
        yield folder
        return
    mounted(folder, "ro,size=100k")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def mounted(folder: Path, options: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("allowed: only root can mount a small disk")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"allowed: nothing can be mounted here ({done.stderr.strip()})")


# ------------------------------------------------------------------------------------------------ what cannot start


def test_a_busy_port_is_named_with_another_to_choose(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = up(tmp_path / "state", port=port)
    assert_refused(done, str(port), "in use", "PORT=")
    assert_nothing_left(tmp_path / "state")


def test_a_state_folder_that_cannot_be_written_is_named(unwritable: Path) -> None:
    assert_refused(up(unwritable / "state"), str(unwritable / "state"), "cannot be written", "DATA=")


def test_a_state_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("I am a file")
    done = up(tmp_path / "state")
    assert done.returncode in {1, 2}, done
    assert str(tmp_path / "state") in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_full_disk_is_said_in_a_sentence(small_disk: Path) -> None:
    done = up(small_disk / "state", "--config", written(small_disk.parent, config(deployments={"a": paced("a")})))
    assert_refused(done, str(small_disk))
    assert any(word in done.stderr for word in ("No space left", "full", "room")), done.stderr
    assert not processes_naming(str(small_disk))


def test_a_second_one_on_the_same_state_folder_is_refused_and_the_first_goes_on(demo: Installation) -> None:
    assert_refused(up(demo.data), "Another `first up` runs", str(demo.data))
    assert demo.request("GET", "/v1/models")[0] == 200


def test_a_broken_configuration_is_told_with_every_mistake_and_its_line(tmp_path: Path) -> None:
    path = tmp_path / "first.yaml"
    path.write_text("gateway:\n  lisen: 127.0.0.1:8000\nmodels:\n  m: {aliases: 3}\n")
    done = up(tmp_path / "state", "--config", str(path))
    assert done.returncode == 1, done
    assert f"{path}:2" in done.stderr
    assert "listen" in done.stderr
    assert f"{path}:4" in done.stderr
    assert "Traceback" not in done.stderr
    assert_nothing_left(tmp_path / "state")


def test_a_configuration_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = up(tmp_path / "state", "--config", str(tmp_path / "nothing.yaml"))
    assert done.returncode == 2, done
    assert "nothing.yaml" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_missing_weights_are_named_before_anything_starts(tmp_path: Path) -> None:
    missing = {"kind": "llamacpp", "model": "/nowhere/weights.gguf"}
    document = config(deployments={"missing": {"model": "missing", "cluster": "here", "engine": missing}})
    assert_refused(up(tmp_path / "state", "--config", written(tmp_path, document)), "/nowhere/weights.gguf")
    assert_nothing_left(tmp_path / "state")


def test_weights_that_went_missing_later_are_told_to_whoever_asks_for_the_model(tmp_path: Path) -> None:
    weights = tmp_path / "weights.gguf"
    weights.touch()
    engine = {"kind": "llamacpp", "model": str(weights)}
    deployments = {"gone": {"model": "gone", "cluster": "here", "engine": engine}}
    with installation(tmp_path, config=config(deployments=deployments)) as running:
        running.wait_ready()
        weights.unlink()
        status, _, body = running.request("POST", "/v1/chat/completions", asks("x", model="gone"))
        assert status == 503
        assert str(weights) in json.loads(body)["error"]["message"]


# ---------------------------------------------------------------------------------------------------------- stopping


def test_ctrl_c_lets_an_open_stream_finish_and_leaves_nothing(tmp_path: Path) -> None:
    with installation(tmp_path, config=config(deployments={"a": paced("a")})) as running:
        running.wait_hot("a")
        stream = Stream(running, asks("tokens=30 every=0.1", model="a", stream=True))
        stream.wait_for(b"w0 ")
        assert running.stop() == 0
        stream.assert_whole(30)
    assert_nothing_left(running.data)


def test_ctrl_c_while_models_load_ends_everything(tmp_path: Path) -> None:
    deployments = {"a": paced("a", arguments=("--load-s", "60"))}
    with installation(tmp_path, config=config(deployments=deployments)) as running:
        running.wait_answering()
        running.until(lambda: [one["state"] for one in running.instances()] == ["LOADING"])
        assert running.stop() == 0
    assert_nothing_left(running.data)


@pytest.mark.parametrize("after", ["nothing", "the first process", "the first word"])
def test_ctrl_c_at_any_moment_of_the_start_leaves_nothing(tmp_path: Path, after: str) -> None:
    with installation(tmp_path, config=config(deployments={"a": paced("a")})) as running:
        if after == "the first process":
            running.until(lambda: running.part_pids("api"))
        elif after == "the first word":
            running.until(running.said)
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(60) in {0, 1, -signal.SIGINT, 130}
    if running.data.exists():
        assert_nothing_left(running.data)
    assert "Traceback" not in running.said()


def test_ctrl_c_twice_cuts_what_runs_with_an_error_event_and_leaves_nothing(tmp_path: Path) -> None:
    with installation(tmp_path, config=config(deployments={"a": paced("a")})) as running:
        running.wait_hot("a")
        stream = Stream(running, asks("tokens=1000 every=0.1", model="a", stream=True))
        stream.wait_for(b"w0 ")
        running.process.send_signal(signal.SIGINT)
        running.until(lambda: "stopping" in running.said())
        assert not stream.over
        again = time.monotonic()
        running.process.send_signal(signal.SIGINT)
        stream.assert_cut_with_an_error()
        assert running.process.wait(60) == 0
        print(f"\neverything ended {time.monotonic() - again:.1f} s after the second Ctrl-C")
    assert_nothing_left(running.data)


def test_kill_9_lets_an_open_stream_finish_leaves_no_process_and_the_next_start_is_as_any_other(
    tmp_path: Path,
) -> None:
    text = config(deployments={"a": paced("a")})
    with installation(tmp_path, config=text) as running:
        running.wait_hot("a")
        key = running.key
        stream = Stream(running, asks("tokens=30 every=0.1", model="a", stream=True))
        stream.wait_for(b"w0 ")
        killed = time.monotonic()
        running.process.kill()
        running.process.wait(10)
        stream.assert_whole(30)
        while processes_naming(str(running.data)):
            assert time.monotonic() - killed < 60, processes_naming(str(running.data))
            time.sleep(0.05)
        print(f"\neverything had ended {time.monotonic() - killed:.1f} s after kill -9")
    with installation(tmp_path, config=text) as again:
        again.wait_hot("a")
        assert again.key == key
        assert again.request("POST", "/v1/chat/completions", asks("x", model="a"))[0] == 200


def test_an_unknown_cluster_link_is_told_with_what_is_known(tmp_path: Path) -> None:
    document = config(deployments={"a": paced("a")}, clusters={"here": local_cluster(link={"kind": "directly"})})
    done = up(tmp_path / "state", "--config", written(tmp_path, document))
    assert done.returncode == 1, done
    assert "direct" in done.stderr
    assert "Traceback" not in done.stderr
