# SPDX-License-Identifier: Apache-2.0
"""Writes GGUF version 3, as far as the demo's embedding model needs it: f32 tensors copied as they are.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

ALIGNMENT = 32
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_TENSOR_F32 = 0
_CHUNK = 1 << 20

Value = bool | int | float | str | Sequence[str] | Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An f32 tensor that lies in a file, little-endian; `shape` as in PyTorch, the innermost dimension last."""

    name: str
    shape: tuple[int, ...]
    offset: int
    length: int


def write_gguf(out: Path, metadata: Mapping[str, Value], tensors: Sequence[Tensor], source: BinaryIO) -> None:
    """Write a GGUF file whose tensors are copied from `source`."""
    head = [struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))]
    head += [_string(key) + _value(value) for key, value in metadata.items()]
    position = 0
    for tensor in tensors:
        dimensions = tensor.shape[::-1]
        head.append(_string(tensor.name) + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions))
        head.append(struct.pack("<IQ", _TENSOR_F32, position))
        position = _aligned(position + tensor.length)
    with out.open("wb") as file:
        file.write(b"".join(head))
        _pad(file)
        for tensor in tensors:
            _copy(source, file, tensor)
            _pad(file)


def _aligned(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT


def _pad(file: BinaryIO) -> None:
    file.write(bytes(_aligned(file.tell()) - file.tell()))


def _copy(source: BinaryIO, file: BinaryIO, tensor: Tensor) -> None:
    source.seek(tensor.offset)
    left = tensor.length
    while left:
        chunk = source.read(min(left, _CHUNK))
        if not chunk:
            raise OSError(f"the weights end within {tensor.name}")
        file.write(chunk)
        left -= len(chunk)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Value) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<IB", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _U32, value)
    if isinstance(value, float):
        return struct.pack("<If", _F32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    head = struct.pack("<IIQ", _ARRAY, _STRING if isinstance(value[0], str) else _I32, len(value))
    return head + b"".join(_string(item) if isinstance(item, str) else struct.pack("<i", item) for item in value)
