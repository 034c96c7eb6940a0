# SPDX-License-Identifier: Apache-2.0
"""How often a real Slurm is asked, counted by programs that stand before its own."""

import os
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from installation import installation
from paced import paced
from slurm_site import on_slurm, slurm_config

from firstkit.testing.slurm import RealSlurm

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(180)]

COMMANDS = ("sbatch", "squeue", "scancel", "sacct", "scontrol", "sinfo")
PAUSE_S = 3.0


def stand_before(folder: Path, log: Path) -> str:
    """Put a program before each of Slurm's that notes when it is called; return the PATH that finds them."""
    folder.mkdir()
    for name in COMMANDS:
        program = folder / name
        program.write_text(f'#!/bin/sh\necho "$(date +%s.%N) {name}" >>{log}\nexec {shutil.which(name)} "$@"\n')
        program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_however_many_jobs_run_there_is_one_command_in_each_pause(
    slurm: RealSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "commands"
    monkeypatch.setenv("PATH", stand_before(tmp_path / "before", log))
    text = slurm_config(
        slurm,
        {"many": on_slurm(paced("many", min=3, max=3))},
        controller={"observe_idle": f"{PAUSE_S:g}s"},
    )

    def called() -> list[float]:
        return [float(line.split()[0]) for line in log.read_text().splitlines()]

    with installation(tmp_path, config=text) as running:
        running.wait_hot("many", within_s=90)
        running.until(lambda: len(running.ready_instances("many")) == 3, within_s=60)
        before = len(called())
        running.until(lambda: len(called()) >= before + 6, within_s=90)
        quiet = called()[before + 2 : before + 6]
    names = [line.split()[1] for line in log.read_text().splitlines()]
    assert names.count("sbatch") == 3
    assert all(later - earlier >= PAUSE_S for earlier, later in pairwise(quiet)), quiet
