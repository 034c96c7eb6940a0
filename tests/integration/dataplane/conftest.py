# SPDX-License-Identifier: Apache-2.0
"""The data plane's tests run on uvloop, as the gateway does."""

from typing import Any

import pytest
import uvloop

from firstkit.testing import planes

# libuv opens two pipes for the whole process with its first loop and never closes them: before any test looks
uvloop.new_event_loop().close()


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(params=["local", "direct", "reverse"])
def every_link(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have the engines of a test reached over each link in turn, over the real doors of the launcher."""
    monkeypatch.setattr(planes, "LINK", request.param)
    return request.param
