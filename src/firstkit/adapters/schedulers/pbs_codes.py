# SPDX-License-Identifier: Apache-2.0
"""What PBS's numbers mean: exit codes of its commands (its error numbers, mod 256) and exit statuses of jobs."""

from __future__ import annotations

from collections.abc import Mapping

from firstkit.core.reasons import Reason

SITE_FAILS = frozenset(
    code % 256
    for code in (
        15021,  # the queue is not enabled
        15033,  # no free connections
        15034,  # no server to connect to
        15044,  # resources temporarily unavailable
        15060,  # the server is shutting down
        15090,  # licences: exceeded, unavailable, their server down
        15098,
        15117,  # the server's table of connections is full
        15121,
        15208,  # try again later
    )
)
"""Refusals that pass by themselves."""

SITE_LIMITS = frozenset(
    code % 256
    for code in (
        15046,  # as many jobs in the queue as there may be
        15048,  # a limit exceeds what is allowed
        15142,  # as many jobs of this user, group or project as there may be
        15143,  # as much of a resource of this user, group or project as there may be
    )
)
"""No more of our jobs are let in for now."""

MAY_BE_SUBMITTED = frozenset(
    code % 256
    for code in (
        15010,  # system error
        15011,  # internal error of the server
        15031,  # batch protocol error
        15056,  # the same, in the encoding
    )
) | {130, 134, 137, 139, 143, 255}  # qsub was killed by a signal, or a program around it gave up
"""Something failed in the middle: the job may be in the queue all the same."""

WALLTIME_EXCEEDED = -29
ENDS: Mapping[int, Reason] = {
    WALLTIME_EXCEEDED: Reason.WALLTIME,
    -27: Reason.OUT_OF_MEMORY,  # memory
    -26: Reason.OUT_OF_MEMORY,  # virtual memory
    -20: Reason.NODE_FAILURE,  # the connection to the job's first node failed
    -14: Reason.NODE_FAILURE,  # one of its other nodes failed
    -10: Reason.NODE_UNFIT,  # the node does not know the user
    -4: Reason.NODE_FAILURE,  # the node's daemon was started anew
    -2: Reason.NODE_UNFIT,  # could not be started
    -1: Reason.NODE_UNFIT,
}
"""Exit statuses below nought are PBS's own, not the job's."""

RAN_BEFORE = frozenset({-20, -15, -14, -12, -11})
"""Exit statuses of a job that is queued again after it had run; others were not begun on any node."""

CANCELLED_SUBSTATE = 91
"""The substate of a job that somebody's qdel ended, whatever its exit status."""


def exit_words(status: int) -> str:
    """Put a job's exit status into words: 256 and a signal where one ended it."""
    return f"killed by signal {status - 256}" if status > 256 else f"exit code {status}"
