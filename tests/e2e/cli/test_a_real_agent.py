# SPDX-License-Identifier: Apache-2.0
"""What `first agent configure` writes drives real coding agents: Continue's command line from npm, and aider."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from installation import Installation, environment

pytestmark = [pytest.mark.llamacpp, pytest.mark.node, pytest.mark.slow, pytest.mark.timeout(240)]
PACKAGE = Path(__file__).parent / "agent"


@pytest.fixture(scope="module")
def continue_cli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the agent from its lock into a folder of its own; return its program."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed (apt-get install npm)")
    folder = tmp_path_factory.mktemp("agent")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PACKAGE / name, folder / name)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
    if done.returncode != 0:
        pytest.skip(f"npm cannot install the agent here: {done.stderr.strip()[-200:]}")
    return folder / "node_modules" / ".bin" / "cn"


def test_an_agent_answers_with_the_model_of_this_machine(
    demo: Installation, continue_cli: Path, tmp_path: Path
) -> None:
    done = demo.first("agent", "configure", "continue", "--home", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (tmp_path / ".continue" / ".env").write_text(f"FIRST_API_KEY={demo.key}\n")
    before = requests(demo)
    work = tmp_path / "work"
    work.mkdir()
    said = subprocess.run(
        [str(continue_cli), "--config", str(tmp_path / ".continue" / "config.yaml"), "-p", "Say hello in one word."],
        cwd=work,
        env=environment()
        | {
            "HOME": str(tmp_path),
            "CONTINUE_CLI_ENABLE_TELEMETRY": "0",
            "DO_NOT_TRACK": "1",
            "PATH": os.environ["PATH"],
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert said.returncode == 0, said.stderr + said.stdout
    assert said.stdout.strip()
    demo.until(lambda: requests(demo) > before)


def test_aider_answers_with_the_model_of_this_machine(demo: Installation, tmp_path: Path) -> None:
    aider = shutil.which("aider")
    if aider is None:
        pytest.skip("allowed: aider is not installed (pip install aider-chat, in an environment of its own)")
    done = demo.first("agent", "configure", "aider", "--home", str(tmp_path))
    assert done.returncode == 0, done.stderr
    before = requests(demo)
    work = tmp_path / "work"
    work.mkdir()
    config = str(tmp_path / ".aider.firstkit" / "conf.yml")
    said = subprocess.run(
        [aider, "--config", config, "--no-git", "--yes-always", "--message", "Say hello in one word."],
        cwd=work,
        env=environment() | {"HOME": str(tmp_path), "OPENAI_API_KEY": demo.key},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert said.returncode == 0, said.stderr + said.stdout
    assert "SmolLM2-135M-Instruct" in said.stdout
    demo.until(lambda: requests(demo) > before)


def requests(demo: Installation) -> int:
    """Count the finished requests of everybody."""
    status, _, body = demo.admin("GET", "/api/v1/usage?all=true")
    assert status == 200
    return sum(row["requests"] for row in json.loads(body)["data"])
