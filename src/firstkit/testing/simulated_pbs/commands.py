# SPDX-License-Identifier: Apache-2.0
"""The commands of the simulated PBS: what users and programs hold, over a server that may be away or hang.

A program of its own, standard library only: commands.py COMMAND FOLDER ARGUMENTS.
"""

from __future__ import annotations

import getopt
import json
import os
import pwd
import socket
import sys
import time

TYPE_CHECKING = False  # importing typing would double the start of each command
if TYPE_CHECKING:
    from typing import Any

    Answer = dict[str, Any]

SERVER = "pbs1"
VERSION = "23.06.06"
NO_CONNECTION = 15010
MOMENTS = ("ctime", "mtime", "qtime", "stime", "etime")


class Unanswered(Exception):
    """The server cannot be reached."""


def ask(folder: str, request: Answer) -> Answer:
    """Ask the server; a hung one is waited for without end, as the real commands do."""
    request = {"user": pwd.getpwuid(os.getuid()).pw_name, "host": SERVER, **request}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(f"{folder}/server.sock")
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as received:
                answer = received.readline()
        except OSError as error:
            raise Unanswered from error
    if not answer:
        raise Unanswered
    return json.loads(answer)


def say(text: str) -> None:
    """Print to standard error."""
    sys.stderr.write(text + "\n")


def not_connected(command: str, code: int) -> int:
    """Say that the server cannot be reached, as each command does."""
    say("Connection refused")
    say(f"{command}: cannot connect to server {SERVER} (errno={NO_CONNECTION})")
    return code


def misuse(command: str, what: str) -> int:
    """Complain of the command line."""
    say(f"{command}: {what}")
    say(f"usage: {command} [options] ...")
    return 2


def qsub(folder: str, arguments: list[str]) -> int:
    """Submit a job: an executable after `--`, else a script."""
    try:
        options, rest = getopt.getopt(arguments, "a:A:c:C:e:fhIj:J:k:l:m:M:N:o:p:P:q:r:R:S:u:v:VW:Xz")
    except getopt.GetoptError as error:
        return misuse("qsub", f"illegal option: {error.msg}")
    direct = len(rest) < len(arguments) and arguments[len(arguments) - len(rest) - 1] == "--"
    given = dict(options)
    name = given.get("-N", "STDIN" if not rest else os.path.basename(rest[0])[:15])
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or not name[0].isalpha():
        return misuse("qsub", "illegal -N value")
    if len(name) > 236:
        return misuse("qsub", "Job name is too long")
    script = ""
    if not direct and rest:
        try:
            with open(rest[0]) as file:
                script = file.read()
        except OSError:
            say("qsub: script file:: No such file or directory")
            return 1
    elif not direct:
        script = sys.stdin.read()
    request: Answer = {
        "verb": "submit",
        "name": name,
        "queue": given.get("-q", ""),
        "account": given.get("-A", ""),
        "project": given.get("-P", ""),
        "hold": "-h" in given,
        "rerunable": given.get("-r", "y") == "y",
        "output": given.get("-o", "").rpartition(":")[2],
        "executable": rest if direct else None,
        "script": script,
        "arguments": arguments,
        "resources": {},
        "variables": submit_variables(everything="-V" in given),
        "umask": 0o077,
        "depend": "",
    }
    for option, value in options:
        if option == "-l":
            parts = [value] if value.startswith(("select=", "place=")) else value.split(",")
            request["resources"].update(part.split("=", 1) for part in parts if "=" in part)
        elif option == "-v":
            request["variables"].update(part.split("=", 1) for part in value.split(",") if "=" in part)
        elif option == "-W" and value.startswith("umask="):
            request["umask"] = int(value[6:], 8)
        elif option == "-W" and value.startswith("depend="):
            request["depend"] = value[7:]
    try:
        answer = ask(folder, request)
    except Unanswered:
        return not_connected("qsub", NO_CONNECTION % 256)
    if "error" in answer:
        say(f"qsub: {answer['text']}")
        return answer["error"] % 256
    print(answer["id"])
    return 0


def submit_variables(*, everything: bool) -> dict[str, str]:
    """Take along what qsub takes along: a few variables under other names, or (`-V`) all."""
    taken = dict(os.environ) if everything else {}
    for name in ("HOME", "LANG", "LOGNAME", "PATH", "SHELL", "MAIL"):
        if name in os.environ:
            taken[f"PBS_O_{name}"] = os.environ[name]
    return {**taken, "PBS_O_SYSTEM": "Linux", "PBS_O_WORKDIR": os.getcwd(), "PBS_O_HOST": SERVER}


