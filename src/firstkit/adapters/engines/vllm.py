# SPDX-License-Identifier: Apache-2.0
"""vLLM 0.32 and later: `vllm serve` on a Unix socket, on GPUs or a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from firstkit.adapters.engines.listing import models_info
from firstkit.adapters.engines.options import (
    Options,
    argument_mistakes,
    environment_mistakes,
    flag_name,
    flags,
    option_mistakes,
    program,
    read_options,
    serving,
    venv_mistakes,
    weights_mistakes,
)
from firstkit.adapters.engines.vocabulary import (
    CHAT,
    CLASSIFY,
    COMPLETIONS,
    COUNT_TOKENS,
    DETOKENIZE,
    EMBEDDINGS,
    MESSAGES,
    POOLING,
    RERANK,
    RESERVED,
    RESPONSES,
    SCORE,
    TOKENIZE,
    TRANSCRIPTIONS,
    TRANSLATIONS,
)
from firstkit.core.catalog import Deployment
from firstkit.core.reasons import Reason
from firstkit.ports.engine import CauseMark, EngineTraits, ExternalSpec, LaunchSpec, Mistake, ProgressMark

DRAIN_S = 20
SHM_BYTES = 1024**3
"""Its processes pass tensors through /dev/shm; a container's 64 MB end them without a word."""
DISK_BYTES = 512 * 1024**2
"""For compiled code."""
MEMORY_SHARE = 0.9
"""Its own default of `gpu-memory-utilization`."""
NO_MEDIA = "set-allowed-media-domains.invalid"
"""The one domain that an engine may fetch images from unless `args` says otherwise: none, or a client could have it ask
whatever the compute node reaches."""

_SOCKET = "firstkit has it listen on a Unix socket that only the gateway reaches"
_PROMPTS = "prompts and answers must not get into a log"
_OWNED = {
    **dict.fromkeys(
        (
            "host",
            "port",
            "uds",
            "api-key",
            "ssl-keyfile",
            "ssl-certfile",
            "ssl-ca-certs",
            "ssl-cert-reqs",
            "root-path",
            "headless",
            "grpc",
            "grpc-port",
            "data-parallel-multi-port-external-lb",
        ),
        _SOCKET,
    ),
    **dict.fromkeys(("enable-log-requests", "enable-log-outputs", "log-error-stack"), _PROMPTS),
    "model": "it is `engine.model`",
    "served-model-name": "it is the deployment's `model`",
    "hf-token": "every user of the node sees command lines; name a file that holds it in `env` as HF_TOKEN_PATH",
    "fingerprint-mode": "firstkit sets none: a fingerprint moves to another chunk when usage is asked for",
    "config": "its contents could not be checked; write them below `args`",
    "shutdown-timeout": "the launcher's own patience depends on it",
    "enable-request-id-headers": "firstkit sets it, so that a request can be found in the log",
    "enable-prompt-tokens-details": "firstkit sets it, to count cached tokens",
    "disable-uvicorn-access-log": "firstkit sets it; the gateway keeps the record of requests",
}
_OWNED_ENV = {
    "VLLM_API_KEY": _SOCKET,
    "VLLM_SERVER_DEV_MODE": "it opens routes that act on the server",
    "VLLM_DEBUG_LOG_API_SERVER_RESPONSE": _PROMPTS,
}
_SWITCHES = frozenset({"disable-log-stats", "aggregate-engine-logging"})
_GENERATING = frozenset({CHAT, COMPLETIONS, RESPONSES, MESSAGES, COUNT_TOKENS, TOKENIZE, DETOKENIZE})
_POOLING = frozenset({EMBEDDINGS, POOLING, SCORE, RERANK, TOKENIZE, DETOKENIZE})


class VllmOptions(Options):
    """Keys of `engine` for vLLM.

    A pooling model needs `args: {runner: pooling}`; one that classifies or transcribes needs its `paths` listed.
    """

    venv: str | None = None
    """A virtual environment with vLLM; without one `vllm` is looked up on the job's PATH."""


