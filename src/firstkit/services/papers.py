# SPDX-License-Identifier: Apache-2.0
"""How a job's instances are reached and where it reports, with the certificates that both need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from firstkit.core import control, ids
from firstkit.core.catalog import Cluster, Resources
from firstkit.core.instance.record import Instance
from firstkit.core.job.record import Job

ENDLESS_S = 400 * 86400.0
GRACE_S = 86400.0
"""A certificate outlives its job's walltime by so much; the job does not."""

Door = control.LocalDoor | control.DirectDoor | control.ReverseDoor


class IssuedPair(Protocol):
    """A certificate and its key, PEM."""

    @property
    def certificate(self) -> bytes: ...
    @property
    def key(self) -> bytes: ...


class DoorAuthority(Protocol):
    """What issues certificates to the parts of an installation."""

    @property
    def certificate(self) -> bytes: ...
    def issue(self, *, name: str, valid_s: float, server: bool) -> IssuedPair: ...


class Papers:
    """Describe doors and reporting for job.json; what is put beside it comes along, by its name in the run directory.

    `control_urls` is where jobs report that have no gateways of their cluster's to report to.
    """

    def __init__(self, authority: Callable[[], DoorAuthority], control_urls: Callable[[], list[str]]) -> None:
        self._authority = authority
        self._control_urls = control_urls

    def control(
        self, cluster: Cluster, job: Job, resources: Resources
    ) -> tuple[control.Control | None, dict[str, bytes]]:
        """Say where the launcher reports over HTTP: None where it does not.

        The ports for doors of its cluster's gateways ask for a certificate; the job's token is asked for besides.
        """
        if cluster.control == "files":
            return None, {}
        if not cluster.gateways:
            here = cluster.runner.kind == "local"  # or it would be a socket of another machine
            urls = tuple(url for url in self._control_urls() if here or not url.startswith("unix:"))
            return (control.Control(urls=urls) if urls else None), {}
        authority = self._authority()
        issued = authority.issue(name=ids.job_name(job.id), valid_s=_valid_s(resources), server=False)
        told = control.Control(
            urls=tuple(f"https://{gateway}" for gateway in cluster.gateways),
            ca_file="ca.crt",
            cert_file="job.crt",
            key_file="job.key",
            peer=control.GATEWAY_NAME,
        )
        return told, {"job.crt": issued.certificate, "job.key": issued.key, "ca.crt": authority.certificate}

    def door(
        self, cluster: Cluster, job: Job, instances: Sequence[Instance], resources: Resources
    ) -> tuple[Door, dict[str, bytes]]:
        """Describe the doors of a job by its cluster's link.

        Where doors are dialled, the job's certificate says which job's they are; where they dial, each instance has one
        of its own, which lets it park connections for itself alone.
        """
        if cluster.link.kind == "reverse":
            files: dict[str, bytes] = {}
            authority = self._authority()
            for item in instances:
                issued = authority.issue(name=ids.park_name(item.id), valid_s=_valid_s(resources), server=False)
                files |= {f"{item.id}/door.crt": issued.certificate, f"{item.id}/door.key": issued.key}
            return control.ReverseDoor(gateways=cluster.gateways), {**files, "ca.crt": authority.certificate}
        if cluster.link.kind == "local" or cluster.link.ports is None:
            return control.LocalDoor(), {}
        authority = self._authority()
        issued = authority.issue(name=ids.door_name(job.id), valid_s=_valid_s(resources), server=True)
        door = control.DirectDoor(host=cluster.link.address, ports=cluster.link.ports)
        return door, {"door.crt": issued.certificate, "door.key": issued.key, "ca.crt": authority.certificate}


def _valid_s(resources: Resources) -> float:
    return (resources.walltime_s or ENDLESS_S) + GRACE_S
