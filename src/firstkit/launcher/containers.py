# SPDX-License-Identifier: Apache-2.0
"""Command lines that run an engine in a container: pure builders, one for each runtime.

All of them keep to the same terms: the engine sees its own folders, its weights (read-only) and what the deployment
binds, under the same paths as outside; of the job's environment what every engine gets, but PATH and libraries are the
image's; the host's network, since the socket and the door are the way in; its working folder is ours; no image's entry
point runs; a signal and an exit code pass through; nothing is fetched from a registry. Secrets are in no command line:
others on the node can read that.

Charliecloud 0.31 was run. The others are built after the manuals of Apptainer 1.3, Podman 4 and 5, podman-hpc 1.1,
enroot 3.5 and pyxis 0.20.
"""

from __future__ import annotations

import os
import shlex
from typing import Callable, Dict, List, Mapping, NamedTuple, Sequence, Tuple

from .documents import CauseMark, ContainerSpec

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where an image's programs are unless it says otherwise."""
SHM = "/dev/shm"  # noqa: S108  the host's, since a runtime's own is often 64 MB
TMP = "/tmp/"  # noqa: S108  the container's own
_FABRIC = ("infiniband", "cxi", "hfi1", "knem", "xpmem", "nvidia-caps-imex-channels", "gdrdrv")
"""How names of interconnects' devices begin."""
_RUNTIMES_OWN = frozenset({"HOME", "TMPDIR", "PATH", "USER", "LOGNAME"})
_RUNTIMES_OWN_PREFIXES = ("LD_", "XDG_", "APPTAINER", "SINGULARITY", "CONTAINER", "PODMAN", "ENROOT_", "CH_")


class Bind(NamedTuple):
    """A file or folder of the host that the engine sees."""

    source: str
    target: str
    writable: bool

    def text(self, *, writable: str = "", readonly: str = ":ro") -> str:
        return f"{self.source}:{self.target}{writable if self.writable else readonly}"


class Host(NamedTuple):
    """What the node has for containers: kinds of GPUs, and the devices of its interconnect."""

    nvidia: bool
    amd: bool
    intel: bool
    fabric: Tuple[str, ...]


class Inside(NamedTuple):
    """An engine as it is to run within a container."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    binds: Sequence[Bind]
    work: str
    home: str
    folder: str


class Call(NamedTuple):
    """What is executed on the host; `files` are to be written before, executable and for nobody else."""

    argv: List[str]
    env: Dict[str, str]
    files: Mapping[str, str]


def look_at_host() -> Host:
    """Look which devices there are."""
    try:
        names = sorted(os.listdir("/dev"))
    except OSError:
        names = []
    fabric = tuple(f"/dev/{name}" for name in names if name.startswith(_FABRIC))
    nvidia, amd = "nvidiactl" in names, "kfd" in names
    return Host(nvidia, amd, "dri" in names and not nvidia and not amd, fabric)


def contained(spec: ContainerSpec, inside: Inside, outside: Mapping[str, str], host: Host) -> Call:
    """Build the call for a runtime; `outside` is the environment of the job, in which the runtime itself runs."""
    return _BUILDERS[spec.runtime](spec, inside, dict(outside), host)


def _apptainer(spec: ContainerSpec, inside: Inside, outside: Dict[str, str], host: Host) -> Call:
    argv = ["apptainer", "--quiet", "exec", "--cleanenv", "--no-eval", "--no-mount", "cwd"]
    argv += ["--home", inside.home, "--pwd", inside.work]
    argv += [word for bind in inside.binds for word in ("--bind", bind.text())]
    if spec.gpus:
        argv += ["--nv"] if host.nvidia else ["--rocm"] if host.amd else []
    env = {name: value for name, value in inside.env.items() if name not in {"HOME", "USER", "LOGNAME"}}
    return Call(
        [*argv, spec.image, *inside.argv], {**outside, **{f"APPTAINERENV_{name}": env[name] for name in env}}, {}
    )


def _podman(spec: ContainerSpec, inside: Inside, outside: Dict[str, str], host: Host) -> Call:
    """Run as root of the container, which without privileges is the job's own user, whatever user the image names."""
    hpc = spec.runtime == "podman-hpc"
    argv = [spec.runtime, "run", "--rm", "--name", inside.name, "--pull", "never", "--user", "0:0"]
    argv += ["--network", "host", "--pid", "host", "--log-driver", "none", "--http-proxy=false"]
    argv += ["--security-opt", "label=disable", "--ulimit", "host", "--workdir", inside.work]
    argv += ["--volume", f"{SHM}:{SHM}"]
    argv += [word for bind in inside.binds for word in ("--volume", bind.text(writable=":rw"))]
    devices = list(host.fabric)
    if spec.gpus:
        argv += ["--gpu"] if hpc else []
        devices += ["nvidia.com/gpu=all"] if host.nvidia and not hpc else []
        devices += ["/dev/kfd", "/dev/dri"] if host.amd else ["/dev/dri"] if host.intel else []
    argv += [word for device in devices for word in ("--device", device)]
    argv += _named(inside.env)
    argv += ["--entrypoint", inside.argv[0]]
    argv += ["--rootfs", spec.image] if spec.image.startswith("/") else [spec.image]
    return Call([*argv, *inside.argv[1:]], _beside(inside.env, outside), {})


