# SPDX-License-Identifier: Apache-2.0
"""Install what the benchmarks need: Debian packages, and gateways from PyPI, each in an environment from its lock.

python -m benchmarks.environments [--lock] [NAME...]      --lock resolves the lock files anew first (needs uv)
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.contenders import ENVIRONMENTS, LOCKS

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
PROGRAMS = {"nginx": "nginx-light", "wrk": "wrk", "gcc": "gcc", "openssl": "openssl"}
STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

NAMES = ("vllm-router", "smg", "litellm")
UNWANTED = ("torch", "nvidia-", "triton")  # gigabytes that no gateway needs: a lock with one of them is refused


def lock(name: str) -> None:
    """Resolve a lock file anew."""
    options = ["--quiet", "--universal", "--python-version", "3.11", "--generate-hashes", "--upgrade"]
    options += ["--no-emit-index-url", "--no-emit-find-links", "--no-annotate", "--no-header"]
    uv = [str(SCRIPTS / "uv-env.sh"), sys.executable, str(Path(sys.executable).parent / "uv")]
    argv = [*uv, "pip", "compile", *options, str(LOCKS / f"{name}.in"), "-o", str(LOCKS / f"{name}.txt")]
    subprocess.run(argv, check=True, env={**os.environ, "UV_FIND_LINKS": ""})


def install(name: str) -> None:
    """Make the environment of one contender, unless it is there."""
    path, locked = ENVIRONMENTS / name, LOCKS / f"{name}.txt"
    unwanted = [line.split()[0] for line in locked.read_text().splitlines() if line.startswith(UNWANTED)]
    if unwanted:
        raise SystemExit(f"benchmarks: {locked.name} names {', '.join(unwanted)}, which no gateway needs")
    stamp = path / "installed"
    if stamp.exists() and stamp.read_bytes() == locked.read_bytes():
        return
    print(f"benchmarks: installing {name}", flush=True)
    venv.create(path, with_pip=True, clear=True, symlinks=True)
    pip = [str(path / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", str(locked)], check=True)
    stamp.write_bytes(locked.read_bytes())


def debian() -> None:
    """Install the Debian packages that the benchmarks use, where that may be done."""
    wanted = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    wanted += [] if STREAM_MODULE.exists() else ["libnginx-mod-stream"]
    if not wanted:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise SystemExit(f"benchmarks: install these first (as root, on Debian): {' '.join(wanted)}")
    print(f"benchmarks: installing Debian's {' '.join(wanted)}", flush=True)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, stdout=subprocess.DEVNULL)
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *wanted]
    subprocess.run(install, check=True, env=env, stdout=subprocess.DEVNULL)


def main() -> None:
    """Install what is named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--lock", action="store_true", help="resolve the lock files anew first")
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"no contender named {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    debian()
    for name in options.names or NAMES:
        if options.lock:
            lock(name)
        install(name)


if __name__ == "__main__":
    main()
