# SPDX-License-Identifier: Apache-2.0
"""Where an SQLite file may lie: in a folder that can be written, on a file system of this machine."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from firstkit.core.errors import SiteError

SHARED = frozenset(
    """
    9p acfs afs beegfs ceph cifs coda dvs fhgfs fuse gfs gfs2 glusterfs gpfs kafs lustre mmfs ncpfs nfs nfs3 nfs4 ocfs2
    openafs orangefs panfs prl_fs pvfs2 quobyte sdcardfs smb2 smb3 smbfs vboxsf vmhgfs wekafs yfs
    """.split()  # noqa: SIM905 a list of words is read and kept in order more easily
)
"""File systems (as named in mountinfo) that other machines may have mounted too. SQLite's write-ahead log keeps its
index in memory that only processes of one machine share (https://sqlite.org/wal.html, section 1): two machines would
damage the file."""

LOCAL_FUSE = frozenset({"fuse.fuse-overlayfs", "fuse.overlayfs", "fuseblk"})
"""FUSE file systems that are made of local disks: containers without root, and removable disks."""


def file_system_of(path: Path, mountinfo: str) -> str:
    """Name the file system that holds `path` (absolute, links resolved), as /proc/self/mountinfo tells.

    The deepest mount point above the path counts, and of several at one point the last, which hides the others
    (proc(5)).
    """
    best, found = -1, ""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        point = _unescape(fields[4])
        if path.is_relative_to(point) and len(point) >= best:
            best, found = len(point), right.split(" ", 1)[0]
    return found


def _unescape(point: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        point = point.replace(code, char)
    return point


def is_shared(kind: str) -> bool:
    """Tell whether a file system of that kind may be mounted by several machines at once."""
    return kind in SHARED or (kind.startswith("fuse.") and kind not in LOCAL_FUSE)


def prepare(database: Path, *, mountinfo: str | None = None) -> None:
    """Make the file (0600) and its folder (0700) when missing; SiteError when SQLite cannot live there.

    `mountinfo` is given by tests; otherwise the kernel's own is read.
    """
    folder = database.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if mountinfo is None:
            mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
        kind = file_system_of(folder.resolve(), mountinfo)
        if is_shared(kind):
            raise SiteError(
                f"the store cannot lie in {folder}: that is on a network file system ({kind}), where SQLite "
                "loses data; choose a folder on a local disk for `data`, or use PostgreSQL (`store: postgresql://…`)",
                code="store_on_network_file_system",
            )
        os.close(os.open(database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    except OSError as error:
        raise _cannot_write(database, error) from error


def _cannot_write(database: Path, error: OSError) -> SiteError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return SiteError(f"the disk that holds {database.parent} is full; free some space", code="store_full")
    what = error.filename or database
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return SiteError(
            f"the store {database} cannot be written ({what}: {error.strerror}); "
            "make its folder writable for this user, or choose another for `data`",
            code="store_not_writable",
        )
    return SiteError(f"the store {database} cannot be made ({what}: {error.strerror})", code="store_not_writable")
