# SPDX-License-Identifier: Apache-2.0
"""Small commands of this machine that an ssh connection needs: bounded, and nothing is left of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import anyio
import anyio.abc

KEPT = 65_536
"""Bytes that are kept of what one prints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended, and what it printed. `code` None: it did not end in time and was killed."""

    code: int | None
    words: bytes


async def run_here(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    within_s: float | None,
    collect: Literal["out", "err", "none"] = "err",
) -> Ended:
    """Run one command; it is killed with its session when it takes longer than `within_s`.

    `collect`: none for one that leaves a process behind, which would keep a pipe open.
    """
    process = await anyio.open_process(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if collect == "out" else subprocess.DEVNULL,
        stderr=subprocess.PIPE if collect == "err" else subprocess.DEVNULL,
        env=dict(environment),
        start_new_session=True,
        umask=0o077,
    )
    words = bytearray()
    try:
        with anyio.move_on_after(within_s):
            stream = process.stdout or process.stderr
            if stream is not None:
                async for chunk in stream:
                    words.extend(chunk[: KEPT - len(words)])
            await process.wait()
    finally:
        code = process.returncode
        await end(process)
    return Ended(code=code, words=bytes(words))


async def end(process: anyio.abc.Process) -> None:
    """Leave nothing of a process: what has not ended is killed with its session."""
    with anyio.CancelScope(shield=True):
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        await process.aclose()


def last_line(words: bytes) -> str:
    """Take the last line that says something, for a sentence."""
    lines = [line.strip() for line in words.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
