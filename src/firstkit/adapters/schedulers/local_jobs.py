# SPDX-License-Identifier: Apache-2.0
"""A batch system for one machine: `submit`, `list` and `cancel` jobs as process groups in sessions of their own.

A program of its own (standard library only, put into the run directory by the runner) so that everything about jobs is
exercised without a cluster. Each job has a supervisor process that enforces the walltime, records how the job ended
and leaves nothing of it behind. State is one JSON file a job; a process is known by pid, start time and boot, so a
reused pid is never mistaken for a job. Killing the supervisor does not end the job: `list` then judges by the job's
own process.

    local_jobs.py submit DIR NAME WALLTIME_S SCRIPT   prints the job's number (WALLTIME_S 0: none)
    local_jobs.py list DIR                            prints one JSON object a line, the last {"end": true}
    local_jobs.py cancel DIR NUMBER ...
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import time

TYPE_CHECKING = False  # importing typing would double the start of each command
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

    Job = dict[str, Any]

KILL_WAIT_S = 30.0
REMEMBER_S = 600.0
WAKING = (signal.SIGCHLD, signal.SIGTERM)


def boot_id() -> str:
    """Name this boot of the machine."""
    with open("/proc/sys/kernel/random/boot_id") as handle:
        return handle.read().strip()


def start_time(pid: int) -> int | None:
    """Return a process's start in clock ticks since boot; None when it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as handle:
            fields = handle.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def session_members(session: int) -> list[int]:
    """List the live processes of a session."""
    members: list[int] = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as handle:
                    fields = handle.read().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == session and fields[0] not in "ZX":
                members.append(int(entry))
    return members


def write(path: str, document: Job | int) -> None:
    """Replace a state file whole."""
    temporary = f"{path}.{os.getpid()}.new"
    with open(temporary, "w") as handle:
        json.dump(document, handle)
    os.replace(temporary, path)


def read(path: str) -> Any:
    """Read a state file; None when it is absent or torn."""
    try:
        with open(path) as handle:
            return json.load(handle)
    except (FileNotFoundError, ValueError):
        return None


def state_dir(folder: str) -> str:
    """Make and name the folder of the state files."""
    path = os.path.join(folder, ".jobs")
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


@contextlib.contextmanager
def locked(folder: str) -> Generator[None]:
    """Hold the lock under which numbers are given out."""
    with open(os.path.join(state_dir(folder), "lock"), "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def submit(folder: str, name: str, walltime_s: str, script: str) -> int:
    """Record a job and start its supervisor; the number is printed once both are done."""
    with locked(folder):
        numbers = [int(entry[:-5]) for entry in os.listdir(state_dir(folder)) if entry[:-5].isdigit()]
        last = read(os.path.join(state_dir(folder), "last")) or 0
        number = max([last, *numbers]) + 1
        write(os.path.join(state_dir(folder), "last"), number)
        path = os.path.join(state_dir(folder), f"{number}.json")
        job = {"id": str(number), "name": name, "boot": boot_id(), "walltime_s": float(walltime_s), "script": script}
        write(path, job)
    ready, started = os.pipe()
    if os.fork() == 0:
        os.close(ready)
        os.setsid()
        if os.fork() == 0:
            supervise(path, job, started)
        os._exit(0)
    os.close(started)
    answer = os.read(ready, 4096).decode()
    if answer != "ok":
        print(answer or "the job's supervisor did not start", file=sys.stderr)
        return 1
    print(number)
    return 0


def supervise(path: str, job: Job, started: int) -> None:
    """Run one job to its end; never returns."""
    os.closerange(0, 3)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.chdir(os.path.dirname(job["script"]))
    signal.pthread_sigmask(signal.SIG_BLOCK, WAKING)  # taken one by one in wait(), so that none is lost
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = os.fork()
        if child == 0:
            run_script(job, started)
        session = child
        job.update(
            {
                "pid": child,
                "pid_start": start_time(child),
                "session": session,
                "supervisor": os.getpid(),
                "supervisor_start": start_time(os.getpid()),
                "started_at": time.clock_gettime(time.CLOCK_BOOTTIME),
            }
        )
        write(path, job)
        os.write(started, b"ok")
    except OSError as error:
        os.write(started, f"the job could not be started: {error}".encode()[:4000])
        os._exit(1)
    os.close(started)
    code, why = wait(job, child)
    end_session(session)
    job.update({"ended_at": time.clock_gettime(time.CLOCK_BOOTTIME), "code": code, "why": why})
    while True:
        try:
            write(path, job)
            break
        except OSError:  # a full disk: how the job ended must not be lost
            time.sleep(1.0)
    os._exit(0)


def run_script(job: Job, started: int) -> None:
    """Become the job: a session of its own, a clean signal table, output into a file beside the script."""
    try:
        os.setsid()
        os.close(started)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WAKING)
        output = os.open(job["script"] + ".out", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        environment = dict(os.environ, FIRST_SCHEDULER_ID=job["id"])
        os.execve("/bin/bash", ["bash", "--login", job["script"]], environment)
    except BaseException:  # noqa: BLE001 — nothing may return from the child
        os._exit(127)


def wait(job: Job, child: int) -> tuple[int, str | None]:
    """Wait for the job; TERM at the walltime or when cancelled, KILL to all of it KILL_WAIT_S later."""
    deadline = job["started_at"] + job["walltime_s"] if job["walltime_s"] else None
    kill_at: float | None = None
    why: str | None = None
    wanted = False
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), why
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        if why is None and (wanted or (deadline is not None and now >= deadline)):
            why = "CANCELLED" if wanted else "TIMEOUT"
            kill_at, deadline = now + KILL_WAIT_S, None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGTERM)
        if kill_at is not None and now >= kill_at:
            end_session(job["session"])
        until = [moment - now for moment in (kill_at, deadline) if moment is not None]
        received = signal.sigtimedwait(WAKING, max(0.05, min([*until, 3600.0])))
        if received is not None and received.si_signo == signal.SIGTERM:
            wanted = True


