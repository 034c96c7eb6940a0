# SPDX-License-Identifier: Apache-2.0
"""Where one engine may write: its folder, home, caches, temporary files and socket, all private, with short paths."""

from __future__ import annotations

import os
import socket
from typing import Callable, List, NamedTuple, Optional, Set

MAX_SOCKET_PATH = 100
"""AF_UNIX allows 107 bytes; the rest is for what an engine appends."""
MAX_TMP_PATH = 60
"""Engines put sockets with names of a UUID's length into TMPDIR."""


class Places(NamedTuple):
    """Absolute paths of one instance. `short` is a folder outside of the run directory, removed at the end."""

    folder: str
    work: str
    home: str
    cache: str
    tmp: str
    socket: str
    key_file: str
    log: str
    short: Optional[str]


def make_places(run_dir: str, instance: str, tmpdir: Optional[str], *, new_short: Callable[[str], None]) -> Places:
    """Make an instance's folders; raise OSError with the path that could not be made.

    `new_short` is told of a folder outside of the run directory as soon as it exists, so that it is surely removed.
    """
    folder = os.path.join(os.path.abspath(run_dir), instance)
    sock, tmp, short = os.path.join(folder, "e.sock"), os.path.join(folder, "tmp"), None
    if len(os.fsencode(sock)) > MAX_SOCKET_PATH or len(os.fsencode(tmp)) > MAX_TMP_PATH:
        short = make_short_folder(tmpdir)
        new_short(short)
        tmp = os.path.join(short, "t")
        if len(os.fsencode(sock)) > MAX_SOCKET_PATH:
            sock = os.path.join(short, "e.sock")
    places = Places(
        folder=folder,
        work=os.path.join(folder, "work"),
        home=os.path.join(folder, "home"),
        cache=os.path.join(folder, "cache"),
        tmp=tmp,
        socket=sock,
        key_file=os.path.join(folder, "engine.key"),
        log=os.path.join(folder, "engine.log"),
        short=short,
    )
    for path in (places.folder, places.work, places.home, places.cache, places.tmp):
        os.makedirs(path, mode=0o700, exist_ok=True)
    os.chmod(places.folder, 0o700)
    return places


def make_short_folder(tmpdir: Optional[str]) -> str:
    """Make a new 0700 folder with a short name under the job's TMPDIR, or under /tmp where that is long or unusable."""
    failure: Optional[OSError] = None
    for parent in (tmpdir, "/tmp"):  # noqa: S108  the folder made in it is new and ours alone
        if not parent or len(os.fsencode(parent)) > MAX_TMP_PATH - 16:
            continue
        path = os.path.join(os.path.abspath(parent), "f-" + os.urandom(5).hex())
        try:
            os.mkdir(path, 0o700)
        except OSError as error:
            failure = error
            continue
        return path
    raise failure or OSError("no folder for temporary files has a short enough path")


def write_private(path: str, text: str) -> None:
    """Write a secret to a file that nobody else could ever read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def unreadable(paths: List[str]) -> Optional[str]:
    """Name the first of the files that is missing or cannot be read, with why; None if all can."""
    for path in paths:
        try:
            if os.path.isdir(path):
                os.listdir(path)
            else:
                os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        except OSError as error:
            return f"{path}: {error.strerror}"
    return None


def free_port(promised: Set[int]) -> int:
    """Find a free port on loopback, none of those promised already, and promise it.

    Another process may still take it before the engine listens; the engine then ends and says so.
    """
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port not in promised:
            promised.add(port)
            return port


def remove_leftovers(places: Places) -> None:
    """Remove what an engine has kept for itself (compiled code, prompts maybe), so that only logs and reports stay."""
    for path in (places.work, places.home, places.cache, places.tmp, places.short):
        if path is not None:
            remove_tree(path)


def remove_tree(path: str) -> None:
    """Remove a folder of ours with all it holds; what cannot be removed stays."""
    import shutil  # noqa: PLC0415  20 ms that the start of the engine need not wait for

    shutil.rmtree(path, ignore_errors=True)
