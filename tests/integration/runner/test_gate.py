# SPDX-License-Identifier: Apache-2.0
"""A key that may run the gate alone, as whoever has stolen it would try it, against a real sshd."""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import anyio
import pytest

from firstkit.adapters.runners.gate import fingerprint
from firstkit.adapters.runners.gate_policy import policy
from firstkit.adapters.runners.ssh import SshRunner
from firstkit.adapters.schedulers.local import PROGRAM, LocalScheduler
from firstkit.apps.clusters import scheduler_for
from firstkit.core.catalog import Resources, SchedulerSpec
from firstkit.core.ids import encode
from firstkit.ports.runner import Command, Done, Refused, RemoteFile, Unknown
from firstkit.ports.scheduler import Accepted, JobPhase, Submission
from firstkit.testing.records import make_cluster
from firstkit.testing.slurm import RealSlurm
from firstkit.testing.sshd import Sshd, installed

pytestmark = pytest.mark.anyio
MakeRunner = Callable[..., SshRunner]
INSTALLATION, JOB, OTHER = "abcdefgh", "j-00000000000a", "j-00000000000b"
GATE = files("firstkit.adapters.runners").joinpath("gate.py").read_bytes()
DEADLINE_S = 40.0


def local(run_dir: Path) -> LocalScheduler:
    return LocalScheduler(make_cluster(run_dir=str(run_dir)), installation=INSTALLATION, python=sys.executable)


def submission(run_dir: Path, job: str = JOB) -> Submission:
    folder = f"{run_dir}/{job}"
    return Submission(
        tag=f"first-{INSTALLATION}-{job}",
        run_dir=folder,
        script=f"{folder}/start.sh",
        resources=Resources(walltime_s=600),
    )


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.mark.slurm
async def test_jobs_of_a_real_slurm_go_through_the_gate_and_those_of_others_are_left_alone(
    slurm: RealSlurm, ssh_runner: MakeRunner, run_dir: Path, tmp_path: Path
) -> None:
    if not installed():
        pytest.skip("openssh-server is not installed; run `make debian` as root")
    installation = encode(os.urandom(5), 8)
    options = {"partition": "gpu", "conf": str(slurm.conf)}
    cluster = make_cluster(run_dir=str(run_dir), scheduler=SchedulerSpec(kind="slurm", options=options))
    scheduler = scheduler_for(cluster, installation=installation)
    (tmp_path / "gate.py").write_bytes(GATE)
    (tmp_path / "gate.json").write_text(json.dumps(policy(cluster, scheduler, installation=installation, asks=[])))
    forced = f'restrict,command="{sys.executable} -I {tmp_path}/gate.py {tmp_path}/gate.json"'
    server = Sshd(tmp_path / "sshd", options=forced)
    server.start()
    runner = ssh_runner(server.place(gate=True))
    others = await anyio.run_process(
        ["sbatch", "--parsable", "--job-name=theirs", f"--chdir={tmp_path}", "--wrap=sleep 600"],
        env={**os.environ, "SLURM_CONF": str(slurm.conf)},
    )
    theirs, ours = others.stdout.decode().strip(), ""
    try:
        script = b"#!/bin/bash\n#SBATCH --time=10\nexec sleep 600\n"
        put = await runner.put(
            [RemoteFile(path=f"{run_dir}/{JOB}/start.sh", data=script, mode=0o700)], deadline_s=DEADLINE_S
        )
        assert isinstance(put, Done), put
        asked = replace(submission(run_dir), tag=f"first-{installation}-{JOB}")
        answers = await runner.run([scheduler.submit(asked), *scheduler.observe()], deadline_s=DEADLINE_S)
        accepted = scheduler.parse_submit(answers[0])
        assert isinstance(accepted, Accepted), answers
        ours = accepted.scheduler_id
        assert [job.scheduler_id for job in scheduler.parse(answers[1:]).jobs] == [ours]
        (refused,) = await runner.run(scheduler.cancel([theirs]), deadline_s=DEADLINE_S)
        assert isinstance(refused, Refused)
        (cancelled,) = await runner.run(scheduler.cancel([ours, "99999"]), deadline_s=DEADLINE_S)
        assert isinstance(cancelled, Done), cancelled
    finally:
        with anyio.CancelScope(shield=True):
            numbers = [number for number in (theirs, ours) if number]
            await anyio.run_process(["scancel", *numbers], env={**os.environ, "SLURM_CONF": str(slurm.conf)})
            await runner.master.close()
            server.stop()


