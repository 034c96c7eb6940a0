# SPDX-License-Identifier: Apache-2.0
"""The closed enum that explains every state and decision; free text goes into `detail` beside it."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a job, an instance, a model or a decision is as it is. Stored by name: never rename, only add."""

    # why something is wanted or not
    MIN_KEPT = "MIN_KEPT"
    DEMAND = "DEMAND"
    IDLE = "IDLE"
    NO_DEMAND = "NO_DEMAND"
    AT_MAX = "AT_MAX"
    CORDONED = "CORDONED"
    BACKING_OFF = "BACKING_OFF"
    HELD = "HELD"
    CLUSTER_STOPPED = "CLUSTER_STOPPED"
    CLUSTER_LIMIT = "CLUSTER_LIMIT"
    OVERRIDE = "OVERRIDE"
    UPDATED = "UPDATED"
    HANDOVER = "HANDOVER"
    MAINTENANCE = "MAINTENANCE"
    CANCELLED_BY_SITE = "CANCELLED_BY_SITE"
    # how a job or instance is getting on
    SUBMITTING = "SUBMITTING"
    JOB_WAITS = "JOB_WAITS"
    BOOTING = "BOOTING"
    STARTED = "STARTED"
    LOADING = "LOADING"
    SERVING = "SERVING"
    DRAINING = "DRAINING"
    UNREACHABLE = "UNREACHABLE"
    LOGIN_EXPIRED = "LOGIN_EXPIRED"
    # how one ended
    SCALED_IN = "SCALED_IN"
    REMOVED = "REMOVED"
    STOPPED = "STOPPED"
    WALLTIME = "WALLTIME"
    PREEMPTED = "PREEMPTED"
    CANCELLED = "CANCELLED"
    SUBMIT_REJECTED = "SUBMIT_REJECTED"
    SUBMIT_FAILED = "SUBMIT_FAILED"
    SITE_LIMIT = "SITE_LIMIT"
    DUPLICATE = "DUPLICATE"
    SETUP_FAILED = "SETUP_FAILED"
    NODE_UNFIT = "NODE_UNFIT"
    NODE_FAILURE = "NODE_FAILURE"
    WEIGHTS_MISSING = "WEIGHTS_MISSING"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    ENGINE_EXIT = "ENGINE_EXIT"
    ENGINE_UNGUARDED = "ENGINE_UNGUARDED"
    NEVER_READY = "NEVER_READY"
    NEVER_REGISTERED = "NEVER_REGISTERED"
    DOOR_FAILED = "DOOR_FAILED"
    UNSUPERVISED = "UNSUPERVISED"
    SUPERSEDED = "SUPERSEDED"
    JOB_LOST = "JOB_LOST"


FAILURES = frozenset(
    {
        Reason.SUBMIT_REJECTED,
        Reason.SUBMIT_FAILED,
        Reason.SITE_LIMIT,
        Reason.SETUP_FAILED,
        Reason.NODE_UNFIT,
        Reason.NODE_FAILURE,
        Reason.WEIGHTS_MISSING,
        Reason.OUT_OF_MEMORY,
        Reason.ENGINE_EXIT,
        Reason.ENGINE_UNGUARDED,
        Reason.NEVER_READY,
        Reason.NEVER_REGISTERED,
        Reason.DOOR_FAILED,
        Reason.JOB_LOST,
    }
)
"""Ends that count towards back-off and hold; all others are part of normal life (law 2)."""


HEALING = frozenset({Reason.SUBMIT_FAILED, Reason.SITE_LIMIT, Reason.NODE_FAILURE, Reason.JOB_LOST})
"""Failures of the site, which pass by themselves: they delay the next try, but never hold a deployment."""

ENDS = FAILURES | frozenset(
    {
        Reason.SCALED_IN,
        Reason.REMOVED,
        Reason.STOPPED,
        Reason.WALLTIME,
        Reason.PREEMPTED,
        Reason.CANCELLED,
        Reason.DUPLICATE,
        Reason.UNSUPERVISED,
        Reason.SUPERSEDED,
        Reason.OVERRIDE,
        Reason.CLUSTER_STOPPED,
        Reason.UPDATED,
        Reason.MAINTENANCE,
    }
)
"""Reasons for which something ends; all others only say how it is getting on."""


def is_failure(reason: Reason) -> bool:
    """Tell whether an end for this reason counts as a failed start or a crash."""
    return reason in FAILURES
