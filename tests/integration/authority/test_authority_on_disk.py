# SPDX-License-Identifier: Apache-2.0
"""The installation's certificate authority on disk: under a lock while it is made, a sentence where it is damaged."""

import fcntl
import os
from pathlib import Path

import pytest

from firstkit.adapters.links.authority import Authority
from firstkit.core.errors import SiteError


def test_while_one_process_makes_it_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, locked = Authority._make, list[bool]()

    def observed(authority: Authority) -> None:
        descriptor = os.open(tmp_path / "ca", os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            locked.append(True)
        os.close(descriptor)
        make(authority)

    monkeypatch.setattr(Authority, "_make", observed)
    made = [Authority(tmp_path / "ca").certificate for _ in range(2)]
    assert locked == [True]
    assert made[0] == made[1]


@pytest.mark.parametrize("name", ["ca.key", "ca.crt"])
def test_a_damaged_one_is_a_sentence(tmp_path: Path, name: str) -> None:
    Authority(tmp_path / "ca")
    (tmp_path / "ca" / name).write_text("half a file")
    with pytest.raises(SiteError, match="is damaged; bring"):
        Authority(tmp_path / "ca")


def test_a_place_that_is_no_folder_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("")
    with pytest.raises(SiteError, match="cannot be used"):
        Authority(tmp_path / "ca")
