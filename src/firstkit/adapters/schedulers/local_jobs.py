# SPDX-License-Identifier: Apache-2.0
"""A batch system for one machine: `submit`, `list` and `cancel` jobs as process groups in sessions of their own.

A program of its own (standard library only, put into the run directory by the runner) so that everything about jobs is
exercised without a cluster. Each job has a supervisor process that enforces the walltime, records how the job ended
and leaves nothing of it behind. State is one JSON file a job; a process is known by pid, start time and boot, so a
reused pid is never mistaken for a job. Killing the supervisor does not end the job: `list` then judges by the job's
own process.

    local_jobs.py submit DIR NAME WALLTIME_S SCRIPT [KILL_WAIT_S]   prints the job's number (WALLTIME_S 0: none)
    local_jobs.py list DIR                                          prints a JSON object a line, last {"end": true}
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
    try:
        with open(temporary, "w") as handle:
            json.dump(document, handle)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


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


def submit(folder: str, name: str, walltime_s: str, script: str, kill_wait_s: str = str(KILL_WAIT_S)) -> int:
    """Record a job and start its supervisor; the number is printed once both are done."""
    job: Job = {
        "name": name,
        "boot": boot_id(),
        "walltime_s": float(walltime_s),
        "kill_wait_s": float(kill_wait_s),
        "script": script,
        "submitter": os.getpid(),
        "submitter_start": start_time(os.getpid()),
    }
    with locked(folder):
        numbers = [int(entry[:-5]) for entry in os.listdir(state_dir(folder)) if entry[:-5].isdigit()]
        last = read(os.path.join(state_dir(folder), "last")) or 0
        number = max([last, *numbers]) + 1
        write(os.path.join(state_dir(folder), "last"), number)
        path = os.path.join(state_dir(folder), f"{number}.json")
        job["id"] = str(number)
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
        with contextlib.suppress(OSError):
            os.unlink(path)
        print(answer or "the job's supervisor did not start", file=sys.stderr)
        return 1
    print(number)
    return 0


def supervise(path: str, job: Job, started: int) -> None:
    """Run one job to its end; never returns. The script begins only when everything about it is written down."""
    child = 0
    try:
        os.closerange(0, started)
        os.closerange(started + 1, 1024)
        null = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
            os.set_inheritable(number, True)
        os.chdir(os.path.dirname(job["script"]))
        signal.pthread_sigmask(signal.SIG_BLOCK, WAKING)  # taken one by one in wait(), so that none is lost
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        held, go = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(go)
            run_script(job, started, held)
        os.close(held)
        job.update(
            {
                "pid": child,
                "pid_start": start_time(child),
                "session": child,
                "supervisor": os.getpid(),
                "supervisor_start": start_time(os.getpid()),
                "started_at": time.clock_gettime(time.CLOCK_BOOTTIME),
            }
        )
        write(path, job)
        os.write(go, b"!")
        os.close(go)
        with contextlib.suppress(OSError):  # the submitter may have died; the job runs all the same
            os.write(started, b"ok")
    except BaseException as error:  # noqa: BLE001 — nothing may return from here
        with contextlib.suppress(OSError):
            os.write(started, f"the job could not be started: {error}".encode()[:4000])
        if child > 0:
            os.kill(child, signal.SIGKILL)
        os._exit(1)
    os.close(started)
    code, why = wait(job, child)
    end_session(job["session"])
    job.update({"ended_at": time.clock_gettime(time.CLOCK_BOOTTIME), "code": code, "why": why})
    while True:
        try:
            write(path, job)
            break
        except OSError:  # a full disk: how the job ended must not be lost
            time.sleep(1.0)
    os._exit(0)


def run_script(job: Job, started: int, held: int) -> None:
    """Become the job once told to: a session of its own, a clean signal table, output into a file by the script."""
    try:
        os.setsid()
        os.close(started)
        if os.read(held, 1) != b"!":
            os._exit(127)
        os.close(held)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WAKING)
        output = os.open(job["script"] + ".out", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        environment = dict(os.environ, FIRST_SCHEDULER_ID=job["id"])
        os.execve("/bin/bash", ["bash", *login(job["script"]), job["script"]], environment)
    except BaseException:  # noqa: BLE001 — nothing may return from the child
        os._exit(127)


def login(script: str) -> list[str]:
    """Say whether a script wants a login shell, as its first line does: profiles take their time."""
    with open(script, "rb") as handle:
        return ["--login"] if handle.readline().split()[-1:] == [b"-l"] else []


def wait(job: Job, child: int) -> tuple[int, str | None]:
    """Wait for the job; TERM at the walltime or when cancelled, KILL to all of it `kill_wait_s` later."""
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
            kill_at, deadline = now + job["kill_wait_s"], None
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
    if "pid" not in job and alive(job, "submitter"):
        return {**line, "state": "STARTING"}
    return {**line, "state": "ENDED", "code": None, "why": "LOST"}


def list_jobs(folder: str) -> int:
    """Print all jobs, oldest first; forget those that ended long ago."""
    for entry in sorted(os.listdir(state_dir(folder)), key=lambda name: (len(name), name)):
        path = os.path.join(state_dir(folder), entry)
        job = read(path) if entry.endswith(".json") else None
        if job is None:
            continue
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        if "ended_at" in job and (job["boot"] != boot_id() or now - job["ended_at"] > REMEMBER_S):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            continue
        line = describe(job)
        if line.get("why") == "LOST" and "ended_at" not in job:
            job = read(path) or job  # its supervisor may have written the end and gone since it was read
            line = describe(job)
        print(json.dumps(line))
        if line.get("why") == "LOST" and "ended_at" not in job:
            note_loss(path, job, now)
        elif line["state"] == "RUNNING" and not alive(job, "supervisor"):
            enforce_walltime(path, job, now)
    print(json.dumps({"end": True}))
    return 0


def note_loss(path: str, job: Job, now: float) -> None:
    """Write down that a job ended unseen (its supervisor was killed, the machine restarted), so that it is forgotten.

    It belongs to this boot from now on, or it would be forgotten before anybody had a second look at it; its process
    ids, which may be another's by now, go.
    """
    kept = {key: value for key, value in job.items() if not key.startswith(("pid", "supervisor", "session"))}
    with contextlib.suppress(OSError):
        write(path, {**kept, "boot": boot_id(), "ended_at": now, "code": None, "why": "LOST"})


def enforce_walltime(path: str, job: Job, now: float) -> None:
    """Do what the supervisor would, were it alive: each listing looks at the time left."""
    if job["walltime_s"] and now >= job["started_at"] + job["walltime_s"]:
        end_orphaned(path, job, now)


def end_orphaned(path: str, job: Job, now: float) -> None:
    """End a job that has no supervisor: TERM at the first call, KILL to all of it at one `kill_wait_s` later."""
    if "term_at" not in job:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job["pid"], signal.SIGTERM)
        with contextlib.suppress(OSError):
            write(path, {**job, "term_at": now})
    elif now - job["term_at"] >= job["kill_wait_s"]:
        end_session(job["session"])


def cancel(folder: str, numbers: list[str]) -> int:
    """Ask jobs to end: TERM now, KILL by the supervisor later (without one, by a later call). Unknown ones are none."""
    for number in numbers:
        path = os.path.join(state_dir(folder), f"{int(number)}.json")
        job = read(path)
        if job is None or "ended_at" in job:
            continue
        if alive(job, "supervisor"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(job["supervisor"], signal.SIGTERM)
        elif alive(job, "pid"):
            end_orphaned(path, job, time.clock_gettime(time.CLOCK_BOOTTIME))
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
