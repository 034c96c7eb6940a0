# SPDX-License-Identifier: Apache-2.0
"""Whether weights and node are fit for an engine, looked at before it starts: minutes of loading cost more.

Every look may hang, at a file system or a driver, so all of it happens in a child process that is given up in time.
What could not be found out is not held against anybody: the engine starts.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from typing import Callable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .documents import EngineSpec, Needs
from .folders import Places
from .processes import Prctl

WEIGHTS_S = 5.0
NODE_S = 25.0
TOOL_S = 10.0
RELEASE_S = 6.0
"""How long the memory of a GPU may take to be released by whoever was there before."""
SHM = "/dev/shm"  # noqa: S108  it is only measured
_SLICE_S = 0.1
_PROBE = b"\0" * 65536


class Fault(NamedTuple):
    """Why the engine is not started."""

    reason: str
    detail: str


class Findings(NamedTuple):
    """What was found: a fault, or none; and what could not be looked at in time."""

    fault: Optional[Fault]
    unseen: Optional[str]


def look(
    spec: EngineSpec, environment: Mapping[str, str], places: Places, *, prctl: Prctl, hurried: Callable[[], bool]
) -> Findings:
    """Look at weights, then at the node; `hurried` tells that the job shall end, and that looking has no point."""
    steps: List[Tuple[str, float, Callable[[], Optional[Fault]]]] = []
    if spec.weights:
        steps.append(("the weights", WEIGHTS_S, lambda: weights(spec.weights)))
    if spec.needs is not None:
        needs = spec.needs
        steps.append(("the node", NODE_S, lambda: node(needs, environment, places)))
    if not steps:
        return Findings(None, None)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            prctl.die_with_parent()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                signal.signal(number, signal.SIG_DFL)
            _report([step for _, _, step in steps], write)
        finally:
            os._exit(0)
    os.close(write)
    try:
        return _read([(name, deadline_s) for name, deadline_s, _ in steps], read, hurried)
    finally:
        os.close(read)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _forget(pid)


def _forget(pid: int) -> None:
    """Wait for the child if it ends at once; one that hangs in the kernel is left to whoever reaps children later."""
    for _ in range(20):
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                return
        time.sleep(0.005)


def _report(steps: Sequence[Callable[[], Optional[Fault]]], pipe: int) -> None:
    """Write a line for each step, in the child; the first fault is the last line."""
    for step in steps:
        fault = step()
        os.write(pipe, json.dumps(fault).encode() + b"\n")
        if fault is not None:
            return


def _read(steps: Sequence[Tuple[str, float]], pipe: int, hurried: Callable[[], bool]) -> Findings:
    """Read the lines as they come, each with its own deadline."""
    told = b""
    for name, deadline_s in steps:
        deadline = time.monotonic() + deadline_s
        while b"\n" not in told:
            if hurried():
                return Findings(None, "the job is to end")
            if time.monotonic() >= deadline:
                return Findings(None, f"{name} could not be looked at within {deadline_s:g} s")
            if select.select([pipe], [], [], _SLICE_S)[0]:
                more = os.read(pipe, 65536)
                if not more:
                    return Findings(None, f"{name} could not be looked at: the child process that looks has ended")
                told += more
        line, _, told = told.partition(b"\n")
        fault = json.loads(line)
        if fault is not None:
            return Findings(Fault(*fault), None)
    return Findings(None, None)


# ------------------------------------------------------------------------------------------------------- in the child


def weights(paths: Sequence[str]) -> Optional[Fault]:
    """Find the first file of the weights that is missing or not whole."""
    from .weights import fault_of  # noqa: PLC0415  only the child needs it

    for path in paths:
        detail = fault_of(path)
        if detail is not None:
            return Fault("WEIGHTS_MISSING", detail)
    return None


def node(needs: Needs, environment: Mapping[str, str], places: Places) -> Optional[Fault]:
    """Find what the node lacks: shared memory, room on its disks, GPUs, or free memory on them."""
    return _shared_memory(needs.shm_bytes) or _disks(needs.disk_bytes, places) or _gpus(needs, environment)


def _shared_memory(needed: int) -> Optional[Fault]:
    if not needed:
        return None
    try:
        free = _free(SHM)
    except OSError as error:
        return Fault("NODE_UNFIT", f"{SHM}: {error.strerror}")
    if free < needed:
        return Fault("NODE_UNFIT", f"{SHM} has {_mib(free)} free, and {_mib(needed)} are needed")
    return None


def _disks(needed: int, places: Places) -> Optional[Fault]:
    """See that the engine can write; where it cannot, it is the node's fault only on a disk of the node's own."""
    for path in (places.tmp, places.cache):
        own = places.short is not None and path.startswith(places.short)
        reason = "NODE_UNFIT" if own else "SETUP_FAILED"
        try:
            free = _free(path)
            if free >= needed:
                _try_to_write(path)
                continue
        except OSError as error:
            return Fault(reason, f"{path} cannot be written: {error.strerror}; make room there")
        return Fault(reason, f"{path} has {_mib(free)} free, and {_mib(needed)} are needed; make room there")
    return None


def _try_to_write(folder: str) -> None:
    """Write a little: a quota shows in no other way."""
    path = os.path.join(folder, f"room-{os.getpid()}")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, _PROBE)
    finally:
        os.close(descriptor)
        os.unlink(path)


def _gpus(needs: Needs, environment: Mapping[str, str]) -> Optional[Fault]:
    if not needs.gpus:
        return None
    from . import gpus  # noqa: PLC0415  only jobs with GPUs need it

    ids = gpus.named(environment)
    deadline = time.monotonic() + RELEASE_S
    while True:
        try:
            listed = gpus.listing(ids, environment, TOOL_S)
        except gpus.ToolFailed as failure:
            return Fault("NODE_UNFIT", str(failure))
        count, by = gpus.shown(ids, listed)
        if count < needs.gpus:
            asked = "1 GPU was" if needs.gpus == 1 else f"{needs.gpus} GPUs were"
            return Fault("NODE_UNFIT", f"{asked} asked for and {count or 'none'} can be used ({by})")
        found = gpus.crowded(ids, listed or [], needs.gpu_memory)
        if found is None:
            return None
        if time.monotonic() >= deadline:
            return Fault("NODE_UNFIT", found[1])
        time.sleep(1.0)


def _free(path: str) -> int:
    told = os.statvfs(path)
    return told.f_bavail * told.f_frsize


def _mib(size: int) -> str:
    return f"{size / 1024**2:.0f} MiB"
