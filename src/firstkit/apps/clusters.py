# SPDX-License-Identifier: Apache-2.0
"""Which adapter speaks for a cluster: its scheduler's dialect and its runner."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from firstkit.adapters.runners.local import LocalRunner
from firstkit.adapters.runners.ssh import SshRunner
from firstkit.adapters.runners.ssh_master import SshMasters
from firstkit.adapters.runners.ssh_place import SshPlace, socket_folder
from firstkit.adapters.schedulers.local import LocalScheduler
from firstkit.adapters.schedulers.pbs import PbsScheduler
from firstkit.adapters.schedulers.slurm import SlurmScheduler
from firstkit.core.catalog import Cluster
from firstkit.core.errors import ConfigError
from firstkit.ports.runner import Runner
from firstkit.ports.scheduler import Scheduler


def scheduler_for(cluster: Cluster, *, installation: str) -> Scheduler:
    """Make the dialect of a cluster."""
    if cluster.scheduler.kind == "local":
        python = sys.executable if cluster.runner.kind == "local" else "python3"
        return LocalScheduler(cluster, installation=installation, python=python)
    if cluster.scheduler.kind == "pbs":
        return PbsScheduler(cluster, installation=installation)
    if cluster.scheduler.kind == "slurm":
        return SlurmScheduler(cluster, installation=installation)
    raise ConfigError(f"this firstkit knows no scheduler {cluster.scheduler.kind!r} (cluster {cluster.name})")


def connections(data: Path, *, keeper: bool = False) -> SshMasters:
    """Hold this process's connections to clusters. `keeper`: the controller's, which others may use as well."""
    return SshMasters(folder=lambda: socket_folder(data), environment=os.environ, keeper=keeper)


def runner_for(cluster: Cluster, *, masters: SshMasters) -> Runner:
    """Make the runner of a cluster."""
    if cluster.runner.kind == "local":
        return LocalRunner(os.environ)
    if cluster.runner.kind == "ssh":
        return SshRunner(masters.at(SshPlace.of(cluster.runner.options)))
    raise ConfigError(f"this firstkit knows no runner {cluster.runner.kind!r} (cluster {cluster.name})")
