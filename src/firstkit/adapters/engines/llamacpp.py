# SPDX-License-Identifier: Apache-2.0
"""llama.cpp, by the xllamacpp package: GGUF weights on a CPU or a GPU, served by a small program of ours."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from firstkit.adapters.engines.listing import models_info
from firstkit.adapters.engines.options import (
    Options,
    argument_mistakes,
    flag_name,
    meant,
    option_mistakes,
    program,
    read_options,
    serving,
    venv_mistakes,
    weights_mistakes,
)
from firstkit.adapters.engines.vocabulary import (
    CHAT,
    COMPLETIONS,
    COUNT_TOKENS,
    DETOKENIZE,
    EMBEDDINGS,
    MESSAGES,
    RESERVED,
    RESPONSES,
    TOKENIZE,
)
from firstkit.core.catalog import Deployment
from firstkit.core.reasons import Reason
from firstkit.ports.engine import CauseMark, EngineTraits, ExternalSpec, LaunchSpec, Mistake, ProgressMark

PROGRAM = "serve_llamacpp.py"
CONTEXT = 4096
EMBEDDING_CONTEXT = 512
DRAIN_S = 20.0

# What llama-server calls an argument, what xllamacpp calls it, and its values: a type, or names and members.
_KV_TYPES = {
    name: f"GGML_TYPE_{name.upper()}" for name in ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
}
_ARGUMENTS: Mapping[str, tuple[str, type[int | float | bool | str] | Mapping[str, str]]] = {
    "batch-size": ("n_batch", int),
    "cache-prompt": ("cache_prompt", bool),
    "cache-ram": ("cache_ram_mib", int),
    "cache-type-k": ("cache_type_k", _KV_TYPES),
    "cache-type-v": ("cache_type_v", _KV_TYPES),
    "chat-template": ("chat_template", str),
    "flash-attn": (
        "flash_attn_type",
        {
            "auto": "LLAMA_FLASH_ATTN_TYPE_AUTO",
            "on": "LLAMA_FLASH_ATTN_TYPE_ENABLED",
            "off": "LLAMA_FLASH_ATTN_TYPE_DISABLED",
        },
    ),
    "main-gpu": ("main_gpu", int),
    "n-gpu-layers": ("n_gpu_layers", int),
    "pooling": (
        "pooling_type",
        {name: f"LLAMA_POOLING_TYPE_{name.upper()}" for name in ("mean", "cls", "last")},
    ),
    "rope-freq-base": ("rope_freq_base", float),
    "rope-freq-scale": ("rope_freq_scale", float),
    "split-mode": ("split_mode", {name: f"LLAMA_SPLIT_MODE_{name.upper()}" for name in ("none", "layer", "row")}),
    "threads": ("cpuparams.n_threads", int),
    "threads-batch": ("cpuparams_batch.n_threads", int),
    "ubatch-size": ("n_ubatch", int),
    "warmup": ("warmup", bool),
}
_OWNED = {
    "host": "firstkit has it listen on a Unix socket that only the gateway reaches",
    "port": "firstkit has it listen on a Unix socket that only the gateway reaches",
    "api-key": "firstkit has it listen on a Unix socket that only the gateway reaches",
    "model": "it is `engine.model`",
    "alias": "it is the deployment's `model`",
    "parallel": "it is `scaling.in_flight`",
    "ctx-size": "write `engine.context`, the tokens of one request",
    "embedding": "write `engine.embeddings: true`",
    "embeddings": "write `engine.embeddings: true`",
    "log-file": "the launcher keeps the log",
    "verbosity": "more than firstkit lets it log may hold prompts",
    "slot-save-path": "it would write prompts to files",
}
_CHAT_PATHS = frozenset({CHAT, COMPLETIONS, RESPONSES, MESSAGES, COUNT_TOKENS, TOKENIZE, DETOKENIZE})
_EMBEDDING_PATHS = frozenset({EMBEDDINGS, TOKENIZE, DETOKENIZE})


class LlamaCppOptions(Options):
    """Keys of `engine` for llama.cpp."""

    venv: str | None = None
    """A virtual environment with xllamacpp; without one the launcher's own Python must have it."""
    context: int | None = None
    """Tokens of one request, prompt and answer together."""
    embeddings: bool = False
    """Serve embeddings instead of chat."""