def _enroot(spec: ContainerSpec, inside: Inside, outside: Dict[str, str], host: Host) -> Call:
    """Run by a command script of ours instead of the image's, which would prepend the image's entry point."""
    script = os.path.join(inside.folder, "enroot.rc")
    argv = ["enroot", "start", "--rw", "--rc", script]
    argv += [word for bind in inside.binds for word in ("--mount", bind.text(readonly=":none:bind,ro,x-create=auto"))]
    env = {**inside.env, **_nvidia(spec, host)}
    argv += [*_named(env), spec.image, *inside.argv]
    written = f'#!/bin/sh\ncd {shlex.quote(inside.work)} && exec "$@"\n'
    return Call(argv, {**_beside(env, outside), "ENROOT_MOUNT_HOME": "n"}, {script: written})


def _pyxis(spec: ContainerSpec, inside: Inside, outside: Dict[str, str], host: Host) -> Call:
    """Run as a step of the Slurm job, whose environment is the engine's own."""
    env = {**inside.env, **_nvidia(spec, host)}
    argv = ["srun", "--nodes=1", "--ntasks=1", "--overlap", "--export=ALL", "--cpu-bind=none", "--mem=0"]
    argv += ["--unbuffered", "--kill-on-bad-exit=1", f"--container-image={spec.image}", "--no-container-mount-home"]
    argv += [f"--container-workdir={inside.work}", f"--container-env={','.join(sorted(env))}"]
    argv += [f"--container-mounts={','.join(bind.text() for bind in inside.binds)}"]
    own = {name: outside[name] for name in ("PATH", "LD_LIBRARY_PATH", "SLURM_CONF") if name in outside}
    return Call([*argv, *inside.argv], {**own, **env}, {})


