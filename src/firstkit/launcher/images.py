# SPDX-License-Identifier: Apache-2.0
"""Which image an engine runs in, beyond its name: a digest, found out in the background while the engine loads."""

from __future__ import annotations

import os
import re
import threading
from typing import Callable, Mapping, Optional

from .documents import ContainerSpec

ASK_S = 30.0
_CHUNK_BYTES = 4 * 1024 * 1024
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def find_digest(spec: ContainerSpec, environment: Mapping[str, str], found: Callable[[Optional[str]], None]) -> None:
    """Find the digest in a thread of its own, which keeps nobody waiting at the end; `found` is called from there.

    What it needs is imported there too: an engine that starts at once should not wait for it.
    """
    threading.Thread(target=lambda: found(digest_of(spec, environment)), name="digest", daemon=True).start()


def digest_of(spec: ContainerSpec, environment: Mapping[str, str]) -> Optional[str]:
    """Digest an image: of a file its bytes, of a folder its listing, of a name what the runtime has under it.

    A listing's digest (paths, sizes, times of change) only tells that something is different. None: cannot be told.
    """
    import subprocess  # noqa: PLC0415  see above

    try:
        if os.path.isdir(spec.image):
            return f"listing-sha256:{_listing(spec.image)}"
        if spec.image.startswith("/"):
            return f"sha256:{_content(spec.image)}"
        if spec.runtime in ("podman", "podman-hpc"):
            return _asked(spec, environment)
    except (OSError, subprocess.SubprocessError):
        return None
    return None


def _content(path: str) -> str:
    import hashlib  # noqa: PLC0415  see above

    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _listing(folder: str) -> str:
    import hashlib  # noqa: PLC0415  see above

    digest = hashlib.sha256()
    for at, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(at, name)
            told = os.lstat(path)
            line = f"{os.path.relpath(path, folder)}\0{told.st_size}\0{told.st_mtime_ns}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _asked(spec: ContainerSpec, environment: Mapping[str, str]) -> Optional[str]:
    """Ask the runtime. Only what it prints counts: whoever reaps children may have taken its exit code."""
    import subprocess  # noqa: PLC0415  see above

    answer = subprocess.run(
        [spec.runtime, "image", "inspect", "--format", "{{.Digest}}", spec.image],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=ASK_S,
        check=False,
    )
    digest = _DIGEST.search(answer.stdout.decode("ascii", "replace"))
    return digest.group(0) if digest else None
