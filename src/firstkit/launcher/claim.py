# SPDX-License-Identifier: Apache-2.0
"""The job's claim on its run directory: whoever creates the file first is the job, any later start is a duplicate."""

from __future__ import annotations

import json
import os
import socket
from typing import Mapping, NamedTuple

CLAIM = "claim"


class Identity(NamedTuple):
    """Which start of the job this is."""

    scheduler_id: str
    host: str
    pid: int
    node: str = ""
    """What the scheduler calls this host, where it says so, or the host's own name."""


class AlreadyClaimed(Exception):
    """Another start of the same job holds the run directory."""


def identify(environment: Mapping[str, str]) -> Identity:
    """Find the scheduler's id for this job; without a scheduler the process id stands for it."""
    names = ("FIRST_SCHEDULER_ID", "SLURM_JOB_ID", "PBS_JOBID")
    found = next((environment[name] for name in names if environment.get(name)), str(os.getpid()))
    host = socket.gethostname()
    return Identity(found, host, os.getpid(), environment.get("SLURMD_NODENAME") or host)


def claim(folder: str, identity: Identity) -> None:
    """Create the claim exclusively (atomic on local disks and NFS 3 and later); raise `AlreadyClaimed` or OSError.

    Its content is for people and for the controller; that it exists is what counts, even empty on a full disk.
    """
    path = os.path.join(folder, CLAIM)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise AlreadyClaimed(path) from error
    try:
        os.write(descriptor, json.dumps(identity._asdict()).encode() + b"\n")
    except OSError:
        pass
    finally:
        os.close(descriptor)
