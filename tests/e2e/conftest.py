# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the end-to-end tests."""

import sys
from collections.abc import Generator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from installation import Installation, installation


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Generator[Installation]:
    """The demo of `make up`: one model on a real llama.cpp."""
    with installation(tmp_path_factory.mktemp("demo")) as running:
        running.wait_ready()
        yield running
