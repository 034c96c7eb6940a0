# SPDX-License-Identifier: Apache-2.0
"""What every runner that runs real commands keeps to: clean environments, deadlines that leave nothing, whole files."""

import os
import sys
import time
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from firstkit.adapters.runners.local import LocalRunner
from firstkit.ports.runner import Command, Done, Refused, RemoteFile, Result, Runner, Unknown

pytestmark = pytest.mark.anyio
SHORT_S = 4.0
"""A deadline that is run into on purpose; what comes before it must have ended by then."""


def python(code: str, stdin: bytes = b"") -> Command:
    return Command(argv=(sys.executable, "-I", "-S", "-c", code), stdin=stdin)


async def run(runner: Runner, command: Command, *, deadline_s: float = 20.0) -> Result:
    (result,) = await runner.run([command], deadline_s=deadline_s)
    return result


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def inode(path: str) -> int:
    return Path(path).stat().st_ino


def wait_for_the_end_of(pids: list[str]) -> None:
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def test_output_code_and_input_are_carried_whole(runner: Runner) -> None:
    code = "import sys; d=sys.stdin.buffer.read(); sys.stdout.buffer.write(d*3); sys.stderr.write('e'); sys.exit(7)"
    data = os.urandom(300_000)
    assert await run(runner, python(code, data)) == Done(code=7, out=data * 3, err=b"e")


async def test_a_command_sees_an_allow_list_of_the_environment() -> None:
    given = {"PATH": os.environ["PATH"], "HOME": "/h", "SECRET": "s", "http_proxy": "p", "LANG": "C"}
    result = await run(LocalRunner(given), python("import os; print(*os.environ)"))
    assert isinstance(result, Done)
    assert set(result.out.decode().split()) - {"LC_CTYPE"} == {"PATH", "HOME", "LANG"}


async def test_a_command_that_is_not_there_was_refused(runner: Runner) -> None:
    result = await run(runner, Command(argv=("/nowhere/program",)))
    assert result == Refused(detail="/nowhere/program: No such file or directory")


async def test_a_command_that_does_not_end_is_unknown_and_its_whole_session_is_killed(
    runner: Runner, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 600 & echo $! $$ >{pids}.new; mv {pids}.new {pids}; wait"
    result = await run(runner, Command(argv=("/bin/sh", "-c", script)), deadline_s=SHORT_S)
    assert isinstance(result, Unknown)
    await anyio.to_thread.run_sync(wait_for_the_end_of, pids.read_text().split())


async def test_what_follows_an_unknown_command_is_not_tried(runner: Runner, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    results = await runner.run(
        [python("print(1)"), python("import time; time.sleep(600)"), python(f"open({str(touched)!r}, 'w')")],
        deadline_s=SHORT_S,
    )
    assert isinstance(results[0], Done)
    assert isinstance(results[1], Unknown)
    assert isinstance(results[2], Refused)
    assert not touched.exists()


async def test_commands_run_in_order_and_a_failing_one_does_not_stop_the_rest(runner: Runner, tmp_path: Path) -> None:
    log = tmp_path / "log"
    commands = [Command(argv=("/bin/sh", "-c", f"echo {number} >>{log}; exit {number}")) for number in range(3)]
    results = await runner.run(commands, deadline_s=20.0)
    assert [result.code for result in results if isinstance(result, Done)] == [0, 1, 2]
    assert log.read_text() == "0\n1\n2\n"


async def test_a_command_that_reads_nothing_is_no_trouble(runner: Runner) -> None:
    result = await run(runner, python("pass", os.urandom(1_000_000)))
    assert isinstance(result, Done)


async def test_a_daemon_that_keeps_no_output_open_does_not_hold_the_command(runner: Runner) -> None:
    result = await run(runner, Command(argv=("/bin/sh", "-c", "setsid sleep 1 </dev/null >/dev/null 2>&1 & echo $!")))
    assert isinstance(result, Done)
    await anyio.to_thread.run_sync(wait_for_the_end_of, result.out.decode().split())


async def test_files_are_0600_and_folders_0700_whatever_the_umask(runner: Runner, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = tmp_path / "a" / "b"
        files = [RemoteFile(path=f"{folder}/plain", data=b"x"), RemoteFile(path=f"{folder}/run", data=b"y", mode=0o700)]
        assert isinstance(await runner.put(files, deadline_s=20), Done)
    finally:
        os.umask(before)
    modes = [path.stat().st_mode & 0o777 for path in (folder, folder.parent, folder / "plain", folder / "run")]
    assert modes == [0o700, 0o700, 0o600, 0o700]
    assert names(folder) == ["plain", "run"]


async def test_a_file_is_replaced_whole_so_that_a_reader_never_sees_half_of_it(runner: Runner, tmp_path: Path) -> None:
    path = str(tmp_path / "document")
    one, other = b"a" * 100_000, b"b" * 200_000
    seen: set[bytes] = set()
    done = anyio.Event()

    async def read() -> None:
        while not done.is_set():
            found = await runner.read_many([path], deadline_s=20)
            assert not isinstance(found, Unknown)
            seen.update(found.values())

    async with anyio.create_task_group() as group:
        await runner.put([RemoteFile(path=path, data=one)], deadline_s=20)
        group.start_soon(read)
        for _ in range(50):
            for data in (other, one):
                await runner.put([RemoteFile(path=path, data=data)], deadline_s=20)
        done.set()
    assert seen <= {one, other}
    assert names(tmp_path) == ["document"]


async def test_many_writers_of_one_file_leave_one_of_their_contents(runner: Runner, tmp_path: Path) -> None:
    path = str(tmp_path / "document")
    async with anyio.create_task_group() as group:
        for number in range(16):
            file = RemoteFile(path=path, data=bytes([number]) * 50_000)

            async def put(file: RemoteFile = file) -> None:
                assert isinstance(await runner.put([file], deadline_s=20), Done)

            group.start_soon(put)
    found = await runner.read_many([path], deadline_s=20)
    assert not isinstance(found, Unknown)
    assert len(set(found[path])) == 1
    assert names(tmp_path) == ["document"]


async def test_an_unchanged_file_is_left_as_it_is(runner: Runner, tmp_path: Path) -> None:
    file = RemoteFile(path=str(tmp_path / "same"), data=b"same")
    await runner.put([file], deadline_s=20)
    before = inode(file.path)
    await runner.put([file], deadline_s=20)
    assert inode(file.path) == before


async def test_what_cannot_be_written_is_refused_with_the_place_and_the_reason(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = await runner.put([RemoteFile(path=f"{tmp_path}/file/under", data=b"x")], deadline_s=20)
    assert isinstance(result, Refused)
    assert "file" in result.detail
    assert result.detail.endswith(("Not a directory", "File exists"))


async def test_what_cannot_be_read_is_unknown_and_what_is_not_there_is_left_out(runner: Runner, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_bytes(b"0123456789")
    found = await runner.read_many([str(there), f"{tmp_path}/no", f"{there}/under"], deadline_s=20, limit=3)
    assert found == {str(there): b"789"}
    assert isinstance(await runner.read_many([str(tmp_path)], deadline_s=20), Unknown)


async def test_a_file_system_that_hangs_is_unknown_after_the_deadline(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert isinstance(await LocalRunner(os.environ).read_many([str(pipe)], deadline_s=0.3), Unknown)
    with pipe.open("wb"):  # lets the abandoned reader end
        pass
