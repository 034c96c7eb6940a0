# SPDX-License-Identifier: Apache-2.0
"""Whether a request whose attempt failed may be sent to another instance."""

from __future__ import annotations

from enum import StrEnum


class Stop(StrEnum):
    """Why a failed request is not sent again, in words."""

    ANSWERED = "part of the answer has already been sent"
    ATTEMPTS = "no more attempts are allowed"
    BODY_GONE = "the request's body was not kept"
    CLIENT_GONE = "the client has left"


def stop(
    *, attempt: int, attempts: int, answered: bool, body_kept: bool = True, client_gone: bool = False
) -> Stop | None:
    """Say why attempt number `attempt` (from 1) was the last one; None when another instance may be tried (laws 6, 7).

    `answered`: a byte of the engine's answer has gone to the client; comments sent before it do not count.
    """
    if client_gone:
        return Stop.CLIENT_GONE
    if answered:
        return Stop.ANSWERED
    if not body_kept:
        return Stop.BODY_GONE
    if attempt >= attempts:
        return Stop.ATTEMPTS
    return None
