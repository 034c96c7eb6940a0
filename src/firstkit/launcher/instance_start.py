# SPDX-License-Identifier: Apache-2.0
"""One engine is started: folders, a look at weights and node, the container if there is one, the process."""

from __future__ import annotations

import contextlib
import os
from typing import Callable, Dict, List, NamedTuple, Optional, Set

from . import containers
from .documents import EngineSpec, InstanceSpec
from .environment import engine_environment, expand
from .folders import Places, free_port, make_places, unreadable, write_private
from .guard import Guard
from .handover import Started
from .preflight import look
from .processes import Prctl, start

INSIDE_PYTHON = "python3"
"""What `{python}` stands for in a container, where the launcher's own is not."""


class Job(NamedTuple):
    """What all instances of the job share while they are started."""

    run_dir: str
    node: str
    environment: Dict[str, str]
    ports: Set[int]
    guard: Guard
    prctl: Prctl
    hurried: Callable[[], bool]


class _Failed(Exception):
    """The engine is not started, for a reason of the enum."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def start_instance(spec: InstanceSpec, job: Job) -> Started:
    """Make an instance's folders and start its engine; whatever goes wrong is that instance's end, not the job's."""
    mark = os.urandom(8).hex()
    places: Optional[Places] = None
    port = None
    read = write = -1
    try:
        places = make_places(job.run_dir, spec.instance, job.environment.get("TMPDIR"), new_short=job.guard.folder)
        port = free_port(job.ports) if spec.engine.listen == "loopback" else None
        unseen = _look(spec.engine, places, port, job)
        if spec.engine.key is not None:
            write_private(places.key_file, spec.engine.key)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(places.socket)
        call = _call(spec, mark, places, port, job)
        read, write = os.pipe()
        pid = start(call.argv, env=call.env, cwd=places.work, output=write, prctl=job.prctl)
    except _Failed as failed:
        return Started(spec, mark, places, port, None, -1, failed.reason, str(failed))
    except OSError as error:
        if read >= 0:
            os.close(read)
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
        return Started(spec, mark, places, port, None, -1, "SETUP_FAILED", what)
    finally:
        if write >= 0:
            os.close(write)
    job.guard.engine(pid, mark)
    return Started(spec, mark, places, port, pid, read, unseen=unseen)


def _look(engine: EngineSpec, places: Places, port: Optional[int], job: Job) -> Optional[str]:
    """Look at what the engine will need; raise `_Failed` if it cannot run, say what could not be seen."""
    missing = unreadable([expand(file, places, port) for file in engine.files])
    if missing is not None:
        raise _Failed("WEIGHTS_MISSING", missing)
    found = look(engine, {**job.environment, **engine.env}, places, prctl=job.prctl, hurried=job.hurried)
    if found.fault is not None:
        reason, detail = found.fault
        raise _Failed(reason, f"{job.node}: {detail}" if reason == "NODE_UNFIT" else detail)
    return found.unseen


def _call(spec: InstanceSpec, mark: str, places: Places, port: Optional[int], job: Job) -> containers.Call:
    """Build what is executed: the engine itself, or a container runtime with the engine in it."""
    engine = spec.engine
    env = engine_environment(job.environment, instance=spec.instance, mark=mark, spec=engine, places=places, port=port)
    container = engine.container
    if container is None:
        return containers.Call([expand(text, places, port) for text in engine.argv], env, {})
    image = unreadable([container.image] if container.image.startswith("/") else [])
    if image is not None:
        raise _Failed("SETUP_FAILED", f"the image {image}")
    own: List[str] = [places.folder, *([] if places.short is None else [places.short])]
    weights = [*engine.weights, *(expand(file, places, port) for file in engine.files)]
    binds = containers.binds_of(container, own=own, weights=weights)
    absent = unreadable([bind.source for bind in binds])
    if absent is not None:
        raise _Failed("SETUP_FAILED", f"what the container is to see is not there: {absent}")
    containers.mountpoints(container, binds)
    inside = containers.Inside(
        name=f"first-{spec.instance}-{mark}",
        argv=[expand(text, places, port, python=INSIDE_PYTHON) for text in engine.argv],
        env=env,
        binds=binds,
        work=places.work,
        home=places.home,
        folder=places.folder,
    )
    call = containers.contained(container, inside, job.environment, containers.look_at_host())
    for path, text in call.files.items():
        write_private(path, text)
        os.chmod(path, 0o700)
    if not any(os.access(os.path.join(at, call.argv[0]), os.X_OK) for at in os.get_exec_path(call.env)):
        raise _Failed(
            "SETUP_FAILED", f"{call.argv[0]} is not on this node's PATH; load it in the cluster's setup lines"
        )
    return call
