# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the end-to-end tests."""

import sys
from collections.abc import Generator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from installation import Installation, installation
from paced import Beside, beside, config, paced


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests that end what their module shares after the module's others, however those are shuffled."""
    for module in {item.path for item in items if "ending" in getattr(item, "fixturenames", ())}:
        here = [number for number, item in enumerate(items) if item.path == module]
        ordered = sorted((items[number] for number in here), key=lambda item: "ending" in item.fixturenames)  # pyright: ignore[reportAttributeAccessIssue]
        for number, item in zip(here, ordered, strict=True):
            items[number] = item


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Generator[Installation]:
    """The demo of `make up`: one model on a real llama.cpp."""
    with installation(tmp_path_factory.mktemp("demo")) as running:
        running.wait_ready()
        yield running


@pytest.fixture(scope="session")
def double() -> Generator[Beside]:
    """An engine beside the installation, which records every request as it came."""
    with beside("double") as engine:
        yield engine


@pytest.fixture(scope="session")
def clients(tmp_path_factory: pytest.TempPathFactory, double: Beside) -> Generator[Installation]:
    """What the official clients talk to: the real llama.cpp for chat and embeddings, the double, and a broken model."""
    from firstkit.adapters.demo.weights import chat_gguf, embedding_gguf

    folder = tmp_path_factory.mktemp("clients")
    chat = {"kind": "llamacpp", "model": str(chat_gguf()), "context": 2048}
    embeddings = {"kind": "llamacpp", "model": str(embedding_gguf(folder)), "embeddings": True}
    scaling = {"min": 1, "in_flight": 4}
    deployments = {
        "chat": {"model": "SmolLM2-135M-Instruct", "cluster": "here", "engine": chat, "scaling": scaling},
        "embeddings": {"model": "all-MiniLM-L6-v2", "cluster": "here", "engine": embeddings, "scaling": scaling},
        "double": double.deployment(),
        "broken": paced("broken", min=0, arguments=("--unless", "/")),
    }
    models = {
        "SmolLM2-135M-Instruct": {"aliases": ["smollm2"]},
        "all-MiniLM-L6-v2": {"aliases": ["minilm"]},
        "double": {"aliases": ["double-alias"]},
    }
    limits = {"/v1/completions": "10kB", "/v1/messages": "10kB"}
    text = config(deployments=deployments, models=models, gateway={"body_limits": limits})
    with installation(folder, config=text) as running:
        running.wait_hot("SmolLM2-135M-Instruct", "all-MiniLM-L6-v2", "double")
        yield running
