# SPDX-License-Identifier: Apache-2.0
"""An engine's whole environment: what may pass of the job's, job-local folders, offline defaults, the adapter's own."""

from __future__ import annotations

import sys
from typing import Dict, Mapping, Optional

from .documents import PLACEHOLDER, EngineSpec
from .folders import Places

PASSED = frozenset({"PATH", "LANG", "LD_LIBRARY_PATH", "USER", "LOGNAME", "TZ", "GPU_DEVICE_ORDINAL"})
PASSED_PREFIXES = ("LC_", "CUDA_", "ROCR_", "HIP_", "ZE_", "NVIDIA_", "SLURM_", "PBS_", "OMP_")
HOSTS = frozenset({"PATH", "LD_LIBRARY_PATH"})
"""What only means something outside of a container."""
WITHHELD = frozenset({"SLURM_JWT"})
"""A credential for the scheduler has no business in an engine."""
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
MARK = "FIRST_MARK"
"""A random value in the environment of everything that one engine starts, so that stray children can be told."""


def expand(text: str, places: Places, port: Optional[int], *, python: str = sys.executable) -> str:
    """Replace the placeholders of job.json; other braces stay as they are."""
    values = {
        "socket": places.socket,
        "port": str(port),
        "dir": places.folder,
        "cache": places.cache,
        "tmp": places.tmp,
        "key_file": places.key_file,
        "python": python,
    }
    return PLACEHOLDER.sub(lambda found: values[found.group(1)], text)


def engine_environment(
    job_environment: Mapping[str, str],
    *,
    instance: str,
    mark: str,
    spec: EngineSpec,
    places: Places,
    port: Optional[int],
) -> Dict[str, str]:
    """Build the environment that an engine gets, and nothing beside it; in a container, programs are the image's."""
    hosts = HOSTS if spec.container is not None else frozenset[str]()
    passed = {
        name: value
        for name, value in job_environment.items()
        if (name in PASSED or name.startswith(PASSED_PREFIXES)) and name not in WITHHELD | hosts
    }
    local = {"HOME": places.home, "TMPDIR": places.tmp, "XDG_CACHE_HOME": places.cache}
    # The key itself only here: others on the node can read a command line, but not an environment.
    own = {name: expand(value, places, port).replace("{key}", spec.key or "{key}") for name, value in spec.env.items()}
    return {
        **({} if spec.container is not None else {"PATH": "/usr/local/bin:/usr/bin:/bin"}),
        **passed,
        **local,
        **QUIET,
        **own,
        "FIRST_INSTANCE": instance,
        MARK: mark,
    }
