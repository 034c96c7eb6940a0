# SPDX-License-Identifier: Apache-2.0
"""vLLM with an embedding model serves what its adapter lists for one, and nothing else."""

from pathlib import Path
from typing import Any

import pytest

from firstkit.adapters import demo
from firstkit.adapters.engines.vllm import ADAPTER
from firstkit.core.catalog import Deployment, EngineSpec, Scaling
from firstkit.testing.engine_run import EngineRun

BODIES: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"input": "A man eats."},
    "/pooling": {"input": "A man eats."},
    "/v1/score": {"text_1": "A man eats.", "text_2": "Somebody dines."},
    "/v1/rerank": {"query": "A man eats.", "documents": ["Somebody dines.", "Shares fell."]},
    "/tokenize": {"prompt": "A man eats."},
    "/detokenize": {"tokens": [101]},
}


@pytest.mark.vllm
@pytest.mark.timeout(180)
def test_an_embedding_model_serves_each_path_of_its_own_and_no_chat(folder: Path, vllm_python: Path) -> None:
    engine = EngineSpec(
        kind="vllm",
        model=str(demo.embedding_safetensors()),
        args={"runner": "pooling", "dtype": "float32", "enforce-eager": True, "gpu-memory-utilization": 0.3},
        env={"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        options={"venv": str(vllm_python.parent.parent)},
    )
    deployment = Deployment(name="it", model="lab/minilm", engine=engine, scaling=Scaling(in_flight=8))
    paths = ADAPTER.paths(deployment)
    assert paths == set(BODIES)
    with EngineRun(ADAPTER, deployment, folder) as run:
        run.wait_for("READY")
        with run.client() as client:
            found = {path: client.post(path, json={"model": "lab/minilm", **BODIES[path]}) for path in paths}
            chat = client.post("/v1/chat/completions", json={"model": "lab/minilm", "messages": []})
            info = ADAPTER.models_info(client.get("/v1/models").content, "lab/minilm")
    assert {path: answer.status_code for path, answer in found.items()} == dict.fromkeys(paths, 200)
    assert len(found["/v1/embeddings"].json()["data"][0]["embedding"]) == 384
    assert [result["index"] for result in found["/v1/rerank"].json()["results"]] == [0, 1]
    assert chat.status_code == 404
    assert info == {"max_model_len": 256}
