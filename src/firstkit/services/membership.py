# SPDX-License-Identifier: Apache-2.0
"""From what launchers report to events of the machines, and from records to what launchers are asked."""

from __future__ import annotations

from collections.abc import Sequence

from firstkit.core import control, ids
from firstkit.core.instance.machine import InstanceEvent, InstanceEventKind
from firstkit.core.instance.record import Instance, InstanceState
from firstkit.core.job.machine import JobEvent, JobEventKind
from firstkit.core.job.record import Job, JobState
from firstkit.core.reasons import Reason
from firstkit.core.topology import Address, AddressKind
from firstkit.services.world import World

_KINDS = {
    control.ReportedState.LOADING: InstanceEventKind.REPORTED_LOADING,
    control.ReportedState.READY: InstanceEventKind.REPORTED_READY,
    control.ReportedState.DRAINING: InstanceEventKind.REPORTED_DRAINING,
    control.ReportedState.ENDED: InstanceEventKind.REPORTED_ENDED,
}


def take_report(world: World, status: control.Status, *, now: float, age_s: float) -> None:
    """Apply one status. `age_s`: how long ago it was made; all its durations are counted from then.

    The job's id at the scheduler is not taken from it: only the scheduler's own word says which job is meant.
    """
    job = world.jobs.get(status.job)
    if job is None or job.state is JobState.ENDED:
        return
    at = now - age_s
    ends_at = at + status.time_left_s if status.time_left_s is not None else None
    ended = status.state == "ENDED"
    world.job_event(
        job.id,
        JobEvent(
            kind=JobEventKind.REPORTED_ENDED if ended else JobEventKind.REPORTED_RUNNING,
            at=at,
            reason=_why(world, job, reason(status.reason)),
            detail=status.detail or "",
            ends_at=ends_at,
            nodes=(node,) if (node := status.node or status.host) else (),
        ),
    )
    mine = {item.id for item in world.instances_of_job(job.id)}
    for reported in status.instances:
        if reported.instance in mine:
            _take_instance(world, job, reported, at=at, default=reason(status.reason))
    if ended:
        for item in world.instances_of_job(job.id):
            world.instance_event(
                item.id,
                InstanceEvent(
                    kind=InstanceEventKind.REPORTED_ENDED,
                    at=at,
                    reason=reason(status.reason) or Reason.ENGINE_EXIT,
                    detail=status.detail or "",
                ),
            )


def _why(world: World, job: Job, told: Reason | None) -> Reason | None:
    """Say why a job ends: a launcher that did as it was asked does not know what for."""
    if told is not Reason.SCALED_IN:
        return told
    asked = (item.drain_for for item in world.instances_of_job(job.id))
    return next((one for one in asked if one is not None), told)


def _take_instance(
    world: World, job: Job, reported: control.ReportedInstance, *, at: float, default: Reason | None
) -> None:
    """Apply what a status says of one instance.

    DRAINING is our own wish coming back, or the launcher's doing, since its job is to end (`default`: why).
    """
    tail = reported.exit.log_tail if reported.exit else ()
    world.instance_event(
        reported.instance,
        InstanceEvent(
            kind=_KINDS[reported.state],
            at=at,
            reason=reason(reported.reason) or default,
            detail=reported.detail or "",
            address=_address(job, reported.address),
            fraction=reported.progress.fraction,
            progress=reported.progress.text,
            load_s=reported.load_s,
            exit_code=reported.exit.code if reported.exit else None,
            exit_tail=tail,
            image=reported.image or "",
        ),
    )


def _address(job: Job, told: control.ReportedAddress | None) -> Address | None:
    """Read where an instance answers; a door is checked by its job's name."""
    if told is None:
        return None
    if told.kind == "unix":
        return Address(kind=AddressKind.UNIX, path=told.path)
    if told.kind == "parked":
        return Address(kind=AddressKind.PARKED)
    if told.kind == "tls":
        return Address(
            kind=AddressKind.TLS, host=told.host, port=told.port, server_name=ids.door_name(job.id), mutual=True
        )
    return Address(kind=AddressKind.TCP, host=told.host, port=told.port)


def reason(text: str | None) -> Reason | None:
    """Read a reason; a word we don't know (a newer launcher's) is none."""
    try:
        return Reason(text) if text else None
    except ValueError:
        return None


def desired(
    job: Job, instances: Sequence[Instance], *, version: int, now: float, gateways: tuple[str, ...]
) -> control.Desired:
    """Say what is wanted of a job's launcher."""
    wants: dict[str, control.DesiredInstance] = {}
    for item in instances:
        if item.state is InstanceState.DRAINING:
            within_s = None if item.drain_by is None else max(0.0, round(item.drain_by - now, 1))
            wants[item.id] = control.DesiredInstance(want=control.Want.DRAIN, within_s=within_s)
        elif item.state is not InstanceState.ENDED:
            wants[item.id] = control.DesiredInstance(want=control.Want.SERVE)
    return control.Desired(
        job=job.id,
        version=version,
        instances=wants,
        stop_job=job.ending_for is not None,
        gateways=gateways,
    )
