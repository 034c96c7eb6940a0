# SPDX-License-Identifier: Apache-2.0
"""The weights of the demo: found in installed packages, and turned into the form that an engine reads."""

from firstkit.adapters.demo.weights import (
    CHAT_MODEL,
    EMBEDDING_MODEL,
    chat_gguf,
    chat_safetensors,
    embedding_gguf,
    embedding_safetensors,
)

__all__ = [
    "CHAT_MODEL",
    "EMBEDDING_MODEL",
    "chat_gguf",
    "chat_safetensors",
    "embedding_gguf",
    "embedding_safetensors",
]
