# SPDX-License-Identifier: Apache-2.0
"""Measure gateways beside one another in interleaved rounds; JSON and a Markdown table go to benchmarks/results/.

python -m benchmarks.run [--quick] [--rounds N] [--only NAMES] [--phases NAMES] [--soak N] [--name NAME]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import certificates
from benchmarks.accounting import pace
from benchmarks.contenders import Contender, Running, Site
from benchmarks.contenders.firstkit import Firstkit
from benchmarks.contenders.nginx import Nginx, start_tls_front, tls_front_missing
from benchmarks.contenders.packaged import LiteLlm, Smg, VllmRouter
from benchmarks.phases import FULL, PHASES, QUICK, Phase, Plan
from benchmarks.processes import NotReadyError
from benchmarks.report import DIRECT, markdown, summary
from benchmarks.soak import soak
from benchmarks.target import Target
from benchmarks.upstream import MODEL, Upstream

CONTENDERS: tuple[Contender, ...] = (Firstkit(), Nginx(), VllmRouter(), Smg(), LiteLlm())
RESULTS = Path(__file__).resolve().parent / "results"
QUICK_ROUNDS, FULL_ROUNDS = 1, 5
SOAK_REQUESTS = 200_000


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder with a short path (Unix sockets have 107 bytes), removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="fb-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start_all(stack: ExitStack, contenders: Sequence[Contender], site: Site) -> dict[str, Running]:
    """Start every contender that can be; say why where one cannot."""
    started: dict[str, Running] = {}

    def start(contender: Contender) -> None:
        if why := contender.missing():
            say(f"{contender.name} is left out: {why}")
            return
        try:
            running = contender.start(site)
        except NotReadyError as error:
            say(f"{contender.name} is left out: {error}")
            return
        stack.callback(running.stop)
        started[contender.name] = running
        say(f"{contender.name} {running.version}: {', '.join(running.targets)}")

    with ThreadPoolExecutor() as pool:
        list(pool.map(start, contenders))
    return {c.name: started[c.name] for c in contenders if c.name in started}


def measure(phase: Phase, target: Target, upstream: Upstream, plan: Plan) -> dict[str, Any]:
    """Run one phase on one target. A phase that fails is a figure too: the others go on."""
    upstream.reset(delay_us=plan.delay_us)
    slowness = pace()
    try:
        result: dict[str, Any] = dict(phase.measure(target, upstream, plan))
    except (OSError, TimeoutError, ValueError, EOFError) as error:
        result = {"failed": f"{type(error).__name__}: {error}"}
    result["pace_ms"] = round((slowness + pace()) / 2, 2)
    return result


def one_round(
    phases: Sequence[Phase],
    started: Mapping[str, Running],
    upstream: Upstream,
    plan: Plan,
    *,
    order: random.Random,
    skips: Mapping[str, frozenset[str]],
) -> dict[str, dict[str, Any]]:
    """Measure every contender in every phase, in random order within a phase."""
    measured: dict[str, dict[str, Any]] = {}
    for phase in phases:
        targets = {
            name: running.targets[phase.kind] for name, running in started.items() if phase.kind in running.targets
        }
        targets = {name: target for name, target in targets.items() if phase.name not in skips[name]}
        if phase.baseline:
            targets[DIRECT] = upstream.target()
        names = list(targets)
        order.shuffle(names)
        measured[phase.name] = {}
        for name in names:
            began = time.monotonic()
            result = measured[phase.name][name] = measure(phase, targets[name], upstream, plan)
            shown = {
                k: v
                for k, v in result.items()
                if k.startswith("cpu_us")
                or k in {"failed", "errors", "exact", "idle_share", "growth_mb", "all_closed_ms"}
            }
            say(f"  {phase.name:18} {name:12} {time.monotonic() - began:5.1f} s  {json.dumps(shown)}")
    return measured


def machine() -> dict[str, Any]:
    """Describe the machine, without its name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "an unknown")
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "processor": processor,
        "cores": os.cpu_count(),
        "kernel": os.uname().release,
        "python": sys.version.split()[0],
        "load": os.getloadavg(),
    }


def about(started: Mapping[str, Running]) -> dict[str, Any]:
    """Describe machine and contenders."""
    contenders = {name: {"version": r.version, "notes": r.notes, "ready_s": r.ready_s} for name, r in started.items()}
    return machine() | {"cpu": "schedstat nanoseconds of the process tree", "contenders": contenders}


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names, phases = [c.name for c in CONTENDERS], [p.name for p in PHASES]
    parser.add_argument("--quick", action="store_true", help="one short round, under two minutes: does it all work")
    parser.add_argument("--rounds", type=int, help=f"how many rounds ({FULL_ROUNDS}, or {QUICK_ROUNDS} with --quick)")
    parser.add_argument("--only", default=",".join(names), help=f"contenders, of {', '.join(names)}")
    parser.add_argument("--phases", default="", help=f"phases, of {', '.join(phases)}")
    parser.add_argument(
        "--soak", type=int, help=f"requests of the memory run ({SOAK_REQUESTS}; the full claim is 1000000; 0: none)"
    )
    parser.add_argument("--name", help="name of the result files")
    parser.add_argument("--seed", type=int, default=1, help="of the order of contenders")
    chosen = parser.parse_args()
    for given, known in ((chosen.only, names), (chosen.phases, phases)):
        unknown = [name for name in given.split(",") if name and name not in known]
        if unknown:
            parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    return chosen


def main() -> None:
    """Run it all."""
    chosen = options()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a thousand streams; the contenders inherit it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    plan = QUICK if chosen.quick else FULL
    rounds = chosen.rounds or (QUICK_ROUNDS if chosen.quick else FULL_ROUNDS)
    wanted = [c for c in CONTENDERS if c.name in chosen.only.split(",")]
    named = [name for name in chosen.phases.split(",") if name]
    phases = [p for p in PHASES if (p.name in named if named else not (chosen.quick and p.slow))]
    with scratch() as folder, ExitStack() as stack:
        upstream = Upstream.start(folder)
        stack.callback(upstream.process.stop)
        certificate, private_key = certificates.make(folder)
        tls_ports: tuple[int, ...] = ()
        why = tls_front_missing()
        if why:
            say(f"no phases with TLS: {why}")
        else:
            front, tls_ports = start_tls_front(
                folder / "tls", ports=upstream.ports, certificate=certificate, private_key=private_key
            )
            stack.callback(front.stop)
        site = Site(
            folder=folder,
            ports=upstream.ports,
            sockets=upstream.sockets,
            tls_ports=tls_ports,
            certificate=certificate,
            private_key=private_key,
            model=MODEL,
        )
        started = start_all(stack, wanted, site)
        skips = {c.name: c.skips for c in wanted}
        order = random.Random(chosen.seed)
        measured: list[dict[str, dict[str, Any]]] = []
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            due = [p for p in phases if number == 0 or not p.once]
            measured.append(one_round(due, started, upstream, plan, order=order, skips=skips))
        requests = (0 if chosen.quick or named else SOAK_REQUESTS) if chosen.soak is None else chosen.soak
        upstream.reset()
        soaked = {
            name: soak(r.targets["tcp"], requests=requests)
            for name, r in started.items()
            if requests and name == "firstkit"
        }
        described = about(started)
    name = chosen.name or ("quick" if chosen.quick else "latest")
    write(
        name,
        {"about": described, "rounds": measured, "soak": soaked, "summary": summary(measured, list(started), soaked)},
    )


def write(name: str, result: Mapping[str, Any]) -> None:
    """Write JSON and Markdown, and print the latter."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    table = markdown(result)
    (RESULTS / f"{name}.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
