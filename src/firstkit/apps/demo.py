# SPDX-License-Identifier: Apache-2.0
"""The configuration that `first up` writes when it is given none: one small real model on this machine."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

MODEL = "SmolLM2-135M-Instruct"
CLUSTER = "laptop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """What the demo serves: `engine` is the body of the deployment's engine, YAML flow style (JSON)."""

    engine: dict[str, object]
    in_flight: int
    max_model_len: int


def llamacpp(gguf: Path) -> Demo:
    """Serve the demo's GGUF by llama.cpp: four slots of 2,048 tokens."""
    return Demo(engine={"kind": "llamacpp", "model": str(gguf), "context": 2048}, in_flight=4, max_model_len=2048)


def vllm(weights: Path, *, venv: Path) -> Demo:
    """Serve the demo's weights by vLLM on the CPU: eager, since compiling needs a compiler and a minute.

    In float32, since vLLM 0.32 dies of an illegal instruction in its bfloat16 attention where the processor has AMX.
    """
    args = {
        "dtype": "float32",
        "max-model-len": 2048,
        "max-num-seqs": 8,
        "enforce-eager": True,
        "gpu-memory-utilization": 0.3,
    }
    env = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    engine: dict[str, object] = {"kind": "vllm", "model": str(weights), "venv": str(venv), "args": args, "env": env}
    return Demo(engine=engine, in_flight=8, max_model_len=2048)


def render(demo: Demo, *, data: Path) -> str:
    """Write the file."""
    return f"""\
# Written by `first up`; to change anything, copy this file and run: first up --config YOUR.yaml
store: sqlite:///first.db
controller: {{observe: 1s, settle: 5s}}
clusters:
  {CLUSTER}:
    scheduler: {{kind: local}}
    runner: {{kind: local}}
    link: {{kind: local}}
    run_dir: {json.dumps(str(data / "clusters" / CLUSTER))}
models:
  {MODEL}:
    aliases: [smollm2]
    max_model_len: {demo.max_model_len}
deployments:
  smollm2-{CLUSTER}:
    model: {MODEL}
    cluster: {CLUSTER}
    engine: {json.dumps(demo.engine)}
    scaling: {{min: 1, max: 1, in_flight: {demo.in_flight}}}
"""
