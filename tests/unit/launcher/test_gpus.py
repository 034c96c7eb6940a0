# SPDX-License-Identifier: Apache-2.0
"""GPUs are counted by opaque names, and the vendors' listings read as they are documented."""

import pytest

from firstkit.launcher.gpus import Gpu, crowded, named, parse_nvidia, parse_rocm, parse_xpu, shown

GIB = 1024**3
NVIDIA = """\
0, GPU-5d5ba0d6-0000-0000-0000-000000000000, 81559, 81000
1, GPU-77777777-0000-0000-0000-000000000000, 81559, 1000
2, GPU-99999999-0000-0000-0000-000000000000, [N/A], [N/A]
"""
ROCM = """\
{"card0": {"Unique ID": "0x1a2b", "VRAM Total Memory (B)": "68702699520", "VRAM Total Used Memory (B)": "10960896"},
 "card1": {"Unique ID": "N/A", "VRAM Total Memory (B)": "68702699520", "VRAM Total Used Memory (B)": "60000000000"},
 "system": {"Driver version": "6.3"}}
"""


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, ("0", "1")),
        ({"CUDA_VISIBLE_DEVICES": "GPU-5d5ba0d6, MIG-a/7/0"}, ("GPU-5d5ba0d6", "MIG-a/7/0")),
        ({"ROCR_VISIBLE_DEVICES": "GPU-1a2b"}, ("GPU-1a2b",)),
        ({"ZE_AFFINITY_MASK": "0.0,0.1,1"}, ("0.0", "0.1", "1")),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, ()),
        ({"CUDA_VISIBLE_DEVICES": ""}, ()),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, ()),
    ],
)
def test_what_names_a_gpu_is_opaque(environment: dict[str, str], names: tuple[str, ...]) -> None:
    ids = named(environment)
    assert ids is not None
    assert ids[1] == names
    assert shown(ids, None)[0] == len(names)


def test_without_a_variable_the_tool_counts() -> None:
    assert named({"PATH": "/bin"}) is None
    assert shown(None, parse_nvidia(NVIDIA)) == (3, "as the vendor's tool lists them")


def test_nvidias_listing_is_read() -> None:
    assert parse_nvidia(NVIDIA)[0] == Gpu(
        ("0", "GPU-5d5ba0d6-0000-0000-0000-000000000000"), 81559 * 1024**2, 81000 * 1024**2
    )
    assert parse_nvidia(NVIDIA)[2].free is None
    assert parse_nvidia("No devices were found\n") == []


def test_amds_listing_is_read() -> None:
    first, second = parse_rocm(ROCM)
    assert first.names == ("0", "GPU-1a2b")
    assert second.names == ("1",)
    assert first.free == 68702699520 - 10960896


def test_intels_listing_is_read() -> None:
    assert parse_xpu('{"device_list": [{"device_id": 0, "uuid": "00-1"}]}') == [Gpu(("0", "00-1"), None, None)]


def test_a_gpu_that_something_else_is_on_is_found_by_index_and_by_uuid() -> None:
    listed = parse_nvidia(NVIDIA)
    for name in ("1", "GPU-77777777-0000-0000-0000-000000000000"):
        found = crowded(("CUDA_VISIBLE_DEVICES", (name,)), listed, 0.9)
        assert found is not None
        assert found[1] == "GPU 1 has 1.0 of 79.6 GiB free, and 90% are needed: something else is on it"
    assert crowded(None, listed, 0.9) is not None


@pytest.mark.parametrize("name", ["0", "2", "MIG-77777777", "01", "7"])
def test_what_is_free_untold_or_not_listed_under_its_name_is_not_judged(name: str) -> None:
    assert crowded(("CUDA_VISIBLE_DEVICES", (name,)), parse_nvidia(NVIDIA), 0.9) is None
