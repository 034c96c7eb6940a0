# SPDX-License-Identifier: Apache-2.0
"""Whether a model's weights are there and whole, told from headers and sizes; no weight itself is read.

safetensors: https://huggingface.co/docs/safetensors (a length, a JSON header, then exactly the bytes it promises).
GGUF: the format's description in llama.cpp's ggml repository, docs/gguf.md (versions 2 and 3).
"""

from __future__ import annotations

import json
import mmap
import os
import re
import struct
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
KINDS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
MAX_HEADER_BYTES = 100_000_000
"""What the safetensors library itself allows."""
_POINTER = b"version https://git-lfs"
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf\Z")

_BLOCKS: Dict[int, Tuple[int, int]] = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 30: (1, 2),
}  # fmt: skip
"""Of the common types of GGUF tensors (F32, F16, Q4_0 … Q8_0, Q2_K … Q6_K, BF16): values in a block, and its bytes."""
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Sizes of GGUF's metadata values by their type; 8 is a text, 9 a list."""
_TEXT, _LIST, _UINT32 = 8, 9, 4


class _Broken(Exception):
    """A file that cannot be what it should be; the message follows its name."""


def fault_of(path: str) -> Optional[str]:
    """Say which file of the weights at a path (a folder or a file) is missing or not whole; None if all are well.

    Formats that are not known are not judged.
    """
    try:
        return _fault_of_folder(path) if os.path.isdir(path) else _fault_of_file(path)
    except OSError as error:
        return f"{error.filename or path}: {error.strerror}"


def _fault_of_folder(folder: str) -> Optional[str]:
    names = sorted(os.listdir(folder))
    for index in INDEXES:
        if index in names:
            files = _listed(os.path.join(folder, index))
            if isinstance(files, str):
                return files
            return _first_fault(folder, files)
    weights = [name for name in names if name.endswith(KINDS)]
    if not weights:
        return f"{folder}: there are no weights in it, no *{', *'.join(KINDS)}"
    return _first_fault(folder, [name for name in weights if name.endswith(".safetensors")] or weights)


def _listed(index: str) -> Union[List[str], str]:
    """Read which files an index names, each once; or say why it cannot be read."""
    try:
        with open(index, "rb") as file:
            names = set(json.load(file)["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{index}: it is no index of weights"
    if not all(isinstance(name, str) for name in names):
        return f"{index}: it is no index of weights"
    return sorted(names)


def _first_fault(folder: str, names: List[str]) -> Optional[str]:
    return next((fault for name in names if (fault := _fault_of_file(os.path.join(folder, name)))), None)


def _fault_of_file(path: str) -> Optional[str]:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(24)
        try:
            if size == 0:
                raise _Broken("it is empty")
            if head.startswith(_POINTER):
                raise _Broken("it is only a pointer of Git LFS; fetch the file itself (git lfs pull)")
            if path.endswith(".safetensors"):
                _check_safetensors(file, size)
            elif path.endswith(".gguf"):
                _check_gguf(path, file, head, size)
        except _Broken as broken:
            return f"{path}: {broken}"
    return None


def _check_safetensors(file: Any, size: int) -> None:
    file.seek(0)
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise _Broken("it does not begin as a safetensors file does")
    if 8 + length > size:
        raise _Broken(f"it ends within its header, after {size} bytes; copy it again")
    try:
        header = json.loads(file.read(length))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        whole = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise _Broken("its header is not one of a safetensors file") from None
    if whole != size:
        raise _Broken(f"it has {size} bytes and should have {whole}; copy it again")


def _check_gguf(path: str, file: Any, head: bytes, size: int) -> None:
    if not head.startswith(b"GGUF") or len(head) < 24:
        raise _Broken("it does not begin as a GGUF file does")
    version, tensors, pairs = struct.unpack("<IQQ", head[4:24])
    if version in (2, 3):
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                whole = _gguf_size(_Reader(data, 24), tensors, pairs)
            except (struct.error, IndexError, KeyError, OverflowError):
                raise _Broken(f"its header is broken or ends too early, after {size} bytes; copy it again") from None
        if whole > size:
            raise _Broken(f"it has {size} bytes and should have {whole} at least; copy it again")
    _check_parts(path)


def _check_parts(path: str) -> None:
    """Of a model in several files the engine is told the first alone, and looks for the others itself."""
    part = _PART.search(path)
    if part is None:
        return
    for number in range(1, int(part.group(2)) + 1):
        other = f"{path[: part.start()]}-{number:05d}-of-{part.group(2)}.gguf"
        if not os.path.isfile(other):
            raise _Broken(f"the part {os.path.basename(other)} is missing")


class _Reader:
    """A place in a GGUF header."""

    def __init__(self, data: Any, at: int) -> None:
        self.data = data
        self.at = at

    def number(self, form: str) -> int:
        value = struct.unpack_from(form, self.data, self.at)[0]
        self.at += struct.calcsize(form)
        return value

    def text(self) -> bytes:
        length = self.number("<Q")
        text = self.data[self.at : self.at + length]
        self.skip(length)
        return text

    def skip(self, length: int) -> None:
        self.at += length
        if self.at > len(self.data):
            raise IndexError

    def skip_texts(self, count: int) -> None:
        """Pass over a list of texts: a vocabulary has hundreds of thousands, so this is the loop that counts."""
        unpack, data, at, end = struct.Struct("<Q").unpack_from, self.data, self.at, len(self.data)
        for _ in range(count):
            at += 8 + unpack(data, at)[0]
            if at > end:
                raise IndexError
        self.at = at

    def skip_value(self, kind: int) -> None:
        if kind == _TEXT:
            self.skip_texts(1)
        elif kind == _LIST:
            inner, count = self.number("<I"), self.number("<Q")
            if inner == _TEXT:
                self.skip_texts(count)
            elif inner == _LIST:
                for _ in range(count):
                    self.skip_value(_LIST)
            else:
                self.skip(count * _SCALARS[inner])
        else:
            self.skip(_SCALARS[kind])


class _Tensor(NamedTuple):
    """Where a tensor begins in the data, and how long it is at least."""

    offset: int
    size: int


def _gguf_size(reader: _Reader, tensors: int, pairs: int) -> int:
    """Give how long a GGUF file must be at least, from its header; what is behind `reader` is trusted in nothing."""
    alignment = 32
    for _ in range(pairs):
        key, kind = reader.text(), reader.number("<I")
        if key == b"general.alignment" and kind == _UINT32:
            alignment = reader.number("<I") or 32
        else:
            reader.skip_value(kind)
    ends = [tensor.offset + tensor.size for tensor in (_tensor(reader) for _ in range(tensors))]
    return -(-reader.at // alignment) * alignment + max(ends) if ends else reader.at


def _tensor(reader: _Reader) -> _Tensor:
    reader.text()
    values = 1
    for _ in range(reader.number("<I")):
        values *= reader.number("<Q")
    block, size = _BLOCKS.get(reader.number("<I"), (1, 0))
    return _Tensor(reader.number("<Q"), max(values // block * size, 1))