class LlamaCpp:
    """One slot of llama.cpp for each request in flight, so that nothing queues inside the engine.

    Threads are `args.threads`, else `resources.cpus`, else all cores that the job may use but one.
    """

    traits = EngineTraits(
        kind="llamacpp",
        paths=_CHAT_PATHS | _EMBEDDING_PATHS,
        aborts_unary=False,
        usage_on_request=False,
        checks_model=False,
        # `id_slot` reads another's cached prompt, `n_cmpl` is a second spelling of `n`
        reserved=RESERVED | {"id_slot", "n_cmpl"},
        option_names=frozenset(LlamaCppOptions.model_fields),
    )

    def check(self, deployment: Deployment) -> list[Mistake]:
        found = option_mistakes(LlamaCppOptions, deployment, self.traits.paths)
        if not found:
            options = read_options(LlamaCppOptions, deployment)
            found += venv_mistakes(options.venv)
            if options.context is not None and options.context < 1:
                found.append(("context", "must be at least 1"))
        found += weights_mistakes(deployment, "the GGUF file")
        found += argument_mistakes(deployment.engine.args, _OWNED)
        named = {key for key, _ in found}
        return found + [
            (f"args.{key}", sentence)
            for key, value in deployment.engine.args.items()
            if f"args.{key}" not in named and (sentence := _wrong(flag_name(key), value))
        ]

    def launch(self, deployment: Deployment) -> LaunchSpec:
        options = read_options(LlamaCppOptions, deployment)
        slots = deployment.scaling.in_flight
        context = options.context or (EMBEDDING_CONTEXT if options.embeddings else CONTEXT)
        settings: dict[str, Any] = {"n_parallel": slots, "n_ctx": slots * context, "cache_ram_mib": 512}
        if options.embeddings:  # a text is embedded in one piece
            settings |= {"embedding": True, "n_batch": max(context, 512), "n_ubatch": max(context, 512)}
        if deployment.resources and deployment.resources.cpus:
            settings["cpuparams.n_threads"] = deployment.resources.cpus
        settings |= dict(_setting(flag_name(key), value) for key, value in deployment.engine.args.items())
        argv = [program(options.venv, "python") if options.venv else "{python}", f"{{dir}}/{PROGRAM}"]
        argv += ["--socket", "{socket}", "--model", deployment.engine.model, "--alias", self.served_name(deployment)]
        argv += ["--drain-s", f"{DRAIN_S:g}"]
        for name, value in settings.items():
            argv += ["--set", f"{name}={str(value).lower() if isinstance(value, bool) else value}"]
        return LaunchSpec(
            argv=tuple(argv),
            env=deployment.engine.env,
            listen="unix",
            health_path="/health",
            serves_path="/v1/models",
            serves_name=self.served_name(deployment),
            start_timeout_s=deployment.engine.start_timeout_s,
            stop_grace_s=DRAIN_S + 5,
            progress=_PROGRESS,
            causes=_CAUSES,
            files=(deployment.engine.model,),
            weights=(deployment.engine.model,),
            put={PROGRAM: (files("firstkit.adapters.engines") / "programs" / PROGRAM).read_bytes()},
        )

    def external(self, deployment: Deployment) -> ExternalSpec | None:
        return None

    def served_name(self, deployment: Deployment) -> str:
        return deployment.model

    def paths(self, deployment: Deployment) -> frozenset[str]:
        options = read_options(LlamaCppOptions, deployment)
        return serving(options, _EMBEDDING_PATHS if options.embeddings else _CHAT_PATHS)

    def retryable(self, status: int, body_start: bytes) -> bool:
        """Take 503 ("Loading model"); nothing else is about the instance rather than the request."""
        return status == 503

    def models_info(self, body: bytes, served_name: str) -> Mapping[str, Any]:
        return models_info(body, served_name)


def _wrong(name: str, value: Any) -> str:
    if name not in _ARGUMENTS:
        return f"is no argument of llama.cpp that firstkit passes on{meant(name, _ARGUMENTS)}"
    kind = _ARGUMENTS[name][1]
    if isinstance(kind, Mapping):
        return "" if value in kind else f"must be one of {', '.join(kind)}"
    right = isinstance(value, int | float) if kind is float else isinstance(value, kind)
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return "" if right and (kind is bool or not isinstance(value, bool)) else f"must be {words[kind]}"


def _setting(name: str, value: Any) -> tuple[str, Any]:
    attribute, kind = _ARGUMENTS[name]
    return attribute, kind[value] if isinstance(kind, Mapping) else value


_PROGRESS = (
    ProgressMark(match=r"load_model: loading model", start=0.05, end=0.05, text="loading weights"),
    ProgressMark(match=r"^first: weights (?P<percent>\d+)%", start=0.05, end=0.8, text="loading weights"),
    ProgressMark(match=r"load_model: initializing, n_slots", start=0.9, end=0.9, text="making slots"),
    ProgressMark(match=r"init: model loaded", start=0.95, end=0.95, text="weights loaded"),
    ProgressMark(match=r"init: listening on", start=1.0, end=1.0, text="listening"),
)
_CAUSES = (
    CauseMark(
        match=r"out of memory|bad_alloc|failed to allocate|unable to allocate|MemoryError", reason=Reason.OUT_OF_MEMORY
    ),
    CauseMark(match=r"gguf_init_from_file|failed to load model|invalid magic", reason=Reason.WEIGHTS_MISSING),
    CauseMark(match=r"No module named|^first: (argument|xllamacpp)", reason=Reason.SETUP_FAILED),
)

ADAPTER = LlamaCpp()
