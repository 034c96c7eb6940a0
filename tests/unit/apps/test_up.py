# SPDX-License-Identifier: Apache-2.0
"""Where `first up` will not keep its state."""

import os
import re
from pathlib import Path

import pytest

from firstkit.apps.up import UpOptions, key_name, run_up
from firstkit.core.errors import SiteError


def test_a_folder_that_anybody_may_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(SiteError, match="is not yours alone"):
        run_up(UpOptions(data=folder))
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder that belongs to somebody else")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)
    with pytest.raises(SiteError, match="is not yours alone"):
        run_up(UpOptions(data=folder))
    assert list(folder.iterdir()) == []


def test_each_host_and_state_folder_has_a_key_of_its_own_on_a_store_that_they_share() -> None:
    places = [("/a", "one"), ("/b", "one"), ("/a", "two")]
    names = {key_name(Path(folder), host) for folder, host in places}
    assert len(names) == 3
    assert all(re.fullmatch("up-[0-9a-f]{8}", name) for name in names)
    assert key_name(Path("/a"), "one") == key_name(Path("/a"), "one")
