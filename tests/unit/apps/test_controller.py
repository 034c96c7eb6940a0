# SPDX-License-Identifier: Apache-2.0
"""What a controller is called in the store."""

from firstkit.apps.controller import new_holder


def test_two_starts_are_two_holders_though_host_and_process_id_are_the_same() -> None:
    assert new_holder() != new_holder()