class Vllm:
    """The reference engine: it aborts, drains and checks names by itself."""

    traits = EngineTraits(
        kind="vllm",
        paths=_GENERATING | _POOLING | {CLASSIFY, TRANSCRIPTIONS, TRANSLATIONS},
        # `request_id` could be another's, `vllm_xargs` goes to whatever plugins there are
        reserved=RESERVED | {"ec_transfer_params", "request_id", "vllm_xargs"},
        option_names=frozenset(VllmOptions.model_fields),
    )

    def check(self, deployment: Deployment) -> list[Mistake]:
        args = deployment.engine.args
        found = option_mistakes(VllmOptions, deployment, self.traits.paths)
        if not found:
            found += venv_mistakes(read_options(VllmOptions, deployment).venv)
        found += weights_mistakes(deployment, "the folder with config.json and the weights")
        found += argument_mistakes(args, _OWNED)
        found += environment_mistakes(deployment.engine.env, _OWNED_ENV)
        return found + _size_mistakes(deployment)

    def launch(self, deployment: Deployment) -> LaunchSpec:
        engine = deployment.engine
        name = self.served_name(deployment)
        argv = [program(read_options(VllmOptions, deployment).venv, "vllm"), "serve", engine.model]
        argv += ["--uds", "{socket}", "--served-model-name", name, "--shutdown-timeout", str(DRAIN_S)]
        argv += ["--enable-request-id-headers", "--enable-prompt-tokens-details", "--disable-uvicorn-access-log"]
        argv += ["--fingerprint-mode", "none"]
        given = {flag_name(key) for key in engine.args}
        if "max-num-seqs" not in given:
            argv += ["--max-num-seqs", str(deployment.scaling.in_flight)]
        if "allowed-media-domains" not in given:
            argv += ["--allowed-media-domains", NO_MEDIA]
        argv += flags(engine.args, switches=_SWITCHES)
        env = {
            "VLLM_CACHE_ROOT": "{cache}/vllm",
            "VLLM_RPC_BASE_PATH": "{tmp}",
            "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
            "VLLM_NO_USAGE_STATS": "1",
        }
        return LaunchSpec(
            argv=tuple(argv),
            env=env | dict(engine.env),
            listen="unix",
            health_path="/health",
            serves_path="/v1/models",
            serves_name=name,
            start_timeout_s=engine.start_timeout_s,
            stop_grace_s=DRAIN_S + 10.0,
            progress=_PROGRESS,
            causes=_CAUSES,
            files=(f"{engine.model.rstrip('/')}/config.json",),
            # another format has files of other names; `dummy` has none
            weights=(engine.model,) if given.isdisjoint({"load-format"}) else (),
            gpu_memory=_memory_share(deployment),
            shm_bytes=SHM_BYTES if _ways(deployment) > 1 else 0,
            disk_bytes=DISK_BYTES,
        )

    def external(self, deployment: Deployment) -> ExternalSpec | None:
        return None

    def served_name(self, deployment: Deployment) -> str:
        return deployment.model

    def paths(self, deployment: Deployment) -> frozenset[str]:
        runner = next((value for key, value in deployment.engine.args.items() if flag_name(key) == "runner"), None)
        return serving(read_options(VllmOptions, deployment), _POOLING if runner == "pooling" else _GENERATING)

    def retryable(self, status: int, body_start: bytes) -> bool:
        """Take a drain (500, though /health says 200), a dead engine process, and a full queue or a load (503)."""
        if status == 503:
            return True
        return status == 500 and any(words in body_start for words in _GONE)

    def models_info(self, body: bytes, served_name: str) -> Mapping[str, Any]:
        return models_info(body, served_name)


_GONE = (b"cannot schedule new futures after shutdown", b"EngineCore encountered an issue", b"EngineDeadError")


def _numbers(deployment: Deployment) -> dict[str, tuple[str, int]]:
    """Collect the arguments that are whole numbers, by flag, with the key that each was written as."""
    numbers: dict[str, tuple[str, int]] = {}
    for key, value in deployment.engine.args.items():
        if isinstance(value, int) and not isinstance(value, bool):
            numbers[flag_name(key)] = (f"args.{key}", value)
    return numbers


def _ways(deployment: Deployment) -> int:
    """Say into how many processes that compute together it splits."""
    numbers = _numbers(deployment)
    return prod(numbers[name][1] for name in _PARALLEL if name in numbers)


