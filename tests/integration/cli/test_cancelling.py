# SPDX-License-Identifier: Apache-2.0
"""`first stop --direct` cancels this installation's jobs, and no other's that use the same run directory."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from firstkit.adapters.schedulers.local import PROGRAM
from firstkit.adapters.store import migrate_store, open_store
from firstkit.apps.cli.cancelling import cancel_all
from firstkit.apps.naming import leave_installation
from firstkit.core.errors import SiteError
from firstkit.core.settings import StoreSettings
from firstkit.testing.slurm import RealSlurm

OURS, THEIRS = "aaaaaaaa", "bbbbbbbb"
CONFIG = """\
store: {{url: "sqlite:///first.db"}}
clusters:
  here:
    scheduler: {{kind: local, python: {python}}}
    runner: {{kind: local}}
    link: {{kind: local}}
    run_dir: {run_dir}
models: {{}}
deployments: {{}}
"""
Submit = Callable[[str], str]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "first.yaml"
    file.write_text(CONFIG.format(python=sys.executable, run_dir=tmp_path / "run"))
    return file


def batch(run_dir: Path, *arguments: str) -> str:
    command = [sys.executable, "-I", "-S", str(run_dir / PROGRAM), *arguments]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def live(run_dir: Path) -> set[str]:
    rows = [json.loads(line) for line in batch(run_dir, "list", str(run_dir)).splitlines()]
    return {row["name"] for row in rows if row.get("state") in {"STARTING", "RUNNING"}}


@pytest.fixture
def submit(tmp_path: Path) -> Iterator[Submit]:
    """Submit a job of an installation that sleeps until it is cancelled."""
    from firstkit.adapters.schedulers import local_jobs

    run_dir = tmp_path / "run"
    run_dir.mkdir(mode=0o700)
    (run_dir / PROGRAM).write_bytes(Path(local_jobs.__file__).read_bytes())
    numbers: list[str] = []

    def one(installation: str) -> str:
        tag = f"first-{installation}-j-{len(numbers):012d}"
        folder = run_dir / tag[-14:]
        folder.mkdir()
        (folder / "start.sh").write_text("#!/bin/bash\nexec sleep 300\n")
        (folder / "job.json").write_text(json.dumps({"installation": installation}))
        numbers.append(batch(run_dir, "submit", str(run_dir), tag, "0", str(folder / "start.sh"), "1").strip())
        return tag

    yield one
    batch(run_dir, "cancel", str(run_dir), *numbers)


def test_the_state_folder_says_whose_jobs_are_cancelled(config: Path, tmp_path: Path, submit: Submit) -> None:
    mine, other = submit(OURS), submit(THEIRS)
    leave_installation(tmp_path, OURS)
    assert (tmp_path / "installation").stat().st_mode & 0o777 == 0o600
    assert cancel_all("here", config=config, data=tmp_path) == [mine]
    assert other in live(tmp_path / "run")


def test_the_store_says_it_where_there_is_one(config: Path, tmp_path: Path, submit: Submit) -> None:
    settings = StoreSettings(url="sqlite:///first.db")
    migrate_store(settings, folder=tmp_path)
    store = open_store(settings, folder=tmp_path)
    installation = store.installation()
    store.close()
    leave_installation(tmp_path, THEIRS)
    mine, other = submit(installation), submit(THEIRS)
    assert cancel_all("here", config=config, data=tmp_path) == [mine]
    assert other in live(tmp_path / "run")


def test_without_either_nothing_is_cancelled_until_one_is_named(config: Path, tmp_path: Path, submit: Submit) -> None:
    mine, other = submit(OURS), submit(THEIRS)
    with pytest.raises(SiteError, match=f"{OURS}, {THEIRS} used .*--installation ID"):
        cancel_all("here", config=config, data=tmp_path)
    assert {mine, other} <= live(tmp_path / "run")
    assert not (tmp_path / "first.db").exists()
    assert cancel_all("here", config=config, data=tmp_path, installation=THEIRS) == [other]
    assert mine in live(tmp_path / "run")


def waiting_or_running(slurm: RealSlurm) -> set[str]:
    return set(slurm.run("squeue", "-h", "-t", "PENDING,RUNNING", "-o", "%i").stdout.split())


@pytest.mark.slurm
def test_at_a_real_slurm_only_jobs_of_ours_are_cancelled_though_store_and_controller_are_lost(
    slurm: RealSlurm, tmp_path: Path
) -> None:
    scheduler = f"{{kind: slurm, conf: {slurm.conf}}}"
    text = CONFIG.format(python=sys.executable, run_dir=tmp_path / "run")
    config = tmp_path / "first.yaml"
    config.write_text(text.replace(f"{{kind: local, python: {sys.executable}}}", scheduler))
    names = {f"first-{OURS}-j-000000000001", f"first-{OURS}-j-000000000002"}
    others = {f"first-{THEIRS}-j-000000000003", f"first-{OURS}x-j-000000000004", "somebody's own"}
    numbers: dict[str, str] = {}
    try:
        for name in sorted(names | others):
            said = slurm.run("sbatch", "--parsable", "-J", name, "-o", "/dev/null", "--wrap", "sleep 300")
            assert said.returncode == 0, said.stderr
            numbers[name] = said.stdout.strip()
        assert set(cancel_all("here", config=config, data=tmp_path, installation=OURS)) == names
        end = time.monotonic() + 60
        while {numbers[name] for name in names} & (left := waiting_or_running(slurm)):
            assert time.monotonic() < end, left
            time.sleep(0.05)
        assert {numbers[name] for name in others} <= left
    finally:
        slurm.run("scancel", *numbers.values())
