# SPDX-License-Identifier: Apache-2.0
"""The launcher's first moments: claim the job, read it, and have engines running before anything else is imported."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import List, Sequence

from .claim import AlreadyClaimed, claim, identify
from .documents import JobSpec, read_job
from .fields import JobRefused
from .folders import remove_leftovers
from .guard import post_guard
from .handover import Handover, Started
from .instance_start import Job, start_instance
from .processes import Prctl, age_s
from .records import EXIT, LauncherLog, encode, exit_report, write_whole
from .signals import Signals

USAGE = "usage: launcher job.json"


def main(argv: Sequence[str]) -> int:
    """Run one job; the exit code is 0 if it was asked to end, 2 for misuse, 1 otherwise."""
    began = time.monotonic() - age_s()
    if len(argv) != 1 or argv[0].startswith("-"):
        print(USAGE, file=sys.stderr)
        return 2
    os.umask(0o077)
    path = os.path.abspath(argv[0])
    run_dir = os.path.dirname(path)
    identity = identify(os.environ)
    signals = Signals()
    signals.trap()
    try:
        claim(run_dir, identity)
    except AlreadyClaimed:
        return _complain("DUPLICATE: this job has been started before; its run directory is claimed.")
    except OSError as error:
        return _complain(f"SETUP_FAILED: {run_dir} cannot be claimed: {error.strerror}.")
    try:
        spec = read_job(path)
    except JobRefused as refusal:
        report = exit_report(reason="SETUP_FAILED", detail=str(refusal), code=None, signal=None, log_tail=[])
        write_whole(os.path.join(run_dir, EXIT), encode(report))
        return _complain(f"SETUP_FAILED: {refusal}")
    guard = post_guard()
    prctl = Prctl()
    prctl.adopt_orphans()
    job = Job(run_dir, identity.node, dict(os.environ), set(), guard, prctl, hurried=lambda: signals.arrived)
    started = [start_instance(instance, job) for instance in spec.instances]
    secrets = _secrets(spec, run_dir)
    log = LauncherLog(run_dir, secrets=secrets, began=began)
    _note_unseen(started, log)
    log.note(f"engines started {time.monotonic() - began:.3f} s after the job; Python {sys.version.split()[0]}")
    _raise_descriptor_limit()

    from .supervise import supervise  # noqa: PLC0415  asyncio takes as long to load as an engine to be started

    code = supervise(
        Handover(
            spec=spec,
            run_dir=run_dir,
            identity=identity,
            version=_version(),
            began=began,
            started=started,
            guard=guard,
            log=log,
            secrets=secrets,
            signals=signals,
        )
    )
    for one in started:
        if one.places is not None:
            remove_leftovers(one.places)
    guard.dismiss()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(guard.pid, 0)
    return code


def _note_unseen(started: Sequence[Started], log: LauncherLog) -> None:
    """Note what could not be looked at before an engine was started."""
    for one in started:
        if one.unseen is not None:
            log.note(f"{one.spec.instance}: started unseen: {one.unseen}")


def _complain(text: str) -> int:
    print(f"first: {text}", file=sys.stderr)
    return 1


def _secrets(spec: JobSpec, run_dir: str) -> List[str]:
    """Collect what must never be seen in a log or report: the engines' keys and the control token."""
    secrets = [instance.engine.key for instance in spec.instances if instance.engine.key]
    if spec.control is not None:
        with (
            contextlib.suppress(OSError, ValueError),
            open(os.path.join(run_dir, spec.control.token_file), encoding="ascii") as file,
        ):
            secrets.append(file.read(4096).strip())
    return [secret for secret in secrets if len(secret) >= 4]


def _raise_descriptor_limit() -> None:
    """Allow ourselves as many descriptors as the site does; engines have been given their own limit unchanged."""
    import resource  # noqa: PLC0415

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (65536 if hard == resource.RLIM_INFINITY else min(hard, 65536), hard)
        )


def _version() -> str:
    """Name this launcher by its archive, `launcher-<sha>.pyz`, or say that it runs from source."""
    name = os.path.basename(sys.argv[0])
    return name[len("launcher-") : -len(".pyz")] if name.startswith("launcher-") and name.endswith(".pyz") else "source"
