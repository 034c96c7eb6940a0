# SPDX-License-Identifier: Apache-2.0
"""SQLite's file only where the machine alone has it."""

from pathlib import Path

import pytest

from firstkit.adapters.store.place import file_system_of, is_shared, prepare
from firstkit.core.errors import SiteError

MOUNTS = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:20 / /proc rw - proc proc rw
30 21 0:50 / /home rw,relatime shared:5 - nfs4 server:/home rw,vers=4.2
31 30 8:2 / /home/scratch rw - xfs /dev/sda2 rw
32 21 0:60 /a /eagle rw - lustre 10.0.0.1@o2ib:/eagle rw
33 21 0:61 / /mnt/with\\040space rw - fuse.sshfs me@there: rw
34 21 0:62 / /over rw - nfs server:/over rw
35 34 8:3 / /over rw - ext4 /dev/sda3 rw
36 21 0:63 / /oddly\\134named rw master:1 propagate_from:2 - cifs //there/x rw
line that is none
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/first", "ext4"),
        ("/home/ann/first", "nfs4"),
        ("/home/scratch/first", "xfs"),
        ("/homework", "ext4"),
        ("/eagle", "lustre"),
        ("/mnt/with space/a", "fuse.sshfs"),
        ("/over/a", "ext4"),
        ("/oddly\\named/a", "cifs"),
    ],
)
def test_the_deepest_and_last_mount_above_a_path_holds_it(path: str, kind: str) -> None:
    assert file_system_of(Path(path), MOUNTS) == kind


NETWORKED = "nfs nfs4 cifs smb3 lustre gpfs fuse fuse.sshfs fuse.glusterfs beegfs ceph fuse.ceph afs 9p wekafs panfs"
LOCAL = "ext4 xfs btrfs zfs tmpfs overlay f2fs fuseblk fuse.fuse-overlayfs bcachefs"


@pytest.mark.parametrize("kind", NETWORKED.split())
def test_what_other_machines_may_have_mounted_is_shared(kind: str) -> None:
    assert is_shared(kind)


@pytest.mark.parametrize("kind", LOCAL.split())
def test_what_this_machine_alone_has_is_not(kind: str) -> None:
    assert not is_shared(kind)


def test_a_network_file_system_is_refused_in_a_sentence_that_says_what_to_do(tmp_path: Path) -> None:
    mounts = f"1 1 0:1 / {tmp_path} rw - lustre x rw\n"
    with pytest.raises(SiteError, match=r"network file system \(lustre\).*local disk.*PostgreSQL") as caught:
        prepare(tmp_path / "first.db", mountinfo=mounts)
    assert caught.value.code == "store_on_network_file_system"
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_a_network_file_system_does_not_hide_it(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    mounts = f"1 1 8:1 / / rw - ext4 x rw\n2 1 0:1 / {tmp_path}/there rw - nfs x rw\n"
    with pytest.raises(SiteError, match="nfs"):
        prepare(tmp_path / "link" / "first.db", mountinfo=mounts)


def test_file_and_folder_are_the_owners_alone(tmp_path: Path) -> None:
    prepare(tmp_path / "a" / "first.db")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a" / "first.db").stat().st_mode & 0o777 == 0o600


def test_a_file_in_the_place_of_the_folder_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SiteError, match="cannot be made") as caught:
        prepare(tmp_path / "file" / "first.db")
    assert caught.value.code == "store_not_writable"
