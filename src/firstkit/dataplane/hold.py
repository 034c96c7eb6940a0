# SPDX-License-Identifier: Apache-2.0
"""What a client that waits is told: one comment line of server-sent events, which every client skips."""

from __future__ import annotations

from firstkit.core.topology import Route
from firstkit.core.units import format_duration
from firstkit.services.dispatcher import WaitStatus


def waiting_comment(status: WaitStatus) -> bytes:
    """Tell state, place and expected time: `: first state=warm position=1 expected="34 s" …`."""
    expected = "unknown" if status.expected_s is None else format_duration(status.expected_s)
    parts = [
        f"state={status.heat.value}",
        f"reason={status.reason.value}",
        f"position={status.position}",
        f'expected="{expected}"',
    ]
    if status.fraction is not None:
        parts.append(f"progress={status.fraction * 100:.0f}%")
    if status.text:
        parts.append(f'text="{_plain(status.text)}"')
    if status.clusters:
        parts.append(f"clusters={','.join(_plain(name) for name in status.clusters)}")
    return _comment(parts)


def sent_comment(route: Route) -> bytes:
    """Tell where the request has been sent; the engine has not begun to answer."""
    cluster = [f"cluster={_plain(route.cluster)}"] if route.cluster else []
    return _comment(["state=sent", *cluster, f"instance={_plain(route.instance)}"])


def _comment(parts: list[str]) -> bytes:
    return f": first {' '.join(parts)}\n\n".encode()


def _plain(text: str) -> str:
    """Keep text on its line and inside its quotes."""
    return "".join(character if character.isprintable() and character != '"' else " " for character in text)[:200]