def _charliecloud(spec: ContainerSpec, inside: Inside, outside: Dict[str, str], host: Host) -> Call:
    """Run in the image, which is a folder or a SquashFS file and stays unwritten; binds need their folders in it."""
    del host  # the host's /dev is there, and its GPU libraries are put into the image beforehand (ch-fromhost)
    argv = ["ch-run", "--private-tmp", "--unset-env=LD_*", f"--set-env=PATH={inside.env.get('PATH', PATH)}"]
    if os.path.exists(os.path.join(spec.image, "ch", "environment")):
        argv.append("--set-env")
    argv += [f"--set-env={name}={inside.env[name]}" for name in ("HOME", "TMPDIR") if name in inside.env]
    argv += [f"--cd={inside.work}"]
    argv += [f"--bind={bind.source}:{bind.target}" for bind in inside.binds]
    own = {name: outside[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in outside}
    return Call([*argv, spec.image, "--", *inside.argv], {"USER": str(os.getuid()), **inside.env, **own}, {})


_BUILDERS: Dict[str, Callable[[ContainerSpec, Inside, Dict[str, str], Host], Call]] = {
    "apptainer": _apptainer,
    "podman": _podman,
    "podman-hpc": _podman,
    "enroot": _enroot,
    "pyxis": _pyxis,
    "charliecloud": _charliecloud,
}


def _is_runtimes(name: str) -> bool:
    """Tell whether a variable also means something to the runtime's own process."""
    return name in _RUNTIMES_OWN or name.startswith(_RUNTIMES_OWN_PREFIXES)


def _named(env: Mapping[str, str]) -> List[str]:
    """Pass variables by name, so that no value is in the command line, but for those the runtime itself goes by."""
    return [
        word for name, value in env.items() for word in ("--env", f"{name}={value}" if _is_runtimes(name) else name)
    ]


def _beside(env: Mapping[str, str], outside: Mapping[str, str]) -> Dict[str, str]:
    """Give the runtime's own environment, with what it takes from there by name."""
    return {**outside, **{name: value for name, value in env.items() if not _is_runtimes(name)}}


def _nvidia(spec: ContainerSpec, host: Host) -> Dict[str, str]:
    """Have enroot's hook bring in the driver; which GPUs of those are used CUDA_VISIBLE_DEVICES says, as outside."""
    if not spec.gpus or not host.nvidia:
        return {}
    return {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}


# ------------------------------------------------------------------------------------------------ what is around a call


CAUSES = tuple(
    CauseMark(match, "SETUP_FAILED")
    for match in (
        r"^ch-run\[\d+\]: error: ",
        r"^FATAL: +",
        r"^Error: .*(?:image not known|no such (?:image|file)|OCI|statfs|unable to|cannot)",
        r"^\[ERROR\] ",
        r"pyxis: .*(?:failed|couldn't)|^slurmstepd: error: pyxis",
    )
)
"""The runtimes' own complaints, in the engine's log when it never came to the engine."""


def binds_of(spec: ContainerSpec, *, own: Sequence[str], weights: Sequence[str]) -> List[Bind]:
    """List what an engine sees: its own folders, its weights with what links among them lead to, what was asked for."""
    binds = [Bind(path, path, writable=True) for path in own]
    for path in weights:
        binds += [Bind(folder, folder, writable=False) for folder in _folders_of(path)]
    binds += [parse_bind(text) for text in spec.binds]
    targets: Dict[str, Bind] = {}
    for bind in binds:
        targets.setdefault(bind.target, bind)
    seen = [bind for bind in targets.values() if not _covered(bind, targets)]
    return sorted(seen, key=lambda bind: bind.target)  # a folder before what is below it, or it would hide that


def _folders_of(path: str) -> List[str]:
    """Name the folder of weights, and those that links in it lead to: caches of model hubs are made of links."""
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    found = [folder]
    try:
        names = os.listdir(folder) if folder == path else [os.path.basename(path)]
    except OSError:
        return found
    for name in names:
        at = os.path.join(folder, name)
        for _ in range(8):
            if not os.path.islink(at):
                break
            at = os.path.normpath(os.path.join(os.path.dirname(at), os.readlink(at)))
            found.append(os.path.dirname(at))
    return list(dict.fromkeys(found))


def _covered(bind: Bind, others: Mapping[str, Bind]) -> bool:
    """Tell whether a bind of a folder above shows the same thing in the same way."""
    parent = os.path.dirname(bind.target)
    while parent not in ("/", ""):
        above = others.get(parent)
        if above is not None:
            rest = os.path.relpath(bind.target, parent)
            return above.writable == bind.writable and os.path.join(above.source, rest) == bind.source
        parent = os.path.dirname(parent)
    return False


def parse_bind(text: str) -> Bind:
    """Read `SOURCE[:TARGET][:ro|:rw]`; without `:rw` the engine cannot write there."""
    parts = text.split(":")
    mode = parts.pop() if len(parts) > 1 and parts[-1] in ("ro", "rw") else "ro"
    return Bind(parts[0], parts[-1], mode == "rw")


def mountpoints(spec: ContainerSpec, binds: Sequence[Bind]) -> None:
    """Make the folders that binds need in an image that is a folder; raise OSError with the one that cannot be made.

    Charliecloud binds only over what is there, but in its own /tmp.
    """
    if spec.runtime != "charliecloud" or not os.path.isdir(spec.image):
        return
    for bind in binds:
        path = os.path.join(spec.image, bind.target.lstrip("/"))
        inside = os.path.realpath(path).startswith(os.path.realpath(spec.image) + "/")  # links may lead out of it
        if os.path.exists(path) or not inside or bind.target.startswith(TMP):
            continue
        if os.path.isdir(bind.source):
            os.makedirs(path, mode=0o755, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))
