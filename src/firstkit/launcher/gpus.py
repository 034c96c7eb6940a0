# SPDX-License-Identifier: Apache-2.0
"""The GPUs of a job: how many it may use, and how much of their memory is free, as the vendors' tools tell.

What names a GPU in a variable is opaque: an index, a UUID, or a MIG or tile identifier. It is counted and compared as
text, never read as a number. The tools' output is known from their documentation; none was run on such hardware here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, cast

VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
"""What a scheduler sets to give a job its GPUs; of several the first counts."""
NOTHING = frozenset({"", "-1", "NoDevFiles"})
"""What stands in a variable for no GPU at all; the last is Slurm's."""


class Gpu(NamedTuple):
    """One GPU as a tool lists it; `names` are all the texts that may stand for it, memory in bytes if it is told."""

    names: Tuple[str, ...]
    total: Optional[int]
    free: Optional[int]


class Tool(NamedTuple):
    """A vendor's program that lists the GPUs it can see."""

    argv: Tuple[str, ...]
    parse: Callable[[str], List[Gpu]]
    variables: Tuple[str, ...]
    """The variables of whose GPUs it may know."""


class ToolFailed(Exception):
    """A tool is there and does not do its work, as where a driver or a GPU is broken; the message is its own."""


def named(environment: Mapping[str, str]) -> Optional[Tuple[str, Tuple[str, ...]]]:
    """Give the variable that names the job's GPUs, and the names; None if there is none."""
    for variable in VARIABLES:
        if variable in environment:
            names = [name.strip() for name in environment[variable].split(",")]
            return variable, tuple(name for name in names if name not in NOTHING)
    return None


def shown(ids: Optional[Tuple[str, Tuple[str, ...]]], listed: Optional[Sequence[Gpu]]) -> Tuple[int, str]:
    """Count the GPUs that the job may use, and say what they were counted by."""
    if ids is not None:
        return len(ids[1]), f"{ids[0]}={','.join(ids[1])[:200]}"
    if listed is not None:
        return len(listed), "as the vendor's tool lists them"
    return _device_files(), "by their files in /dev"


def _device_files() -> int:
    """Count GPUs where neither variable nor tool tells of any."""
    try:
        nvidia = [name for name in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", name)]
        rendering = os.listdir("/dev/dri") if os.path.isdir("/dev/dri") else []
    except OSError:
        return 0
    return len(nvidia) or len([name for name in rendering if name.startswith("renderD")])


def crowded(
    ids: Optional[Tuple[str, Tuple[str, ...]]], listed: Sequence[Gpu], share: float
) -> Optional[Tuple[Gpu, str]]:
    """Find a GPU of the job of which less than this share of the memory is free, and say so.

    A GPU that no tool lists under the name it was given by, or whose memory is not told, is not judged.
    """
    for gpu in listed if ids is None else [gpu for name in ids[1] for gpu in listed if name in gpu.names]:
        if gpu.total and gpu.free is not None and gpu.free < share * gpu.total:
            gib = 1024.0**3
            return gpu, (
                f"GPU {gpu.names[0]} has {gpu.free / gib:.1f} of {gpu.total / gib:.1f} GiB free, "
                f"and {share:.0%} are needed: something else is on it"
            )
    return None


def _ask(tool: Tool, environment: Mapping[str, str], deadline_s: float) -> Optional[List[Gpu]]:
    """Ask a tool; None if it is not installed, `ToolFailed` if it does not answer properly."""
    name = tool.argv[0]
    try:
        process = subprocess.Popen(
            tool.argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=dict(environment)
        )
    except OSError:
        return None
    try:
        out = process.communicate(timeout=deadline_s)[0].decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        process.kill()  # not waited for: a process in a broken driver may never end
        raise ToolFailed(f"{name} does not answer within {deadline_s:g} s") from None
    if process.returncode != 0:
        words = " ".join(out.split())[:300]
        raise ToolFailed(f"{name} fails with code {process.returncode}: {words}")
    try:
        return tool.parse(out)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def parse_nvidia(text: str) -> List[Gpu]:
    """Read `nvidia-smi --query-gpu=index,uuid,memory.total,memory.free`; memory that is `[N/A]` stays untold."""
    found: List[Gpu] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 4:
            found.append(Gpu((cells[0], cells[1]), _mib(cells[2]), _mib(cells[3])))
    return found


def _mib(cell: str) -> Optional[int]:
    return int(cell) * 1024 * 1024 if cell.isdigit() else None


def parse_rocm(text: str) -> List[Gpu]:
    """Read `rocm-smi --showmeminfo vram --showuniqueid --json`: an object for each `cardN`, beside others."""
    document = cast("Dict[str, Dict[str, Any]]", json.loads(text))
    found: List[Gpu] = []
    for card, told in document.items():
        if not re.fullmatch(r"card\d+", card):
            continue
        total, used = str(told.get("VRAM Total Memory (B)", "")), str(told.get("VRAM Total Used Memory (B)", ""))
        unique = str(told.get("Unique ID", ""))
        uuid = (f"GPU-{unique[2:]}",) if unique.startswith("0x") else ()
        known = total.isdigit() and used.isdigit()
        free = int(total) - int(used) if known else None
        found.append(Gpu((card[len("card") :], *uuid), int(total) if known else None, free))
    return found


def parse_xpu(text: str) -> List[Gpu]:
    """Read `xpu-smi discovery -j`; how much memory is free it does not tell."""
    document = cast("Dict[str, List[Dict[str, Any]]]", json.loads(text))
    return [
        Gpu((str(device["device_id"]), str(device.get("uuid", ""))), None, None) for device in document["device_list"]
    ]


TOOLS = (
    Tool(
        ("nvidia-smi", "--query-gpu=index,uuid,memory.total,memory.free", "--format=csv,noheader,nounits"),
        parse_nvidia,
        VARIABLES[:1],
    ),
    Tool(("rocm-smi", "--showmeminfo", "vram", "--showuniqueid", "--json"), parse_rocm, VARIABLES[:3]),
    Tool(("xpu-smi", "discovery", "-j"), parse_xpu, VARIABLES[3:]),
)


def listing(
    ids: Optional[Tuple[str, Tuple[str, ...]]], environment: Mapping[str, str], deadline_s: float
) -> Optional[List[Gpu]]:
    """List the GPUs by the first tool there is for them; None without one, `ToolFailed` if it does not work."""
    for tool in TOOLS:
        if ids is None or ids[0] in tool.variables:
            listed = _ask(tool, environment, deadline_s)
            if listed is not None:
                return listed
    return None