@pytest.fixture
def gated(tmp_path: Path, run_dir: Path) -> Iterator[Sshd]:
    """A server whose key runs the gate alone, with the policy of a cluster of the scheduler `local`."""
    if not installed():
        pytest.skip("openssh-server is not installed; run `make debian` as root")
    (tmp_path / "gate.py").write_bytes(GATE)
    cluster = make_cluster(run_dir=str(run_dir))
    document = policy(cluster, local(run_dir), installation=INSTALLATION, asks=[])
    (tmp_path / "gate.json").write_text(json.dumps(document))
    options = f'restrict,command="{sys.executable} -I {tmp_path}/gate.py {tmp_path}/gate.json"'
    server = Sshd(tmp_path / "sshd", options=options)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def runner(gated: Sshd, ssh_runner: MakeRunner) -> SshRunner:
    return ssh_runner(gated.place(gate=True))


async def prepared(runner: SshRunner, run_dir: Path) -> LocalScheduler:
    scheduler = local(run_dir)
    script = RemoteFile(path=f"{run_dir}/{JOB}/start.sh", data=b"#!/bin/bash\nexec sleep 600\n", mode=0o700)
    programs = [RemoteFile(path=f"{run_dir}/{name}", data=data) for name, data in scheduler.files().items()]
    assert await runner.put([script, *programs], deadline_s=DEADLINE_S) == Done(code=0, out=b"", err=b"")
    return scheduler


async def test_jobs_are_submitted_listed_read_cancelled_and_removed(runner: SshRunner, run_dir: Path) -> None:
    scheduler = await prepared(runner, run_dir)
    answers = await runner.run([scheduler.submit(submission(run_dir)), *scheduler.observe()], deadline_s=DEADLINE_S)
    accepted = scheduler.parse_submit(answers[0])
    assert isinstance(accepted, Accepted), answers
    observation = scheduler.parse(answers[1:])
    assert [(job.scheduler_id, job.phase) for job in observation.jobs] == [(accepted.scheduler_id, JobPhase.RUNNING)]
    cancelled = await runner.run(scheduler.cancel([accepted.scheduler_id, "4711"]), deadline_s=DEADLINE_S)
    assert [result for result in cancelled if not isinstance(result, Done)] == []
    read = await runner.read_many([f"{run_dir}/{JOB}/start.sh", f"{run_dir}/{JOB}/none"], deadline_s=DEADLINE_S)
    assert not isinstance(read, Unknown)
    assert list(read) == [f"{run_dir}/{JOB}/start.sh"]
    assert isinstance(await runner.remove([f"{run_dir}/{JOB}"], deadline_s=DEADLINE_S), Done)


