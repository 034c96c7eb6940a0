# SPDX-License-Identifier: Apache-2.0
"""start.sh as bash runs it: the launcher in its place, or the setup line that failed, in its own words."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from firstkit.adapters.schedulers.script import FAILED, OUTPUT, start_script
from firstkit.core.catalog import Resources
from firstkit.ports.scheduler import Submission

LAUNCHER = "import os, sys\nprint('launched', sys.argv[1:], os.getpid(), os.getcwd(), flush=True)\nsys.exit(5)\n"


class Job:
    """One folder with its start.sh."""

    def __init__(self, folder: Path, setup: str, *, python: str = sys.executable, login: bool = True) -> None:
        self.folder = folder
        (folder / "launcher.py").write_text(LAUNCHER)
        submission = Submission(
            tag="first-abcdefgh-j-000000000001",
            run_dir=str(folder),
            script=f"{folder}/start.sh",
            resources=Resources(),
        )
        text = start_script(submission, setup=setup, launcher=str(folder / "launcher.py"), python=python, login=login)
        (folder / "start.sh").write_text(text)

    def begin(self) -> subprocess.Popen[str]:
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder)}
        return subprocess.Popen(
            ["/bin/bash", "--login", "start.sh"],
            cwd=self.folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self) -> int:
        process = self.begin()
        out, _ = process.communicate(timeout=30)
        assert out == "", "everything goes into job.out"
        return process.returncode

    def failed(self) -> list[str]:
        path = self.folder / FAILED
        return path.read_text().splitlines() if path.exists() else []

    def printed(self) -> str:
        return (self.folder / OUTPUT).read_text()


def test_the_launcher_takes_the_shells_place(tmp_path: Path) -> None:
    job = Job(tmp_path, "")
    process = job.begin()
    process.communicate(timeout=30)
    assert process.returncode == 5
    assert job.printed() == f"launched ['job.json'] {process.pid} {tmp_path}\n"
    assert job.failed() == []


def test_what_setup_lines_export_reaches_the_launcher(tmp_path: Path) -> None:
    job = Job(tmp_path, "echo setting up\nmodule() { export LOADED=$1; }\nmodule conda\nif false; then echo no; fi")
    assert job.run() == 5
    assert job.printed().startswith("setting up\nlaunched")


@pytest.mark.parametrize(
    ("setup", "code", "line", "last"),
    [
        ("echo one\nfalse\necho two", 1, "false", "one"),
        ("module() { echo the module $1 is unknown; return 3; }\nmodule load conda", 3, "module load conda",
         "the module load is unknown"),
        ("source /nowhere/activate", 1, "source /nowhere/activate", "No such file or directory"),
        ("outer() { ls /nowhere; echo on; }\nouter", 2, "outer", "No such file or directory"),
        ("exit 0", 0, "exit 0", None),
        ("set -u\necho $NOWHERE", 1, "echo $NOWHERE", "unbound variable"),
        ("true | false", 1, "true | false", None),
        ("nosuchcommand --x", 127, "nosuchcommand --x", "command not found"),
        ("for one in 1 2; do\n  test $one = 1\ndone", 1, "  test $one = 1", None),
    ],
)  # fmt: skip
def test_a_failing_line_is_kept_with_what_was_printed_last(
    tmp_path: Path, setup: str, code: int, line: str, last: str | None
) -> None:
    job = Job(tmp_path, setup)
    assert job.run() == code
    first, *rest = job.failed()
    number = (tmp_path / "start.sh").read_text().splitlines().index(line) + 1
    assert first == f"exit code {code} at line {number} of start.sh: {line}"
    assert last is None or last in rest[-1]
    assert "launched" not in job.printed()


def test_a_line_that_bash_cannot_read_is_told_in_its_words(tmp_path: Path) -> None:
    job = Job(tmp_path, "echo fine\nif then")
    assert job.run() == 2
    assert "syntax error" in "\n".join(job.failed())


def test_a_python_that_is_not_there_is_told(tmp_path: Path) -> None:
    job = Job(tmp_path, "", python="/nowhere/python3")
    assert job.run() == 127
    assert job.failed()[0].startswith("exit code 127 at line ")
    assert job.failed()[0].endswith(
        "exec /nowhere/python3 -I -S " + str(tmp_path / "launcher.py") + " job.json || exit"
    )


def test_being_cancelled_during_setup_is_no_failure_of_the_setup(tmp_path: Path) -> None:
    job = Job(tmp_path, "sleep 600")
    process = job.begin()
    deadline = time.monotonic() + 20
    while "sleep" not in children(process.pid):  # bash cannot be told to end between a fork and its exec
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143
    assert job.failed() == []


def children(pid: int) -> list[str]:
    found: list[str] = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            found.append(Path(f"/proc/{child}/comm").read_text().strip())
        except OSError:
            continue
    return found


def test_files_are_private(tmp_path: Path) -> None:
    job = Job(tmp_path, "false")
    job.run()
    for name in (FAILED, OUTPUT):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_the_shell_is_a_login_one_only_if_wanted(tmp_path: Path) -> None:
    Job(tmp_path, "", login=False)
    assert (tmp_path / "start.sh").read_text().splitlines()[0] == "#!/bin/bash"
    Job(tmp_path, "", login=True)
    assert (tmp_path / "start.sh").read_text().splitlines()[0] == "#!/bin/bash -l"
