# SPDX-License-Identifier: Apache-2.0
"""all-MiniLM-L6-v2 from safetensors to GGUF, with the names that llama.cpp's own converter gives to BERT."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any, BinaryIO

from firstkit.adapters.demo.gguf import Tensor, Value, write_gguf

_POOLING_MEAN = 1
_FILE_ALL_F32 = 0
_TOKEN_NORMAL, _TOKEN_CONTROL = 1, 3
_NAMES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def write_minilm_gguf(folder: Path, out: Path) -> None:
    """Convert the model in `folder`; OSError if it is not what it should be."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    with (folder / "model.safetensors").open("rb") as source:
        write_gguf(out, _metadata(config, _vocabulary(folder)), _tensors(source), source)


def _vocabulary(folder: Path) -> list[str]:
    return (folder / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")


def _metadata(config: dict[str, Any], vocabulary: list[str]) -> dict[str, Value]:
    special = [re.fullmatch(r"\[.*\]", word) is not None for word in vocabulary]
    return {
        "general.architecture": "bert",
        "general.name": "all-MiniLM-L6-v2",
        "general.file_type": _FILE_ALL_F32,
        "bert.context_length": config["max_position_embeddings"],
        "bert.embedding_length": config["hidden_size"],
        "bert.feed_forward_length": config["intermediate_size"],
        "bert.block_count": config["num_hidden_layers"],
        "bert.attention.head_count": config["num_attention_heads"],
        "bert.attention.layer_norm_epsilon": float(config["layer_norm_eps"]),
        "bert.attention.causal": False,
        "bert.pooling_type": _POOLING_MEAN,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "jina-v2-en",
        "tokenizer.ggml.token_type_count": config["type_vocab_size"],
        "tokenizer.ggml.tokens": [_phantom(word, special[index]) for index, word in enumerate(vocabulary)],
        "tokenizer.ggml.token_type": [_TOKEN_CONTROL if one else _TOKEN_NORMAL for one in special],
        "tokenizer.ggml.unknown_token_id": vocabulary.index("[UNK]"),
        "tokenizer.ggml.seperator_token_id": vocabulary.index("[SEP]"),  # spelled so by llama.cpp
        "tokenizer.ggml.padding_token_id": vocabulary.index("[PAD]"),
        "tokenizer.ggml.cls_token_id": vocabulary.index("[CLS]"),
        "tokenizer.ggml.mask_token_id": vocabulary.index("[MASK]"),
    }


def _phantom(word: str, special: bool) -> str:  # noqa: FBT001
    """Write a WordPiece token as llama.cpp's vocabulary has it: a mark where a word begins, none inside."""
    if special:
        return word
    return word[2:] if word.startswith("##") else f"\u2581{word}"


def _tensors(source: BinaryIO) -> list[Tensor]:
    """Read the head of a safetensors file: a length, JSON with the places of all tensors, then their bytes."""
    (length,) = struct.unpack("<Q", source.read(8))
    head: dict[str, Any] = json.loads(source.read(length))
    tensors: list[Tensor] = []
    for name, entry in head.items():
        renamed = _renamed(name)
        if renamed is None:
            continue
        if entry["dtype"] != "F32":
            raise OSError(f"{name} is {entry['dtype']}, not F32")
        begin, end = entry["data_offsets"]
        tensors.append(Tensor(name=renamed, shape=tuple(entry["shape"]), offset=8 + length + begin, length=end - begin))
    return tensors


def _renamed(name: str) -> str | None:
    """Give a tensor's name in GGUF; None for those that llama.cpp does without."""
    if name == "__metadata__" or name.startswith("pooler.") or name.endswith("position_ids"):
        return None
    stem, _, kind = name.rpartition(".")
    found = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)", stem)
    block, part = (f"blk.{found[1]}.", found[2]) if found else ("", stem)
    if part not in _NAMES:
        raise OSError(f"the model has an unknown tensor {name}")
    return f"{block}{_NAMES[part]}.{kind}"
