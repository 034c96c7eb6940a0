# SPDX-License-Identifier: Apache-2.0
"""Real engines for the contract tests: each started once a module, by the launcher, as its adapter says."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from firstkit.adapters import demo
from firstkit.adapters.engines.registry import load_engines
from firstkit.core.catalog import Deployment, EngineSpec, Scaling
from firstkit.testing.engine_run import EngineRun
from firstkit.testing.strangers import attempts_of_a_stranger

ROOT = Path(__file__).parents[3]
VLLM_ENV = ROOT / ".venv-vllm"
MAKE_WEIGHTS = ROOT / "tests" / "fixtures" / "engines" / "make_random_llama.py"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests of one engine together, those that end it last, whatever order the others are shuffled into."""
    here = [
        index
        for index, item in enumerate(items)
        if isinstance(item, pytest.Function) and "engine_run" in item.fixturenames
    ]

    def place(item: Any) -> tuple[Path, str, bool]:
        return item.path, item.callspec.params["engine_run"], "ending" in item.fixturenames

    ordered = sorted((items[index] for index in here), key=place)
    for index, item in zip(here, ordered, strict=True):
        items[index] = item


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, since a Unix socket lies in it."""
    path = Path(tempfile.mkdtemp(prefix="first-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def vllm_env() -> Path:
    if not (VLLM_ENV / ".installed").exists():
        pytest.skip("vLLM's environment is not installed (make vllm-env)")
    return VLLM_ENV


@pytest.fixture(scope="session")
def random_llama(vllm_env: Path, request: pytest.FixtureRequest) -> Path:
    """Small random weights, made once and kept in pytest's cache."""
    assert request.config.cache is not None
    kept = request.config.cache.mkdir("random-llama") / "weights-1"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=kept.parent) as making:
            env = {"PATH": os.defpath, "HOME": making, "HF_HUB_OFFLINE": "1"}
            argv = [str(vllm_env / "bin" / "python"), str(MAKE_WEIGHTS), str(Path(making) / "weights")]
            subprocess.run(argv, cwd=making, env=env, check=True, capture_output=True, timeout=120)
            (Path(making) / "weights").rename(kept)
    return kept


def llamacpp_deployment(**options: Any) -> Deployment:
    engine = EngineSpec(
        kind="llamacpp", model=str(demo.chat_gguf()), args={"threads": 1}, options={"context": 2048} | options
    )
    return Deployment(name="demo", model="demo", engine=engine, scaling=Scaling(in_flight=2))


@pytest.fixture(scope="session")
def llamacpp() -> Callable[..., Deployment]:
    return llamacpp_deployment


def deployment_of(kind: str, request: pytest.FixtureRequest) -> Deployment:
    if kind == "llamacpp":
        return llamacpp_deployment()
    weights = str(request.getfixturevalue("random_llama"))
    venv = str(request.getfixturevalue("vllm_env"))
    if kind == "transformers":
        env = {"OMP_NUM_THREADS": "1"}  # so that processor time tells how much it has done
        engine = EngineSpec(kind=kind, model=weights, args={"device": "cpu"}, env=env, options={"venv": venv})
        return Deployment(name="demo", model="lab/demo", engine=engine, scaling=Scaling(in_flight=1))
    # float32: its bfloat16 attention dies of an illegal instruction at a short prompt where the processor has AMX.
    args = {"dtype": "float32", "max-model-len": 2048, "enforce-eager": True, "gpu-memory-utilization": 0.3}
    env = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    engine = EngineSpec(kind=kind, model=weights, args=args, env=env, options={"venv": venv})
    return Deployment(name="demo", model="lab/demo", engine=engine, scaling=Scaling(in_flight=8))


REAL = ["llamacpp", pytest.param("vllm", marks=pytest.mark.vllm), pytest.param("transformers", marks=pytest.mark.vllm)]


@pytest.fixture(scope="module", params=REAL)
def engine_run(request: pytest.FixtureRequest) -> Iterator[EngineRun]:
    """A real engine, ready."""
    deployment = deployment_of(request.param, request)
    path = Path(tempfile.mkdtemp(prefix="first-"))
    try:
        with EngineRun(load_engines()[request.param], deployment, path) as run:
            run.wait_for("READY")
            yield run
    finally:
        shutil.rmtree(path)


@pytest.fixture(scope="session")
def stranger() -> Callable[..., dict[str, str]]:
    if os.geteuid() != 0:
        pytest.skip("allowed: only root can become another user")
    return attempts_of_a_stranger