def end_session(session: int) -> None:
    """Kill whatever the job left in its session."""
    for _ in range(20):
        members = session_members(session)
        if not members:
            return
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def alive(job: Job, who: str) -> bool:
    """Tell whether the process that `who` names is still the one that was started."""
    return job.get(who) is not None and job["boot"] == boot_id() and start_time(job[who]) == job[f"{who}_start"]


def describe(job: Job) -> Job:
    """Say what a listing says of one job."""
    line = {"id": job["id"], "name": job["name"]}
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    if "ended_at" in job:
        return {**line, "state": "ENDED", "code": job["code"], "why": job["why"]}
    if alive(job, "pid"):
        left = job["started_at"] + job["walltime_s"] - now if job["walltime_s"] else None
        return {**line, "state": "RUNNING", "left_s": None if left is None else round(left, 1)}
    if alive(job, "supervisor"):
        return {**line, "state": "ENDING"}
    if "pid" not in job and job["boot"] == boot_id():
        return {**line, "state": "STARTING"}
    return {**line, "state": "ENDED", "code": None, "why": "LOST"}


def list_jobs(folder: str) -> int:
    """Print all jobs, oldest first; forget those that ended long ago."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    for entry in sorted(os.listdir(state_dir(folder)), key=lambda name: (len(name), name)):
        path = os.path.join(state_dir(folder), entry)
        job = read(path) if entry.endswith(".json") else None
        if job is None:
            continue
        if "ended_at" in job and (job["boot"] != boot_id() or now - job["ended_at"] > REMEMBER_S):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            continue
        print(json.dumps(describe(job)))
    print(json.dumps({"end": True}))
    return 0


def cancel(folder: str, numbers: list[str]) -> int:
    """Ask jobs to end: TERM now, KILL by the supervisor KILL_WAIT_S later (without one, at the second call)."""
    for number in numbers:
        path = os.path.join(state_dir(folder), f"{int(number)}.json")
        job = read(path)
        if job is None or "ended_at" in job:
            continue
        if alive(job, "supervisor"):
            os.kill(job["supervisor"], signal.SIGTERM)
        elif alive(job, "pid"):
            if job.get("cancelled"):
                end_session(job["session"])
            else:
                os.killpg(job["pid"], signal.SIGTERM)
                job["cancelled"] = True
                write(path, job)
    return 0


def main(arguments: list[str]) -> int:
    """Do what the first argument says."""
    os.umask(0o077)
    verb, rest = arguments[0], arguments[1:]
    if verb == "submit":
        return submit(*rest)
    if verb == "list":
        return list_jobs(rest[0])
    if verb == "cancel":
        return cancel(rest[0], rest[1:])
    print(f"unknown verb {verb}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
