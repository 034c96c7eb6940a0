# SPDX-License-Identifier: Apache-2.0
"""How long firstkit's life cycle takes with an engine that starts at once.

python -m benchmarks.lifecycle [--rounds N] [--name NAME]

Each round: `first up` on a new state folder until it says that it is ready; a streamed request for the cold model until
its first token, counted from the request and from the start of the job's first process (/proc, 10 ms grain); the end of
everything on SIGTERM; `first up` again on the same folder. The engine is the imitation of mock.c by `engine: command`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import accounting, prompts
from benchmarks.contenders.firstkit import PROGRAM
from benchmarks.figures import Spread
from benchmarks.processes import Process, free_port
from benchmarks.run import RESULTS, machine, scratch
from benchmarks.streams import Reader
from benchmarks.target import Target, run
from benchmarks.upstream import MODEL, build

READY_DEADLINE_S = 60
TOKEN_DEADLINE_S = 60
ROUNDS = 5
FIGURES = {
    "first_ready_s": ("`first up` → ready, new state folder", 3.0),
    "again_ready_s": ("`first up` → ready, again", 3.0),
    "job_to_byte_s": ("job's first process → first routable byte", 1.0),
    "request_to_byte_s": ("request for a cold model → first byte", None),
    "stop_s": ("SIGTERM → everything gone", None),
}


def configuration(*, port: int, run_dir: Path) -> str:
    """Write a configuration with one model that starts on demand. JSON is YAML."""
    cluster = {
        "scheduler": {"kind": "local"},
        "runner": {"kind": "local"},
        "link": {"kind": "local"},
        "run_dir": str(run_dir),
    }
    deployment = {
        "model": MODEL,
        "cluster": "here",
        "engine": {"kind": "command", "argv": [str(build()), "-m", "{name}", "{socket}"], "health": "/health"},
        "resources": {"walltime": "1h"},
        "scaling": {"min": 0, "max": 1, "in_flight": 8},
    }
    file = {
        "gateway": {"listen": f"127.0.0.1:{port}"},
        "clusters": {"here": cluster},
        "models": {MODEL: {}},
        "deployments": {"mock": deployment},
    }
    return json.dumps(file, indent=1)


def boot_s() -> float:
    """Give the time since boot, the clock of process start times."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def job_started_s(run_dir: Path) -> float:
    """Give when the first living process with the run directory in its command line began, since boot.

    Raises:
        LookupError: no such process lives.

    """
    starts: list[float] = []
    for pid in jobs(run_dir):
        try:
            starts.append(int(accounting.stat_fields(pid)[19]) / accounting.TICKS_PER_S)
        except OSError:
            continue
    if not starts:
        raise LookupError("no process of a job was found")
    return min(starts)


def jobs(run_dir: Path) -> list[int]:
    """Find the living processes with the run directory in their command line."""
    pids = [int(entry.name) for entry in accounting.PROC.iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if any(str(run_dir) in argument for argument in accounting.argv(pid))]


async def first_token(target: Target) -> float:
    """Ask for a stream and give when its first token's bytes arrived, since boot.

    Raises:
        LookupError: none came.

    """
    reader = await target.connect(Reader)
    reader.begin(target.request(prompts.chat(model=target.model, stream=True, max_tokens=1)))
    deadline = time.monotonic() + TOKEN_DEADLINE_S
    text, seen = b"", 0
    while time.monotonic() < deadline and not (reader.done.done() and seen == len(reader.reads)):
        for at_ns, data in reader.reads[seen:]:
            seen += 1
            text += data
            if b"chat.completion.chunk" in text:
                if reader.transport is not None:
                    reader.transport.close()
                return boot_s() - (time.monotonic_ns() - at_ns) / 1e9
        await asyncio.sleep(0.005)
    raise LookupError(f"no token came: {text[-300:]!r}")


def up(folder: Path, file: Path, data: Path) -> tuple[Process, float]:
    """Start `first up`, wait for its ready line and give the seconds that took."""
    number = len(list(folder.glob("first-up-*.log")))
    argv = [str(PROGRAM), "up", "--config", str(file), "--data", str(data)]
    process = Process.start(f"first-up-{number}", argv, folder=folder)
    took = process.wait_until(lambda: "first: ready" in process.log.read_text(), "ready", deadline_s=READY_DEADLINE_S)
    return process, took


def one_round(folder: Path) -> dict[str, float]:
    """Run one round in a new folder."""
    folder.mkdir()
    port, run_dir, file, data = free_port(), folder / "jobs", folder / "first.yaml", folder / "data"
    file.write_text(configuration(port=port, run_dir=run_dir))
    process, first_ready_s = up(folder, file, data)
    try:
        key = (data / "api-key").read_text().strip()
        target = Target(roots=(process.pid,), port=port, key=key, model=MODEL)
        asked_s = boot_s()
        token_s = run(first_token(target))
        job_s = job_started_s(run_dir)
        began = time.monotonic()
    finally:
        process.stop(grace_s=30)
    while jobs(run_dir) and time.monotonic() - began < TOKEN_DEADLINE_S:
        time.sleep(0.01)
    stop_s = time.monotonic() - began
    process, again_ready_s = up(folder, file, data)
    process.stop(grace_s=30)
    return {
        "first_ready_s": first_ready_s,
        "again_ready_s": again_ready_s,
        "job_to_byte_s": token_s - job_s,
        "request_to_byte_s": token_s - asked_s,
        "stop_s": stop_s,
    }


def markdown(result: Mapping[str, Any]) -> str:
    """Write the table."""
    about = result["about"]
    lines = [
        f"{len(result['rounds'])} rounds on {about['processor']}, {about['cores']} cores, {about['at'][:10]}.",
        "Wall time; the engine answers as soon as it is started.",
        "",
        "| | median (least–greatest), s | claim |",
        "|---|---|---|",
    ]
    for name, (label, limit) in FIGURES.items():
        spread = Spread.over(measured[name] for measured in result["rounds"])
        if spread is not None:
            claim = "" if limit is None else f"≤ {limit:g}: {'yes' if spread.median <= limit else '**no**'}"
            lines.append(f"| {label} | {spread.median:.2f} ({spread.least:.2f}–{spread.greatest:.2f}) | {claim} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--name", default="lifecycle", help="name of the result files")
    chosen = parser.parse_args()
    with scratch() as folder:
        rounds = [one_round(folder / str(number)) for number in range(chosen.rounds)]
    rounded = [{name: round(value, 3) for name, value in measured.items()} for measured in rounds]
    result = {"about": machine(), "rounds": rounded}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{chosen.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    table = markdown(result)
    (RESULTS / f"{chosen.name}.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
