# SPDX-License-Identifier: Apache-2.0
"""What is said of an address that cannot be had."""

import errno
import socket

import pytest

from firstkit.apps.listening import bind
from firstkit.core.errors import SiteError
from firstkit.core.settings import Listen


@pytest.mark.parametrize(("port", "other"), [(8000, 8001), (65535, 65534)])
def test_for_a_port_in_use_another_that_exists_is_named(monkeypatch: pytest.MonkeyPatch, port: int, other: int) -> None:
    def taken(_listener: socket.socket, _address: object) -> None:
        raise OSError(errno.EADDRINUSE, "Address already in use")

    monkeypatch.setattr(socket.socket, "bind", taken)
    with pytest.raises(SiteError, match=f"in the configuration or by: make up PORT={other}$"):
        bind(Listen(host="127.0.0.1", port=port))