async def test_a_stolen_key_runs_no_other_command(runner: SshRunner, run_dir: Path, tmp_path: Path) -> None:
    scheduler = await prepared(runner, run_dir)
    touched = tmp_path / "touched"
    python, program, folder = sys.executable, f"{run_dir}/{PROGRAM}", str(run_dir)
    base = list(scheduler.observe()[0].argv)
    submit = list(scheduler.submit(submission(run_dir)).argv)
    tries = [
        ["touch", str(touched)],
        ["/bin/sh", "-c", f"touch {touched}"],
        [*base, f"; touch {touched}"],
        [*base[:-1], f"{folder}\0; touch {touched}"],
        [*base[:-1], f"$(touch {touched})"],
        [*base, "--prolog=/bin/sh"],
        [python, "-I", "-c", f"open('{touched}','w')"],
        [python, "-I", "-S", program, "submit", folder, f"first-{INSTALLATION}-{JOB}", "600", "/bin/sh"],
        [
            python,
            "-I",
            "-S",
            program,
            "submit",
            folder,
            f"first-{INSTALLATION}-{JOB}",
            "600",
            f"{folder}/{OTHER}/start.sh",
        ],
        [python, "-I", "-S", program, "submit", folder, f"first-zzzzzzzz-{JOB}", "600", submit[-1]],
        [*submit[:-1], f"{folder}/{JOB}/../../{tmp_path.name}/start.sh"],
        [*submit[:-1], f"{submit[-1]}\nx"],
        [*submit, "0"],
        [],
        [""],
    ]
    commands = [Command(argv=tuple(argv)) for argv in tries] + [Command(argv=tuple(base), stdin=b"#!/bin/sh\n")]
    results = await runner.run(commands, deadline_s=DEADLINE_S)
    assert [type(result) for result in results] == [Refused] * len(commands)
    assert not touched.exists()


async def test_a_stolen_key_puts_and_reads_nothing_but_files_of_jobs(
    runner: SshRunner, run_dir: Path, tmp_path: Path
) -> None:
    await prepared(runner, run_dir)
    (run_dir / JOB / "control.key").write_text("secret")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (run_dir / OTHER).symlink_to(outside)
    (run_dir / JOB / "engine.log").symlink_to(outside / "secret")
    (run_dir / JOB / "i-000000000000").symlink_to(outside)
    for path in (
        f"{outside}/file",
        f"{run_dir}/../outside/file",
        f"{run_dir}/{JOB}/../../outside/file",
        f"{run_dir}//{JOB}/file",
        f"{run_dir}/{OTHER}/file",
        f"{run_dir}/{JOB}/i-000000000000/file",
        f"{run_dir}/{JOB}/.bashrc",
        f"{run_dir}/{JOB}/deep/er/file",
        f"{run_dir}/{PROGRAM}",
        f"{run_dir}/launcher-000000000000.pyz",
        f"{run_dir}/.jobs/1.json",
        f"{run_dir}/.submitted/{JOB}",
        "/etc/cron.d/first",
        "relative",
        "",
    ):
        result = await runner.put([RemoteFile(path=path, data=b"x")], deadline_s=DEADLINE_S)
        assert isinstance(result, Refused), path
    assert isinstance(
        await runner.put([RemoteFile(path=f"{run_dir}/{JOB}/file", data=b"x", mode=0o4755)], deadline_s=DEADLINE_S),
        Refused,
    )
    assert [entry.name for entry in outside.iterdir()] == ["secret"]
    for path in (
        "/etc/passwd",
        f"{outside}/secret",
        f"{run_dir}/{OTHER}/secret",
        f"{run_dir}/{JOB}/engine.log",
        f"{run_dir}/{JOB}/i-000000000000/secret",
        f"{run_dir}/{JOB}/control.key",
        f"{run_dir}/{JOB}/job.json",
    ):
        assert isinstance(await runner.read_many([path], deadline_s=DEADLINE_S), Unknown), path
    for folder in (
        "/",
        str(run_dir),
        str(outside),
        f"{run_dir}/{JOB}/..",
        f"{run_dir}/{JOB}/i-000000000000",
        f"{run_dir}/.jobs",
    ):
        assert isinstance(await runner.remove([folder], deadline_s=DEADLINE_S), Refused), folder
    assert (outside / "secret").read_text() == "secret"


async def test_a_stolen_key_cancels_nobody_elses_job(runner: SshRunner, run_dir: Path) -> None:
    scheduler = await prepared(runner, run_dir)
    path = f"{run_dir}/{JOB}/start.sh"
    jobs = [sys.executable, "-I", "-S", f"{run_dir}/{PROGRAM}"]
    made = await anyio.run_process([*jobs, "submit", str(run_dir), "somebody-elses", "0", path])
    number = made.stdout.decode().strip()
    try:
        (result,) = await runner.run(scheduler.cancel([number]), deadline_s=DEADLINE_S)
        assert isinstance(result, Refused)
        assert "this installation alone" in result.detail
        (listed,) = await runner.run(scheduler.observe(), deadline_s=DEADLINE_S)
        assert isinstance(listed, Done)
        assert b'"RUNNING"' in listed.out
    finally:
        await anyio.run_process([*jobs, "cancel", str(run_dir), number])


