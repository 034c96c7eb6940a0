# SPDX-License-Identifier: Apache-2.0
"""Which adapter speaks for a cluster: its scheduler's dialect and its runner."""

from __future__ import annotations

import os
import sys

from firstkit.adapters.runners.local import LocalRunner
from firstkit.adapters.schedulers.local import LocalScheduler
from firstkit.adapters.schedulers.slurm import SlurmScheduler
from firstkit.core.catalog import Cluster
from firstkit.core.errors import ConfigError
from firstkit.ports.runner import Runner
from firstkit.ports.scheduler import Scheduler


def scheduler_for(cluster: Cluster, *, installation: str) -> Scheduler:
    """Make the dialect of a cluster."""
    if cluster.scheduler.kind == "local":
        return LocalScheduler(cluster, installation=installation, python=sys.executable)
    if cluster.scheduler.kind == "slurm":
        return SlurmScheduler(cluster, installation=installation)
    raise ConfigError(f"this firstkit knows no scheduler {cluster.scheduler.kind!r} (cluster {cluster.name})")


def runner_for(cluster: Cluster) -> Runner:
    """Make the runner of a cluster."""
    if cluster.runner.kind == "local":
        return LocalRunner(os.environ)
    raise ConfigError(f"this firstkit knows no runner {cluster.runner.kind!r} (cluster {cluster.name})")
