# SPDX-License-Identifier: Apache-2.0
"""`first gate`: what is installed and approved beforehand fits the jobs that come later."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from firstkit.adapters.runners.gate import Policy
from firstkit.apps.cli import rendering
from firstkit.apps.cli.entry import cli

CONFIG = """\
clusters:
  sophia:
    scheduler: {kind: slurm, partition: gpu}
    runner: {kind: ssh, host: login1, gate: true, ssh_config: none}
    link: {kind: direct, ports: 42000-42099}
    run_dir: /scratch/first
models:
  org/small:
    aliases: [small]
deployments:
  small:
    model: org/small
    cluster: sophia
    engine: {kind: command, argv: [/opt/serve, --socket, "{socket}"], health: /health, paths: [/v1/chat/completions]}
    resources: {gpus: 1, walltime: 2h}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "first.yaml"
    path.write_text(CONFIG)
    return path


def first(*arguments: str) -> str:
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_an_approval_is_for_every_job_of_a_deployment_and_ends_when_what_it_runs_changes(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = ("gate", "approve", "small", "--config", str(config), "--installation", "abcdefgh")
    digest = first(*ask).split()[0]
    for name, value in (("JOB", "j-00000000000z"), ("INSTANCE", "i-00000000000z"), ("MASK", "another-secret")):
        monkeypatch.setattr(rendering, name, value)
    monkeypatch.setattr("firstkit.apps.cli.gate_files.JOB", "j-00000000000z")
    assert first(*ask).split()[0] == digest
    config.write_text(CONFIG.replace("walltime: 2h", "walltime: 1h"))
    assert first(*ask).split()[0] == digest, "how long a job may run is no matter of approval"
    for old, new in (("/opt/serve", "/opt/other"), ("gpus: 1", "gpus: 2"), ("gpu}", "gpu, account: theirs}")):
        config.write_text(CONFIG.replace(old, new))
        assert first(*ask).split()[0] != digest


def test_what_is_installed_is_the_gate_and_a_policy_that_it_understands(config: Path, tmp_path: Path) -> None:
    told = first(
        *("gate", "install", "sophia", "--into", str(tmp_path / "gate"), "--at", "/opt/first"),
        *("--config", str(config), "--installation", "abcdefgh"),
    )
    assert 'restrict,command="/usr/bin/python3 -I /opt/first/gate.py /opt/first/gate.json"' in told
    policy = Policy(str(tmp_path / "gate" / "gate.json"))
    assert policy.run_dir == "/scratch/first"
    assert "approvals" not in json.loads((tmp_path / "gate" / "gate.json").read_text())
    compile((tmp_path / "gate" / "gate.py").read_text(), "gate.py", "exec")
