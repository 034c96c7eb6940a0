# SPDX-License-Identifier: Apache-2.0
"""CPU time and memory of process trees, read from /proc.

CPU time holds on a shared machine where wall time does not. It is the sum of `schedstat` (nanoseconds on a CPU,
proc(5)) over all threads of the tree. A thread that ended meanwhile takes its figure along; then the kernel's ticks
(10 ms) are used and `exact` is false.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PROC = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The counters of a process tree at one moment."""

    at_s: float
    ticks_s: float
    thread_ns: Mapping[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """CPU time of a process tree between two readings."""

    cpu_s: float
    wall_s: float
    exact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of a process tree. `pss` shares out what several processes have in common."""

    rss_bytes: int
    pss_bytes: int
    processes: int


def stat_fields(pid: int) -> list[str]:
    """Give the fields of /proc/PID/stat behind the command's name, which may hold anything. The first is the state."""
    text = (PROC / str(pid) / "stat").read_text(errors="replace")
    return text[text.rindex(")") + 2 :].split()


def argv(pid: int) -> list[str]:
    """Give the arguments of a process; none when it has ended."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def tree(roots: Iterable[int]) -> list[int]:
    """Give the processes among `roots` that live, and all their descendants."""
    parent: dict[int, int] = {}
    for name in (entry.name for entry in PROC.iterdir()):
        if name.isdigit():
            try:
                parent[int(name)] = int(stat_fields(int(name))[1])
            except OSError:
                continue
    found = {pid for pid in roots if pid in parent}
    grew = True
    while grew:
        more = {pid for pid, of in parent.items() if of in found} - found
        found |= more
        grew = bool(more)
    return sorted(found)


def read(roots: Iterable[int]) -> Reading:
    """Read the CPU counters of the trees under `roots`."""
    ticks = 0
    thread_ns: dict[int, int] = {}
    for pid in tree(roots):
        try:
            fields = stat_fields(pid)
            ticks += sum(int(fields[n]) for n in (11, 12, 13, 14))  # utime, stime and those of children waited for
            threads = [entry.name for entry in (PROC / str(pid) / "task").iterdir()]
        except OSError:
            continue
        for thread in threads:
            try:
                schedstat = (PROC / str(pid) / "task" / thread / "schedstat").read_text()
            except OSError:
                continue
            thread_ns[int(thread)] = int(schedstat.split()[0])
    return Reading(at_s=time.monotonic(), ticks_s=ticks / TICKS_PER_S, thread_ns=thread_ns)


def between(before: Reading, after: Reading) -> Spent:
    """Give what was spent between two readings of one tree."""
    exact = before.thread_ns.keys() <= after.thread_ns.keys()
    grown_ns = sum(ns - before.thread_ns.get(thread, 0) for thread, ns in after.thread_ns.items())
    cpu_s = grown_ns / 1e9 if exact else after.ticks_s - before.ticks_s
    return Spent(cpu_s=cpu_s, wall_s=after.at_s - before.at_s, exact=exact)


def memory(roots: Iterable[int]) -> Memory:
    """Read the memory of the trees under `roots`."""
    rss = pss = 0
    pids = tree(roots)
    for pid in pids:
        try:
            rss += int((PROC / str(pid) / "statm").read_text().split()[1]) * PAGE_BYTES
            found = re.search(r"^Pss:\s+(\d+)", (PROC / str(pid) / "smaps_rollup").read_text(), re.MULTILINE)
        except OSError:
            continue
        pss += int(found.group(1)) * 1024 if found else 0
    return Memory(rss_bytes=rss, pss_bytes=pss, processes=len(pids))


def pace() -> float:
    """Give the CPU milliseconds of a fixed job in this process: how slow the machine is at the moment."""
    began = time.process_time()
    x = 0
    seen: dict[int, int] = {}
    for i in range(300_000):
        x = (x * 31 + i) & 0xFFFFFF
        seen[x & 1023] = i
    return (time.process_time() - began) * 1e3
