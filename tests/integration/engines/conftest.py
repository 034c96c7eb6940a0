# SPDX-License-Identifier: Apache-2.0
"""A short folder for each engine's run."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from firstkit.testing.strangers import attempts_of_a_stranger


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, since a Unix socket lies in it."""
    path = Path(tempfile.mkdtemp(prefix="first-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def kept(request: pytest.FixtureRequest) -> Path:
    """A folder that outlives the session, for what is made once."""
    assert request.config.cache is not None
    return request.config.cache.mkdir("demo-weights")


@pytest.fixture(scope="session")
def stranger() -> Callable[..., dict[str, str]]:
    if os.geteuid() != 0:
        pytest.skip("allowed: only root can become another user")
    return attempts_of_a_stranger


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    venv = Path(__file__).parents[3] / ".venv-vllm"
    if not (venv / ".installed").exists():
        pytest.skip("vLLM's environment is not installed (make vllm-env)")
    return venv / "bin" / "python"
