# SPDX-License-Identifier: Apache-2.0
"""The ssh runner against a real sshd: what a lost, frozen, full or refused connection makes of a command."""

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from firstkit.adapters.runners.ssh import SshRunner
from firstkit.adapters.runners.ssh_master import SshMaster
from firstkit.core.reasons import Reason
from firstkit.ports.runner import Command, Done, Refused, RemoteFile, Result, Unknown
from firstkit.testing.sshd import Sshd, keygen

pytestmark = pytest.mark.anyio
MakeRunner = Callable[..., SshRunner]
DEADLINE_S = 40.0


def shell(script: str, stdin: bytes = b"") -> Command:
    return Command(argv=("/bin/sh", "-c", script), stdin=stdin)


async def one(runner: SshRunner, command: Command, deadline_s: float = DEADLINE_S) -> Result:
    (result,) = await runner.run([command], deadline_s=deadline_s)
    return result


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def until_there(path: Path) -> str:
    """Wait for what a command writes when it has begun."""
    await anyio.to_thread.run_sync(eventually, lambda: path.exists() and path.read_text().endswith("\n"))
    return text(path).strip()


async def gone(pid: int) -> None:
    """Wait for the end of a process that is no child of ours."""
    await anyio.to_thread.run_sync(eventually, lambda: not runs(pid))


def runs(pid: int) -> bool:
    line = Path(f"/proc/{pid}/cmdline")
    return line.exists() and bool(line.read_bytes())


def text(path: Path) -> str:
    return path.read_text()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def master_pid(runner: SshRunner) -> int:
    return int(Path(runner.master.socket).with_suffix(".pid").read_text())


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory, sshd: Sshd) -> Iterator[list[Sshd]]:
    """Servers of this test's own."""
    servers: list[Sshd] = []
    yield servers
    for server in servers:
        server.stop()


# ------------------------------------------------------------------------------------------------- the connection dies


async def test_a_command_whose_connection_is_cut_is_unknown_and_does_not_go_on(
    sshd: Sshd, ssh_runner: MakeRunner, tmp_path: Path
) -> None:
    runner, begun = ssh_runner(), tmp_path / "begun"
    results: list[Result] = []

    async def call() -> None:
        command = shell(f"echo $$ >{begun}; exec sleep 600")
        results.extend(await runner.run([shell("echo first"), command, shell("echo last")], deadline_s=DEADLINE_S))

    pid = 0
    async with anyio.create_task_group() as group:
        group.start_soon(call)
        pid = int(await until_there(begun))
        os.kill(master_pid(runner), signal.SIGKILL)
    assert results[0] == Done(code=0, out=b"first\n", err=b"")
    assert [type(result) for result in results[1:]] == [Unknown, Unknown]
    await gone(pid)
    assert await one(runner, shell("echo again")) == Done(code=0, out=b"again\n", err=b"")


async def test_a_login_node_that_falls_over_in_the_middle_of_a_command_leaves_it_unknown(
    own: list[Sshd], ssh_runner: MakeRunner, tmp_path: Path
) -> None:
    own.append(Sshd(tmp_path / "own"))
    own[0].start()
    runner, begun = ssh_runner(own[0].place(python=sys.executable)), tmp_path / "begun"
    results: list[Result] = []

    async def call() -> None:
        results.append(await one(runner, shell(f"echo $$ >{begun}; exec sleep 600")))

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await until_there(begun)
        own[0].stop()
    assert isinstance(results[0], Unknown)
    assert "lost" in results[0].detail
    refused = await one(runner, shell("echo nowhere"))
    assert isinstance(refused, Refused)
    assert "refused" in refused.detail
    own[0].start()
    assert isinstance(await one(runner, shell("true")), Done)


async def test_a_frozen_connection_is_unknown_once_asked_and_refused_before(
    own: list[Sshd], ssh_runner: MakeRunner, tmp_path: Path
) -> None:
    own.append(Sshd(tmp_path / "own"))
    own[0].start()
    runner, begun = ssh_runner(own[0].place(python=sys.executable)), tmp_path / "begun"
    results: list[Result] = []

    async def call() -> None:
        results.append(await one(runner, shell(f"echo $$ >{begun}; exec sleep 600"), deadline_s=5.0))

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await until_there(begun)
        own[0].freeze()
    assert isinstance(results[0], Unknown)
    assert isinstance(await one(runner, shell("echo nowhere"), deadline_s=1.0), Refused)
    own[0].thaw()
    assert isinstance(await one(runner, shell("true")), Done)


async def test_a_connection_of_ours_that_is_stopped_is_replaced(ssh_runner: MakeRunner) -> None:
    runner = ssh_runner()
    await one(runner, shell("true"))
    stopped = master_pid(runner)
    os.kill(stopped, signal.SIGSTOP)
    next_one = SshRunner(
        SshMaster(runner.master.place, folder=runner.master.folder, environment=os.environ, keeper=True)
    )
    assert isinstance(await one(next_one, shell("true")), Done)
    assert master_pid(next_one) != stopped
    await gone(stopped)


