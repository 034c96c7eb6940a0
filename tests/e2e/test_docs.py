# SPDX-License-Identifier: Apache-2.0
"""What the documentation tells people to type works: blocks marked `test` run page by page against a running demo."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from installation import Installation

pytestmark = [pytest.mark.slow, pytest.mark.llamacpp, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_BLOCK = re.compile(r"^```(sh|python) test\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WITHIN_S = 180


class Block(NamedTuple):
    """One block to be run, and the line it begins in."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [Block(found[1], found[2], text.count("\n", 0, found.start()) + 1) for found in _BLOCK.finditer(text)]


PAGES = [page for page in sorted([*DOCS.rglob("*.md"), ROOT / "README.md"]) if blocks(page)]


def script_of(page: Path, folder: Path, *, port: int) -> str:
    """Join a page's blocks into one shell script, which ends at the first command that fails and says where it is."""
    name = page.relative_to(ROOT).as_posix()
    lines = ["set -euo pipefail"]
    for block in blocks(page):
        text = block.text.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
        lines.append(f"echo '--- {name}:{block.line}'")
        if block.language == "python":
            file = folder / f"block-{block.line}.py"
            file.write_text(text)
            lines.append(f"python {file}")
        else:
            lines.append(text)
    return "\n".join(lines)


def test_the_tutorial_is_among_the_pages_that_run() -> None:
    assert len(blocks(DOCS / "tutorials" / "laptop.md")) >= 5


@pytest.fixture
def fresh(demo: Installation) -> Installation:
    """Bring the demo back to what `make up` leaves, whatever the page before it has applied."""
    status, _, answer = demo.admin("POST", "/api/v1/revisions", (demo.data / "first.yaml").read_bytes())
    assert status == 200, answer
    demo.until(lambda: [state["state"] for state in demo.models().values()] == ["hot"], within_s=60)
    return demo


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_says_what_works(page: Path, fresh: Installation, tmp_path: Path) -> None:
    demo = fresh
    (tmp_path / ".first").symlink_to(demo.data)
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FIRST_", "OPENAI_", "ANTHROPIC_")) and not name.lower().endswith("_proxy")
    }
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
    environ["HOME"] = str(tmp_path)
    running = subprocess.Popen(
        ["bash", "-c", script_of(page, tmp_path, port=demo.port)],
        cwd=tmp_path,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        said, _ = running.communicate(timeout=WITHIN_S)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        said, _ = running.communicate()
    text = said.decode(errors="replace")
    assert running.returncode == 0, f"{text}\n{demo.log('gateway')[-2000:]}"
    print(text)
