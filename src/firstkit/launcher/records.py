# SPDX-License-Identifier: Apache-2.0
"""The launcher's own files in the run directory: its log, status.json and exit.json. None of them may ever stop it."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any, Dict, List, Optional, Sequence

MAX_LOG_BYTES = 1024 * 1024
EXIT = "exit.json"
STATUS = "status.json"


class LauncherLog:
    """launcher.log: one line for each thing that happened, seconds since the job began in front; bounded."""

    def __init__(self, run_dir: str, *, secrets: Sequence[str], began: float) -> None:
        self._path = os.path.join(run_dir, "launcher.log")
        self._secrets = [secret for secret in secrets if secret]
        self._began = began

    def note(self, text: str) -> None:
        """Append a line; a log that cannot be written is no reason to do anything else differently."""
        line = f"{time.monotonic() - self._began:10.3f} {strike_out(text, self._secrets)[:2000]}\n"
        with contextlib.suppress(OSError):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(descriptor).st_size > MAX_LOG_BYTES:
                    os.replace(self._path, self._path + ".1")
                os.write(descriptor, line.encode("utf-8", "replace"))
            finally:
                os.close(descriptor)


def strike_out(text: str, secrets: Sequence[str]) -> str:
    """Replace each secret by `***`."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def encode(document: Dict[str, Any]) -> bytes:
    """Write a document as it travels and as it lies in a file."""
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def write_whole(path: str, data: bytes) -> Optional[str]:
    """Write a file by rename, whole or not at all; give a sentence if that was impossible, and leave no half of it."""
    new = f"{path}.new"
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            if os.write(descriptor, data) != len(data):
                raise OSError(28, os.strerror(28))
        finally:
            os.close(descriptor)
        os.replace(new, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(new)
        return f"{os.path.basename(path)} cannot be written: {error.strerror}"
    return None


def exit_report(
    *,
    reason: str,
    detail: Optional[str],
    code: Optional[int],
    signal: Optional[int],
    log_tail: List[str],
    image: Optional[str] = None,
) -> Dict[str, Any]:
    """Say how an instance or a job ended; `image` is the digest of its container's, if it had one."""
    report: Dict[str, Any] = {"schema": 1, "reason": reason, "detail": detail, "code": code, "signal": signal}
    return {**report, "log_tail": log_tail, **({"image": image} if image else {})}