async def test_a_socket_that_nobody_listens_on_any_more_is_replaced(ssh_runner: MakeRunner) -> None:
    runner = ssh_runner()
    await one(runner, shell("true"))
    os.kill(master_pid(runner), signal.SIGKILL)
    assert isinstance(await one(runner, shell("true")), Done)


async def test_the_next_process_finds_the_connection_and_who_keeps_none_uses_it_without_ending_it(
    ssh_runner: MakeRunner,
) -> None:
    first = ssh_runner()
    await one(first, shell("true"))
    pid = master_pid(first)
    adopting, guest = ssh_runner(), ssh_runner(keeper=False)
    for runner in (adopting, guest):
        assert isinstance(await one(runner, shell("true")), Done)
        assert master_pid(runner) == pid
    await guest.master.close()
    assert isinstance(await one(first, shell("true")), Done)
    assert master_pid(first) == pid
    await first.master.close()
    await gone(pid)


async def test_more_calls_than_sessions_are_allowed_wait_for_their_turn(
    own: list[Sshd], ssh_runner: MakeRunner, tmp_path: Path
) -> None:
    own.append(Sshd(tmp_path / "own", extra="MaxSessions 2"))
    own[0].start()
    runner = ssh_runner(own[0].place(python=sys.executable))
    results: list[Result] = []

    async def call(number: int) -> None:
        results.append(await one(runner, shell(f"sleep 0.2; echo {number}")))

    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(call, number)
    said = sorted(int(result.out) for result in results if isinstance(result, Done))
    assert said == list(range(10)), results


# ------------------------------------------------------------------------------------------------------ who is let in


async def test_a_host_whose_key_is_not_the_known_one_is_refused(sshd: Sshd, ssh_runner: MakeRunner) -> None:
    other = sshd.folder / "other"
    if not other.exists():
        keygen("-q", "-t", "ed25519", "-N", "", "-f", str(other))
    known = sshd.folder / "known_others"
    known.write_text(f"[127.0.0.1]:{sshd.port} {' '.join((sshd.folder / 'other.pub').read_text().split()[:2])}\n")
    place = sshd.place(python=sys.executable)
    for hosts in (known, Path("/dev/null")):
        strange = replace(place, known_hosts=str(hosts))
        result = await one(ssh_runner(strange), shell("true"))
        assert isinstance(result, Refused)
        assert "Host key verification failed" in result.detail


async def test_a_key_that_is_not_taken_is_refused_before_anything_runs(sshd: Sshd, ssh_runner: MakeRunner) -> None:
    keygen("-q", "-t", "ed25519", "-N", "", "-f", str(sshd.folder / "stranger"))
    place = sshd.place()
    runner = ssh_runner(replace(place, key=str(sshd.folder / "stranger")))
    result = await one(runner, shell("true"))
    assert isinstance(result, Refused)
    assert "Permission denied" in result.detail
    login = await runner.login()
    assert (login.well, login.expired) == (False, False)


async def test_a_certificate_tells_how_long_it_lasts_and_its_end_is_an_expired_login_until_it_is_renewed(
    own: list[Sshd], ssh_runner: MakeRunner, tmp_path: Path
) -> None:
    folder = tmp_path / "own"
    own.append(Sshd(folder, extra=f"TrustedUserCAKeys {folder}/ca.pub"))
    keygen("-q", "-t", "ed25519", "-N", "", "-f", str(folder / "ca"))
    (folder / "authorized_keys").write_text("")
    own[0].start()
    place = own[0].place(python=sys.executable, certificate=str(folder / "user-cert.pub"))
    sign = ["ssh-keygen", "-q", "-s", str(folder / "ca"), "-I", "first", "-n", place.user, "-V"]
    await anyio.run_process([*sign, "-2h:-1h", str(folder / "user.pub")])
    expired = ssh_runner(place)
    result = await one(expired, shell("true"))
    assert isinstance(result, Unknown)
    assert result.reason is Reason.LOGIN_EXPIRED
    assert "certificate has ended" in result.detail
    assert (await expired.login()).expired

    renew = shlex.join([*sign, "-1h:+8h", str(folder / "user.pub")])
    renewing = ssh_runner(own[0].place(python=sys.executable, certificate=place.certificate, renew=renew))
    assert isinstance(await one(renewing, shell("true")), Done)
    login = await renewing.login()
    assert login.well
    assert login.left_s is not None
    assert 7.5 * 3600 < login.left_s < 8.5 * 3600

    (folder / "user-cert.pub").unlink()
    failing = ssh_runner(own[0].place(renew="echo no ticket >&2; exit 1"))
    result = await one(failing, shell("true"))
    assert isinstance(result, Unknown)
    assert "no ticket" in result.detail


