# SPDX-License-Identifier: Apache-2.0
"""Engine processes: started in a session of their own, tied to the launcher's life, found again wherever they hide.

The child is made with a plain fork and exec before the launcher has any thread or event loop, so Python code may run in
between without risk, and PR_SET_PDEATHSIG, which fires when the *thread* that forked ends, is tied to the main thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Set

from .environment import MARK

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_RESET = ("SIGHUP", "SIGINT", "SIGTERM", "SIGUSR1", "SIGCHLD", "SIGPIPE", "SIGXFSZ")


def _no_prctl(_option: int, _argument: int) -> None:
    return None


def _load_prctl() -> Callable[[int, int], None]:
    try:
        import ctypes  # noqa: PLC0415  some builds of Python lack it

        library = ctypes.CDLL(None)
        function = library.prctl
    except (ImportError, OSError, AttributeError):
        return _no_prctl

    def prctl(option: int, argument: int) -> None:
        function(option, ctypes.c_ulong(argument), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))

    return prctl


class Prctl:
    """The two process attributes that only a system call can set; without ctypes the guard and the sweeps must do."""

    def __init__(self) -> None:
        self._call = _load_prctl()

    def adopt_orphans(self) -> None:
        """Become the parent of every descendant whose own parent ends (PR_SET_CHILD_SUBREAPER)."""
        self._call(_PR_SET_CHILD_SUBREAPER, 1)

    def die_with_parent(self) -> None:
        """Have the kernel kill this process when its parent ends, even by SIGKILL (PR_SET_PDEATHSIG)."""
        self._call(_PR_SET_PDEATHSIG, signal.SIGKILL)


def start(argv: Sequence[str], *, env: Dict[str, str], cwd: str, output: int, prctl: Prctl) -> int:
    """Start a program in a new session with its output on `output`; return its pid once it is really running.

    Raises OSError if it cannot be executed. Only for a process without threads (see above).
    """
    parent = os.getpid()
    failed_read, failed_write = os.pipe()
    try:
        pid = os.fork()
        if pid == 0:
            _become(argv, env=env, cwd=cwd, output=output, prctl=prctl, parent=parent, failed=failed_write)
        os.close(failed_write)
        failed_write = -1
        failure = os.read(failed_read, 16)
    finally:
        os.close(failed_read)
        if failed_write >= 0:
            os.close(failed_write)
    if failure:
        os.waitpid(pid, 0)
        number = int(failure)
        raise OSError(number, os.strerror(number), argv[0])
    return pid


def _become(
    argv: Sequence[str], *, env: Dict[str, str], cwd: str, output: int, prctl: Prctl, parent: int, failed: int
) -> None:
    """Turn the forked child into the engine; never returns."""
    try:
        os.setsid()
        prctl.die_with_parent()
        if os.getppid() != parent:
            os._exit(127)
        for name in _RESET:
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.umask(0o077)
        # A core file would hold prompts.
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        os.chdir(cwd)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.execvpe(argv[0], list(argv), env)  # noqa: S606  no shell is the point
    except OSError as error:
        os.write(failed, str(error.errno or errno.EIO).encode())
    except BaseException:  # noqa: BLE001  whatever it is, the child must not go on as a second launcher
        os.write(failed, str(errno.EINVAL).encode())
    finally:
        os._exit(127)


class Process(NamedTuple):
    """One line of the process table."""

    pid: int
    parent: int
    session: int


def process_table() -> List[Process]:
    """List every living process that can be seen; zombies are left out, since only their parent can end those."""
    table: List[Process] = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if len(fields) > 3 and fields[0] not in (b"Z", b"X", b"x"):
            table.append(Process(int(name), int(fields[1]), int(fields[3])))
    return table


def _marked(pid: int, entries: Sequence[bytes]) -> bool:
    if not entries:
        return False
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            environment = file.read().split(b"\0")
    except OSError:
        return False
    return any(entry in environment for entry in entries)


def survivors(sessions: Iterable[int], marks: Iterable[str], *, below: Optional[int] = None) -> List[int]:
    """Find what is left of engines: members of their sessions, bearers of their mark, and all descendants of those.

    With `below`, all descendants of that process are taken too, whatever they did to their session and environment.
    """
    table = process_table()
    own, wanted = os.getpid(), set(sessions)
    entries = [f"{MARK}={mark}".encode() for mark in marks]
    found: Set[int] = {
        process.pid
        for process in table
        if process.pid != own
        and (process.session in wanted or process.parent == below or _marked(process.pid, entries))
    }
    grown = True
    while grown:
        more = {process.pid for process in table if process.parent in found and process.pid != own} - found
        grown = bool(more)
        found |= more
    return sorted(found)


def kill_all(pids: Iterable[int]) -> None:
    """Send SIGKILL to each; those already gone do not matter."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def kill_group(pid: int) -> None:
    """Send SIGKILL to the process group that an engine leads."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def age_s() -> float:
    """Tell how long this process exists; after `exec python3 …` in the job's script that is the age of the script."""
    try:
        with open("/proc/self/stat", "rb") as file:
            started = int(file.read().rpartition(b")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        with open("/proc/uptime", "rb") as file:
            up = float(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    return min(max(up - started, 0.0), 86400.0)
