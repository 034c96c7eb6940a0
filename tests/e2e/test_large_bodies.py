# SPDX-License-Identifier: Apache-2.0
"""A body that has no room in memory waits in a file of the state folder, which nobody sees."""

import contextlib
import signal
from pathlib import Path

import pytest
from installation import Installation

pytestmark = [pytest.mark.llamacpp, pytest.mark.timeout(120)]


def test_a_body_beyond_memory_reaches_the_engine_whole_and_leaves_no_file(demo: Installation) -> None:
    file = demo.data / "first.yaml"
    file.write_text(f"gateway: {{body_memory: 1MB}}\n{file.read_text()}")
    demo.process.send_signal(signal.SIGHUP)
    demo.until(lambda: "reloaded" in demo.log("gateway"))

    padding = " " * 3_000_000  # white space between two fields: the engine reads past it
    body = f'{{"model": "smollm2", "max_tokens": 4,{padding}"messages": [{{"role": "user", "content": "Hello!"}}]}}'
    status, headers, answer = demo.request("POST", "/v1/chat/completions", body.encode())

    assert status == 200, answer
    assert headers["x-first-instance"].startswith("i-")
    assert not list((demo.data / "uploads").iterdir())
    demo.until(lambda: not open_in_uploads(demo))


def open_in_uploads(running: Installation) -> list[str]:
    """List files of the folder that the gateway holds open, names or none."""
    found: list[str] = []
    for link in Path(f"/proc/{running.part_pid('gateway')}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(link.readlink().as_posix())
    return [target for target in found if target.startswith(str(running.data / "uploads"))]