async def test_a_connection_that_a_person_opened_is_used_never_ended_and_missed_when_it_is_gone(
    sshd: Sshd, ssh_runner: MakeRunner, tmp_path: Path
) -> None:
    persons = ssh_runner(sshd.place(python=sys.executable))
    await one(persons, shell("true"))
    pid = master_pid(persons)
    runner = ssh_runner(sshd.place(python=sys.executable, control_path=persons.master.socket))
    assert await one(runner, shell("echo in")) == Done(code=0, out=b"in\n", err=b"")
    await runner.master.close()
    assert runs(pid)
    await persons.master.close()
    await gone(pid)
    result = await one(runner, shell("true"))
    assert isinstance(result, Unknown)
    assert result.reason is Reason.LOGIN_EXPIRED
    assert f"ssh -M -S {persons.master.socket}" in result.detail


async def test_a_host_behind_another_is_reached_with_the_same_care(
    own: list[Sshd], sshd: Sshd, ssh_runner: MakeRunner, tmp_path: Path
) -> None:
    own.append(Sshd(tmp_path / "own"))
    (own[0].folder / "authorized_keys").write_text((sshd.folder / "user.pub").read_text())
    own[0].start()
    known = own[0].folder / "known_both"
    known.write_text((own[0].folder / "known_hosts").read_text() + (sshd.folder / "known_hosts").read_text())
    place = sshd.place(python=sys.executable)
    place = replace(place, jump=f"{place.user}@localhost:{own[0].port}")
    assert isinstance(await one(ssh_runner(place), shell("true")), Refused)
    known.write_text(known.read_text() + known.read_text().replace("127.0.0.1", "localhost"))
    place = replace(place, known_hosts=str(known))
    assert await one(ssh_runner(place), shell("echo in")) == Done(code=0, out=b"in\n", err=b"")


# ----------------------------------------------------------------------------------------------------- what is printed


async def test_a_login_that_prints_greetings_and_errors_changes_no_answer(
    own: list[Sshd], ssh_runner: MakeRunner, tmp_path: Path
) -> None:
    (tmp_path / "banner").write_text("* Unauthorised use is forbidden. *\n" * 50)
    noise = tmp_path / "noisy-shell"
    noise.write_text(
        '#!/bin/sh\nhead -c 100000 /dev/urandom\nhead -c 300000 /dev/urandom >&2\necho "Welcome!"\n'
        'exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    noise.chmod(0o700)
    own.append(Sshd(tmp_path / "own", extra=f"Banner {tmp_path}/banner", options=f'command="{noise}"'))
    own[0].start()
    runner = ssh_runner(own[0].place(python=sys.executable))
    result = await one(runner, shell("echo clean; echo err >&2; exit 7"))
    assert result == Done(code=7, out=b"clean\n", err=b"err\n")


async def test_a_long_and_a_binary_output_come_whole(ssh_runner: MakeRunner) -> None:
    every_byte = bytes(range(256)) * 40_000
    result = await one(ssh_runner(), shell("cat; cat /dev/null >&2", every_byte))
    assert isinstance(result, Done)
    assert result.out == every_byte


async def test_a_python_that_is_not_there_is_refused_with_what_to_set(ssh_runner: MakeRunner) -> None:
    result = await one(ssh_runner(python="/nowhere/python3"), shell("true"))
    assert isinstance(result, Refused)
    assert "`python` of the runner" in result.detail


# ------------------------------------------------------------------------------------------- environment and modes


async def test_no_secret_is_in_any_command_line_nor_in_a_commands_environment_and_files_are_private(
    sshd: Sshd, ssh_runner: MakeRunner, tmp_path: Path
) -> None:
    secret = f"canary{os.urandom(12).hex()}"
    before, told = dict(os.environ), b""
    os.environ["HF_TOKEN"] = secret
    try:
        runner, begun, going = ssh_runner(), tmp_path / "begun", tmp_path / "going"
        os.mkfifo(going)
        path = f"{tmp_path}/run/j/control.key"
        results: list[Result] = []

        async def call() -> None:
            assert isinstance(await runner.put([RemoteFile(path=path, data=secret.encode())], deadline_s=60), Done)
            script = f"env; umask; echo yes >{begun}; read x <{going}"
            results.append(await one(runner, shell(script, secret.encode())))

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await until_there(begun)
            told = b"".join(_command_lines())
            with going.open("w") as pipe:
                pipe.write("go\n")
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert begun.name.encode() in told, "the command line of what runs was looked at"
    assert secret.encode() not in told
    assert isinstance(results[0], Done)
    lines = results[0].out.decode().splitlines()
    assert secret not in results[0].out.decode()
    assert {line.partition("=")[0] for line in lines[:-1]} <= {
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "LANG",
        "TZ",
        "PWD",
        "SHLVL",
        "_",
        "OLDPWD",
    }
    assert lines[-1] == "0077"
    folders = (Path(path).parent, Path(path).parent.parent, runner.master.folder)
    assert [mode(one) for one in (Path(path), *folders)] == [0o600, 0o700, 0o700, 0o700]
    assert {mode(one) for one in runner.master.folder.iterdir()} == {0o600}


def _command_lines() -> list[bytes]:
    found: list[bytes] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.append((entry / "cmdline").read_bytes())
            except OSError:
                continue
    return found
