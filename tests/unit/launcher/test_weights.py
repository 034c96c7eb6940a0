# SPDX-License-Identifier: Apache-2.0
"""Weights are judged by headers and sizes: whole, cut, missing, or no weights at all."""

import json
import struct
from pathlib import Path

import pytest

from firstkit.launcher.weights import fault_of


def safetensors(size: int = 64) -> bytes:
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [size // 8], "data_offsets": [0, size // 2]},
        "b": {"dtype": "F32", "shape": [size // 8], "data_offsets": [size // 2, size]},
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"\1" * size


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def gguf(*, tensors: int = 2, alignment: int = 64) -> bytes:
    """Make a file of Q8_0 tensors of 64 values (68 bytes each) with every kind of metadata."""
    pairs = [
        text(b"general.name") + struct.pack("<I", 8) + text("späte Liste".encode()),
        text(b"general.alignment") + struct.pack("<II", 4, alignment),
        text(b"a.flag") + struct.pack("<IB", 7, 1),
        text(b"a.number") + struct.pack("<Id", 12, 1.5),
        text(b"tokens") + struct.pack("<IIQ", 9, 8, 3) + text(b"one") + text(b"") + text(b"three"),
        text(b"scores") + struct.pack("<IIQ", 9, 6, 2) + struct.pack("<ff", 1.0, 2.0),
    ]
    step = -(-68 // alignment) * alignment
    infos = [
        text(b"t%d" % number) + struct.pack("<I", 1) + struct.pack("<QIQ", 64, 8, number * step)
        for number in range(tensors)
    ]
    head = b"GGUF" + struct.pack("<IQQ", 3, tensors, len(pairs)) + b"".join(pairs) + b"".join(infos)
    data = -(-len(head) // alignment) * alignment
    return head.ljust(data, b"\0") + b"\2" * ((tensors - 1) * step + 68)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a model in two parts with an index."""
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name in names:
        (tmp_path / name).write_bytes(safetensors())
    index = {"metadata": {"total_size": 128}, "weight_map": {"a": names[0], "b": names[0], "c": names[1]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_a_whole_model_has_no_fault(folder: Path) -> None:
    assert fault_of(str(folder)) is None


def test_a_part_that_the_index_names_and_that_is_not_there_is_named(folder: Path) -> None:
    part = folder / "model-00002-of-00002.safetensors"
    part.unlink()
    assert fault_of(str(folder)) == f"{part}: No such file or directory"


@pytest.mark.parametrize("left", [0, 5, 60, len(safetensors()) - 1])
def test_a_part_that_was_cut_while_it_was_copied_is_named(folder: Path, left: int) -> None:
    part = folder / "model-00001-of-00002.safetensors"
    part.write_bytes(safetensors()[:left])
    found = fault_of(str(folder))
    assert found is not None
    assert found.startswith(f"{part}: it ")


def test_what_is_missing_at_the_end_is_counted(folder: Path) -> None:
    part = folder / "model-00001-of-00002.safetensors"
    whole = len(safetensors())
    part.write_bytes(safetensors()[:-1])
    assert fault_of(str(folder)) == f"{part}: it has {whole - 1} bytes and should have {whole}; copy it again"


def test_without_an_index_every_safetensors_file_counts_and_others_do_not(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()
    (folder / "training_args.bin").write_bytes(b"")
    assert fault_of(str(folder)) is None
    (folder / "adapter.safetensors").write_bytes(safetensors()[:-1])
    assert "adapter.safetensors: it has" in str(fault_of(str(folder)))


def test_a_pointer_of_git_lfs_is_told_for_what_it_is(folder: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (folder / "model-00001-of-00002.safetensors").write_bytes(pointer)
    assert "only a pointer of Git LFS" in str(fault_of(str(folder)))


@pytest.mark.parametrize("content", ["[]", "{", '{"weight_map": 1}', '{"weight_map": {"a": 1}}', "[" * 100_000])
def test_an_index_that_is_none_is_told(folder: Path, content: str) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(content)
    assert fault_of(str(folder)) == f"{index}: it is no index of weights"


@pytest.mark.parametrize("header", [b"[]", b'{"a": 1}', b'{"a": {"data_offsets": []}}', b"not json"])
def test_a_header_that_is_none_is_told(tmp_path: Path, header: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    assert "header" in str(fault_of(str(tmp_path)))


def test_a_folder_without_weights_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert "there are no weights in it" in str(fault_of(str(tmp_path)))


def test_files_of_other_kinds_need_only_not_be_empty(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    assert fault_of(str(tmp_path)) is None
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert fault_of(str(tmp_path)) == f"{tmp_path}/pytorch_model.bin: it is empty"


def test_a_gguf_file_is_whole_or_cut_at_any_byte(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(gguf())
    assert fault_of(str(file)) is None
    for left in range(1, len(gguf())):
        file.write_bytes(gguf()[:left])
        assert fault_of(str(file)) is not None, left


@pytest.mark.parametrize("at", range(4, 40))
def test_no_byte_of_a_gguf_header_makes_the_look_fail(tmp_path: Path, at: int) -> None:
    file = tmp_path / "m.gguf"
    broken = bytearray(gguf())
    broken[at] ^= 0xFF
    file.write_bytes(broken)
    fault_of(str(file))


def test_a_missing_part_of_a_gguf_model_is_named(tmp_path: Path) -> None:
    for number in (1, 3):
        (tmp_path / f"m-0000{number}-of-00003.gguf").write_bytes(gguf())
    first = tmp_path / "m-00001-of-00003.gguf"
    assert fault_of(str(first)) == f"{first}: the part m-00002-of-00003.gguf is missing"