def qstat(folder: str, arguments: list[str]) -> int:
    """List jobs in full, as JSON; nothing else is simulated."""
    try:
        options, ids = getopt.getopt(arguments, "fxF:tJ")
    except getopt.GetoptError as error:
        return misuse("qstat", f"illegal option: {error.msg}")
    given = dict(options)
    if "-f" not in given or given.get("-F", "").lower() != "json":
        return misuse("qstat", "this simulation knows `-f -F json` alone")
    document: Answer = {"timestamp": int(time.time()), "pbs_version": VERSION, "pbs_server": SERVER}
    code = 0
    try:
        answer = ask(folder, {"verb": "status", "ids": ids, "history": "-x" in given})
    except Unanswered:
        code = not_connected("qstat", 255)
    else:
        jobs = answer["jobs"]
        if answer.get("prints_one") and len(ids) > 1:
            jobs = dict(list(jobs.items())[:1])
        if jobs:
            document["Jobs"] = {name: dated(job) for name, job in jobs.items()}
        for number, text in answer["errors"]:
            say(f"qstat: {text}")
            code = 0 if number == 15140 else number % 256
    print(json.dumps(document, indent="\t", separators=(",", ":\t")))
    return code


def dated(job: Answer) -> Answer:
    """Write moments as ctime does, in the zone of this process."""
    for name in MOMENTS:
        if name in job:
            job[name] = time.ctime(job[name])
    if "estimated" in job:
        job["estimated"]["start_time"] = time.ctime(job["estimated"]["start_time"])
    return job


def for_each(command: str, folder: str, ids: list[str], request: Answer) -> int:
    """Ask for one job after the other; the exit code is the last refusal's."""
    code = 0
    for name in ids:
        try:
            answer = ask(folder, {**request, "id": name})
        except Unanswered:
            return not_connected(command, NO_CONNECTION % 256)
        if "error" in answer:
            say(f"{command}: {answer['text']}")
            code = answer["error"] % 256
    return code


def qdel(folder: str, arguments: list[str]) -> int:
    """End jobs."""
    options, ids = getopt.getopt(arguments, "W:x")
    return for_each("qdel", folder, ids, {"verb": "delete", "force": ("-W", "force") in options})


def qsig(folder: str, arguments: list[str]) -> int:
    """Signal all processes of jobs."""
    options, ids = getopt.getopt(arguments, "s:")
    name = dict(options).get("-s", "SIGTERM")
    full = name if name.startswith("SIG") else f"SIG{name}"
    return for_each("qsig", folder, ids, {"verb": "signal", "signal": full})


def qalter(folder: str, arguments: list[str]) -> int:
    """Change the walltime or the name of jobs."""
    options, ids = getopt.getopt(arguments, "l:N:")
    asked = dict(part.split("=", 1) for option, value in options if option == "-l" for part in value.split(","))
    request = {"verb": "alter", "name": dict(options).get("-N", ""), "walltime": asked.get("walltime", "")}
    return for_each("qalter", folder, ids, request)


def qselect(folder: str, arguments: list[str]) -> int:
    """List ids by user and name."""
    options, _ = getopt.getopt(arguments, "u:N:x")
    given = dict(options)
    request = {"verb": "select", "name": given.get("-N", ""), "history": "-x" in given}
    try:
        answer = ask(folder, {**request, "user": given.get("-u", "")})
    except Unanswered:
        return not_connected("qselect", NO_CONNECTION % 256)
    for name in answer["ids"]:
        print(name)
    return 0


def pbsnodes(folder: str, arguments: list[str]) -> int:
    """Show nodes as JSON (`-F json -a`, or names)."""
    options, names = getopt.getopt(arguments, "aF:")
    del options
    try:
        nodes = ask(folder, {"verb": "nodes"})["nodes"]
    except Unanswered:
        return not_connected("pbsnodes", 1)
    shown = {name: nodes.get(name, {"Error": "Unknown node "}) for name in names or nodes}
    document = {"timestamp": int(time.time()), "pbs_version": VERSION, "pbs_server": SERVER, "nodes": shown}
    print(json.dumps(document, indent="\t", separators=(",", ":\t")))
    return 0


def pbs_rstat(folder: str, arguments: list[str]) -> int:
    """Show reservations in full (`-f`)."""
    del arguments
    try:
        answer = ask(folder, {"verb": "reservations"})
    except Unanswered:
        return not_connected("pbs_rstat", NO_CONNECTION % 256)
    for name, one in answer["reservations"].items():
        lines = {
            "Reserve_Name": one["name"],
            "Reserve_Owner": f"root@{SERVER}",
            "reserve_state": one.get("state", "RESV_CONFIRMED"),
            "reserve_start": time.ctime(one["start"]),
            "reserve_end": time.ctime(one["end"]),
            "reserve_duration": int(one["end"] - one["start"]),
            "queue": one["queue"],
            "Resource_List.select": one["select"],
            "resv_nodes": one["nodes"],
            "Authorized_Users": f"root@{SERVER}",
        }
        print("\n".join([f"Resv ID: {name}", *(f"{key} = {value}" for key, value in lines.items()), ""]))
    return 0


COMMANDS = {
    "qsub": qsub,
    "qstat": qstat,
    "qdel": qdel,
    "qsig": qsig,
    "qalter": qalter,
    "qselect": qselect,
    "pbsnodes": pbsnodes,
    "pbs_rstat": pbs_rstat,
}

if __name__ == "__main__":
    sys.exit(COMMANDS[sys.argv[1]](sys.argv[2], sys.argv[3:]))