def _memory_share(deployment: Deployment) -> float:
    """Say how much of a GPU's memory it refuses to start without."""
    given = next(
        (value for key, value in deployment.engine.args.items() if flag_name(key) == "gpu-memory-utilization"), None
    )
    return float(given) if isinstance(given, int | float) and 0 < given <= 1 else MEMORY_SHARE


def _size_mistakes(deployment: Deployment) -> list[Mistake]:
    """Say where an argument contradicts `resources` or `scaling`."""
    numbers = _numbers(deployment)
    found: list[Mistake] = []
    path, seqs = numbers.get("max-num-seqs", ("", 0))
    if path and seqs < deployment.scaling.in_flight:
        found.append(
            (path, f"must be at least scaling.in_flight ({deployment.scaling.in_flight}), or requests queue unseen")
        )
    resources = deployment.resources
    if resources is not None and resources.gpus > 0:
        parallel = [numbers[name] for name in _PARALLEL if name in numbers]
        needed = _ways(deployment)
        if needed > resources.gpus * resources.nodes:
            has = f"{resources.nodes} × {resources.gpus}" if resources.nodes > 1 else str(resources.gpus)
            found.append((parallel[0][0], f"needs {needed} GPUs in all, and resources give {has}"))
    return found


_PARALLEL = ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size")
_PROGRESS = (
    ProgressMark(match=r"Resolved architecture", start=0.05, end=0.05, text="reading the configuration"),
    ProgressMark(match=r"Initializing a V1 LLM engine", start=0.1, end=0.1, text="starting the engine"),
    ProgressMark(match=r"Starting to load model", start=0.15, end=0.15, text="loading weights"),
    ProgressMark(
        match=r"Loading safetensors checkpoint shards:\s+(?P<percent>\d+)%", start=0.15, end=0.6, text="loading weights"
    ),
    ProgressMark(match=r"Loading weights took", start=0.6, end=0.6, text="weights loaded"),
    ProgressMark(match=r"Dynamo bytecode transform|Compiling a graph", start=0.65, end=0.65, text="compiling"),
    ProgressMark(match=r"Warming up model", start=0.7, end=0.7, text="warming up"),
    ProgressMark(match=r"(?:GPU )?KV cache size:", start=0.75, end=0.75, text="cache allocated"),
    ProgressMark(
        match=r"Capturing (?:CUDA|HIP) graph.*?(?P<percent>\d+)%", start=0.75, end=0.9, text="capturing graphs"
    ),
    ProgressMark(match=r"Warming up done", start=0.9, end=0.9, text="warmed up"),
    ProgressMark(match=r"init engine .* took", start=0.92, end=0.92, text="engine ready"),
    ProgressMark(match=r"Starting vLLM server on", start=0.97, end=0.97, text="starting the server"),
    ProgressMark(match=r"Application startup complete", start=1.0, end=1.0, text="listening"),
)
_CAUSES = (
    CauseMark(match=r"[Oo]ut of memory|OutOfMemoryError|MemoryError|bad_alloc", reason=Reason.OUT_OF_MEMORY),
    CauseMark(match=r"is less than (?:desired|requested)", reason=Reason.OUT_OF_MEMORY),
    CauseMark(match=r"No available memory for the cache blocks", reason=Reason.OUT_OF_MEMORY),
    CauseMark(match=r"larger than the available KV cache memory", reason=Reason.OUT_OF_MEMORY),
    CauseMark(match=r"HFValidationError|Cannot find any model weights", reason=Reason.WEIGHTS_MISSING),
    CauseMark(match=r"safetensors_rust\.SafetensorError|SafetensorError", reason=Reason.WEIGHTS_MISSING),
    CauseMark(match=r"error: unrecognized arguments|error: argument ", reason=Reason.SETUP_FAILED),
    CauseMark(match=r"validation errors? for \w+Config|^  Value error, ", reason=Reason.SETUP_FAILED),
    CauseMark(match=r"ModuleNotFoundError|PackageNotFoundError", reason=Reason.SETUP_FAILED),
    CauseMark(match=r"No CUDA GPUs are available|Failed to infer device type", reason=Reason.NODE_UNFIT),
    CauseMark(
        match=r"NVIDIA driver on your system is too old|CUDA driver version is insufficient", reason=Reason.NODE_UNFIT
    ),
)

ADAPTER = Vllm()
