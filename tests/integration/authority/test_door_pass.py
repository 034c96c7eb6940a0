# SPDX-License-Identifier: Apache-2.0
"""When a gateway makes and renews the certificate that doors admit it by."""

import ssl
from pathlib import Path

from firstkit.adapters.telemetry.journal import Journal
from firstkit.apps.door_pass import AGAIN_S, RENEW_EVERY_S, DoorPass
from firstkit.core.topology import Address, AddressKind, Route


def route(*, mutual: bool) -> Route:
    address = Address(kind=AddressKind.TLS, host="node1", port=42000, mutual=mutual)
    return Route(instance="i-a", deployment="d", model="m", cluster="c", engine="command", address=address, cap=1)


class Scene:
    """A pass, its clock, and the contexts it has made."""

    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self.used: list[ssl.SSLContext] = []
        self.door_pass = DoorPass(folder, use=self.used.append, journal=Journal("test"), monotonic_s=lambda: self.now)


def test_without_a_door_there_is_none(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "ca")
    scene.door_pass.check([route(mutual=False)])
    assert scene.used == []
    assert not (tmp_path / "ca").exists()


def test_it_is_made_once_and_renewed_before_its_end(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "ca")
    for _ in range(2):
        scene.door_pass.check([route(mutual=True)])
    assert len(scene.used) == 1
    scene.now += RENEW_EVERY_S
    scene.door_pass.check([route(mutual=True)])
    assert len(scene.used) == 2
    assert scene.used[0] is not scene.used[1]


def test_an_authority_that_cannot_be_used_is_tried_again_and_stops_nothing(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "ca")
    (tmp_path / "ca").write_text("")
    scene.door_pass.check([route(mutual=True)])
    (tmp_path / "ca").unlink()
    scene.door_pass.check([route(mutual=True)])
    assert scene.used == []
    scene.now += AGAIN_S
    scene.door_pass.check([route(mutual=True)])
    assert len(scene.used) == 1