async def test_a_stolen_key_opens_no_shell_no_forwarding_and_no_other_program(gated: Sshd, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    base = ["ssh", "-F", "none", "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={gated.folder}/known_hosts", "-i"]
    base += [str(gated.folder / "user"), "-o", "IdentitiesOnly=yes", "-p", str(gated.port)]

    def ssh(*arguments: str, words: str = "") -> subprocess.CompletedProcess[bytes]:
        argv = [*base, *arguments]
        return subprocess.run(argv, input=words.encode(), capture_output=True, timeout=60, check=False)

    for asked in (
        f"touch {touched}",
        f"first-gate {'0' * 32}; touch {touched}",
        "first-gate",
        f"first-gate {'0' * 32}\ntouch {touched}",
    ):
        assert ssh("127.0.0.1", asked).returncode == 126
    assert ssh("-tt", "127.0.0.1", words=f"touch {touched}\nexit\n").returncode != 0
    assert ssh("-s", "127.0.0.1", "sftp").returncode != 0
    assert b"administratively prohibited" in ssh("-W", f"127.0.0.1:{gated.port}", "127.0.0.1").stderr
    for forwarding in ("-R", "-L"):
        socket = f"{tmp_path}/f{forwarding}.sock"
        ssh(
            "-o",
            "ExitOnForwardFailure=yes",
            forwarding,
            f"{socket}:{tmp_path}/none",
            "127.0.0.1",
            f"first-gate {'0' * 32}",
        )
    assert not (tmp_path / "f-R.sock").exists()
    assert not touched.exists()


async def test_a_key_of_a_gate_that_the_runner_does_not_know_of_is_refused_with_what_to_set(
    gated: Sshd, ssh_runner: MakeRunner
) -> None:
    (result,) = await ssh_runner(gated.place()).run([Command(argv=("true",))], deadline_s=DEADLINE_S)
    assert isinstance(result, Refused)
    assert "`gate: true`" in result.detail


# ------------------------------------------------------------------------------------------------------------ approved


class Approved:
    """The gate in mode `approved`, run as another user than the one who approves; needs root."""

    uid = 65534

    def __init__(self, folder: Path, python: str) -> None:
        folder.chmod(0o755)
        self.python = python
        self.run_dir = folder / "run"
        self.run_dir.mkdir(mode=0o700)
        os.chown(self.run_dir, self.uid, self.uid)
        self.list = folder / "approved"
        self.list.write_text("")
        self.gate, self.policy = folder / "gate.py", folder / "gate.json"
        self.gate.write_bytes(GATE)
        cluster = make_cluster(run_dir=str(self.run_dir))
        self.scheduler = LocalScheduler(cluster, installation=INSTALLATION, python=python)
        document = policy(
            cluster,
            self.scheduler,
            installation=INSTALLATION,
            asks=[],
            approvals=str(self.list),
        )
        self.policy.write_text(json.dumps(document))

    def ask(self, head: dict[str, Any], *blobs: bytes) -> list[dict[str, Any]]:
        """Make one call of the gate; return the results' heads."""
        nonce = secrets.token_hex(16)
        whole = {**head, "deadline_s": 30, "sizes": [len(blob) for blob in blobs]}
        asked = json.dumps(whole).encode() + b"\n" + b"".join(blobs) + nonce.encode() + b"\n"
        process = subprocess.Popen(
            [self.python, "-I", str(self.gate), str(self.policy)],
            env={"SSH_ORIGINAL_COMMAND": f"first-gate {nonce}", "HOME": "/"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            user=self.uid,
            group=self.uid,
            extra_groups=[],
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(asked)
        process.stdin.flush()
        said = process.stdout.read()
        words = process.stderr.read()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()
        if process.wait():
            return [{"state": "failed", "detail": words.decode()}]
        return [json.loads(line) for line in said.splitlines() if line.startswith(b'{"state"')]

    def put(self, path: str, data: bytes, mode: int = 0o600) -> str:
        return self.ask({"op": "put", "files": [[f"{self.run_dir}/{path}", mode]]}, data)[0]["state"]

    def submit(self, job: str) -> dict[str, Any]:
        return self.ask(
            {"op": "run", "commands": [list(self.scheduler.submit(submission(self.run_dir, job)).argv)]}, b""
        )[0]

    def job(self, job: str, *, argv: str = "engine", script: str = "") -> dict[str, bytes]:
        launcher = f"{self.run_dir}/{LAUNCHER}"
        document = {
            "job": job,
            "walltime_s": 600,
            "instances": [{"instance": f"i-{job[2:]}", "engine": {"argv": [argv], "key": job}}],
        }
        return {
            "start.sh": (
                script or f"#!/bin/bash\ncd {self.run_dir}/{job}\nexec python3 {launcher} job.json\n"
            ).encode(),
            "job.json": json.dumps(document).encode(),
            f"i-{job[2:]}/serve.py": b"print()",
        }

    def put_job(self, job: str, contents: dict[str, bytes]) -> None:
        for name, data in contents.items():
            assert self.put(f"{job}/{name}", data) == "done"
        assert self.put(f"{job}/control.key", secrets.token_bytes(8)) == "done"

    def approve(self, job: str, contents: dict[str, bytes]) -> None:
        argv = self.scheduler.submit(submission(self.run_dir, job)).argv
        with self.list.open("a") as handle:
            handle.write(f"{fingerprint(job, contents, LAUNCHER_DATA, argv)}  one  2026-11-25\n")


LAUNCHER_DATA = b"#!/usr/bin/env python3\nimport sys\nsys.exit(0)\n"
LAUNCHER = "launcher-" + hashlib.sha256(LAUNCHER_DATA).hexdigest()[:12] + ".pyz"


def runs_as_another(python: str) -> bool:
    argv = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 9))"]
    with contextlib.suppress(OSError):
        return subprocess.run(argv, user=Approved.uid, group=Approved.uid, extra_groups=[], check=False).returncode == 0
    return False


@pytest.fixture
def approved() -> Iterator[Approved]:
    if os.getuid() != 0:
        pytest.skip("allowed: an administrator and the key's account are two users, which only root can be")
    python = next((path for path in ("/usr/bin/python3", sys.executable) if runs_as_another(path)), None)
    if python is None:
        pytest.skip("allowed: there is no Python of 3.9 or later here that another user may run")
    folder = Path("/tmp") / f"first-gate-{secrets.token_hex(6)}"
    folder.mkdir()
    yield Approved(folder, python)
    shutil.rmtree(folder)


def test_only_what_an_administrator_approved_is_submitted(approved: Approved) -> None:
    for name, data in approved.scheduler.files().items():
        assert approved.put(name, data) == "done"
    assert approved.put(LAUNCHER, LAUNCHER_DATA) == "done"
    approved.approve(OTHER, approved.job(OTHER))
    approved.put_job(JOB, approved.job(JOB))
    assert approved.submit(JOB)["state"] == "done"
    again = approved.submit(JOB)
    assert (again["state"], "once" in again["detail"]) == ("refused", True)


def test_a_job_that_differs_in_anything_that_is_run_is_not_submitted(approved: Approved) -> None:
    for name, data in approved.scheduler.files().items():
        assert approved.put(name, data) == "done"
    assert approved.put(LAUNCHER, LAUNCHER_DATA) == "done"
    approved.approve(OTHER, approved.job(OTHER))
    evil = {
        "j-000000000001": approved.job("j-000000000001", argv="/bin/sh"),
        "j-000000000002": approved.job("j-000000000002", script="#!/bin/bash\nexec id\n"),
        "j-000000000003": approved.job("j-000000000003", script=approved.job(OTHER)["start.sh"].decode()),
        "j-000000000004": {**approved.job("j-000000000004"), "sitecustomize.py": b"print()"},
        "j-000000000005": {**approved.job("j-000000000005"), "i-000000000005/serve.py": b"evil()"},
        "j-000000000006": {**approved.job("j-000000000006"), "job.json": b"{"},
    }
    for job, contents in evil.items():
        approved.put_job(job, contents)
        assert approved.submit(job)["state"] == "refused", job


def test_what_was_submitted_is_not_changed_afterwards_nor_taken_away_and_put_anew(approved: Approved) -> None:
    for name, data in approved.scheduler.files().items():
        assert approved.put(name, data) == "done"
    assert approved.put(LAUNCHER, LAUNCHER_DATA) == "done"
    approved.approve(OTHER, approved.job(OTHER))
    approved.put_job(JOB, approved.job(JOB))
    assert approved.submit(JOB)["state"] == "done"
    for _ in range(2):
        assert approved.put(f"{JOB}/job.json", b"{}") == "refused"
        assert approved.put(f"{JOB}/i-00000000000a/new.py", b"{}") == "refused"
        assert approved.put(f"{JOB}/desired.json", b"{}") == "done"
        assert approved.ask({"op": "remove", "folders": [f"{approved.run_dir}/{JOB}"]})[0]["state"] == "done"


def test_a_list_that_the_keys_own_account_can_change_is_not_believed(approved: Approved) -> None:
    for path in (approved.list, approved.policy, approved.gate):
        os.chown(path, approved.uid, approved.uid)
        (failed,) = approved.ask({"op": "put", "files": []})
        assert "can change" in failed["detail"]
        os.chown(path, 0, 0)
    approved.list.chmod(0o666)
    assert "can change" in approved.ask({"op": "put", "files": []})[0]["detail"]
    approved.list.chmod(0o644)
    assert approved.ask({"op": "put", "files": []})[0]["state"] == "done"


# -------------------------------------------------------------------------------------------------------------- tables


def allows(document: dict[str, Any], argv: tuple[str, ...]) -> bool:
    patterns = [re.compile(text) for texts in document["commands"].values() for text in texts]
    return any(pattern.fullmatch("\0".join(argv)) for pattern in patterns)


@pytest.mark.parametrize("kind", ["slurm", "pbs"])
def test_the_table_of_a_scheduler_takes_what_its_dialect_builds_and_no_option_more(kind: str) -> None:
    folder = Path("/scratch/first")
    cluster = make_cluster(run_dir=str(folder), scheduler=SchedulerSpec(kind=kind, options={"partition": "gpu"}))
    scheduler = scheduler_for(cluster, installation=INSTALLATION)
    document = policy(cluster, scheduler, installation=INSTALLATION, asks=[Resources(gpus=8)])
    asked = [
        replace(submission(folder), resources=Resources(gpus=8, walltime_s=walltime)) for walltime in (600, 90_000)
    ]
    submit, cancel = scheduler.submit(asked[0]).argv, scheduler.cancel(["17", "18"])[0].argv
    built = [submit, scheduler.submit(asked[1]).argv, cancel]
    built += [
        one.argv for one in (*scheduler.observe(), *scheduler.windows(), *scheduler.recall({JOB: "17", OTHER: "18"}))
    ]
    for argv in built:
        assert allows(document, argv), argv
    for option in ("--wrap=id", "--prolog=/bin/sh", "--output=/home/me/.ssh/authorized_keys", "-Wblock=true", "-V"):
        assert not allows(document, (*submit[:-1], option, submit[-1]))
        assert not allows(document, (*submit, option))
    for argv in (
        (cancel[0],),
        (*cancel, "-u", "me"),
        (*cancel, "17 18"),
        ("scontrol", "update", "JobId=17"),
        ("qalter", "17"),
    ):
        assert not allows(document, argv)
