# SPDX-License-Identifier: Apache-2.0
"""Where `first up` will not keep its state."""

import os
from pathlib import Path

import pytest

from firstkit.apps.up import UpOptions, run_up
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
