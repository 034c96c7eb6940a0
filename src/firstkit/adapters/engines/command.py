# SPDX-License-Identifier: Apache-2.0
"""Any OpenAI-compatible server, given by its command line and a health path."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field

from firstkit.adapters.engines.listing import models_info
from firstkit.adapters.engines.options import Options, meant, option_mistakes, read_options, serving
from firstkit.adapters.engines.vocabulary import CHAT, COMPLETIONS, INFERENCE_PATHS, RESERVED
from firstkit.core.catalog import Deployment
from firstkit.core.reasons import Reason
from firstkit.ports.engine import CauseMark, EngineTraits, ExternalSpec, LaunchSpec, Mistake

_LAUNCHER = frozenset({"socket", "port", "dir", "cache", "tmp", "key_file", "python"})
_OURS = frozenset({"model", "name", "in_flight"})
_IN_ENV = frozenset({"key"})
_NO_KEY = (
    "has {port}, and whoever shares the node reaches loopback: "
    "give the server a key to ask for, by {key_file} in `argv` or {key} in `env`"
)
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


class CommandOptions(Options):
    """Keys of `engine` for a command line.

    Placeholders in `argv` and `env`: `{socket}` or `{port}`, `{key_file}`, `{dir}`, `{cache}`, `{tmp}`, `{python}`, and
    `{model}` (as in `engine.model`), `{name}` (what the server is asked to call it), `{in_flight}`. `{key}` in `env`
    alone, since every user of a node sees command lines.
    """

    argv: list[str] = Field(default_factory=list[str])
    """The command line. With `{port}` the server listens on loopback and must ask for the key it is given."""
    health: str = "/health"
    """A path that answers 200 once it is up."""
    lists_models: bool = True
    """Whether its `/v1/models` lists the name; it is up only when it does."""
    served_name: str | None = None
    """What it calls the model, where that is not the deployment's `model`."""
    guarded: list[str] = Field(default_factory=list[str])
    """Further paths that must be refused without the key, tried at every start."""
    stop_grace: int = 20
    """Seconds between the stop signal and the end by force."""


class Command:
    """Little is promised for software that nobody here has run."""

    traits = EngineTraits(
        kind="command",
        paths=INFERENCE_PATHS,
        aborts_unary=False,
        usage_on_request=False,
        checks_model=False,
        reserved=RESERVED,
        option_names=frozenset(CommandOptions.model_fields),
    )

    def check(self, deployment: Deployment) -> list[Mistake]:
        found = option_mistakes(CommandOptions, deployment, self.traits.paths)
        if deployment.engine.args:
            found.append(("args", "has no meaning here; write the whole command line in `argv`"))
        if found:
            return found
        options = read_options(CommandOptions, deployment)
        if not options.argv or not options.argv[0]:
            return [("argv", "is required: the command line as a list, with {socket} or {port} in it")]
        for key in ("health", *(f"guarded.{number}" for number in range(len(options.guarded)))):
            path = options.health if key == "health" else options.guarded[int(key.partition(".")[2])]
            if not path.startswith("/"):
                found.append((key, f"must be a path that begins with /, not {path}"))
        if options.stop_grace < 1:
            found.append(("stop_grace", "must be at least 1 second"))
        return found + _placeholder_mistakes(deployment, options)

    def launch(self, deployment: Deployment) -> LaunchSpec:
        options = read_options(CommandOptions, deployment)
        own = {
            "model": deployment.engine.model,
            "name": self.served_name(deployment),
            "in_flight": str(deployment.scaling.in_flight),
        }
        argv = tuple(_fill(text, own) for text in options.argv)
        env = {name: _fill(value, own) for name, value in deployment.engine.env.items()}
        loopback = "port" in _placeholders([*options.argv, *deployment.engine.env.values()])
        serves = "/v1/models" if options.lists_models else None
        guarded = {"/v1/models", *options.guarded, *self.paths(deployment)}
        model = deployment.engine.model
        return LaunchSpec(
            argv=argv,
            env=env,
            listen="loopback" if loopback else "unix",
            needs_key=loopback,
            guarded=tuple(sorted(guarded)) if loopback else (),
            health_path=options.health,
            serves_path=serves,
            serves_name=self.served_name(deployment) if serves else None,
            start_timeout_s=deployment.engine.start_timeout_s,
            stop_grace_s=float(options.stop_grace),
            causes=_CAUSES,
            files=(model,) if model.startswith("/") else (),
            weights=(model,) if model.startswith("/") and model.endswith((".gguf", ".safetensors")) else (),
        )

    def external(self, deployment: Deployment) -> ExternalSpec | None:
        return None

    def served_name(self, deployment: Deployment) -> str:
        return read_options(CommandOptions, deployment).served_name or deployment.model

    def paths(self, deployment: Deployment) -> frozenset[str]:
        return serving(read_options(CommandOptions, deployment), frozenset({CHAT, COMPLETIONS}))

    def retryable(self, status: int, body_start: bytes) -> bool:
        return status == 503

    def models_info(self, body: bytes, served_name: str) -> Mapping[str, Any]:
        return models_info(body, served_name)


def _placeholders(texts: Iterable[str]) -> set[str]:
    return {name for text in texts for name in _PLACEHOLDER.findall(text)}


def _fill(text: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: values.get(found.group(1), found.group(0)), text)


def _placeholder_mistakes(deployment: Deployment, options: CommandOptions) -> list[Mistake]:
    found: list[Mistake] = []
    in_argv, in_env = _placeholders(options.argv), _placeholders(deployment.engine.env.values())
    known = _LAUNCHER | _OURS | _IN_ENV
    found += [
        (key, f"has {{{name}}}, which is no placeholder{question}")
        for key, names in (("argv", in_argv), ("env", in_env))
        for name in sorted(names - known)
        if (question := meant(name, known))  # other braces may be the server's own
    ]
    if "key" in in_argv:
        found.append(
            (
                "argv",
                "must not hold {key}: other users of the node see command lines; use {key_file}, or {key} in `env`",
            )
        )
    if "model" in in_argv | in_env and not deployment.engine.model:
        found.append(("model", "is required, since {model} is used"))
    used = in_argv | in_env
    if "socket" in used and "port" in used:
        found.append(("argv", "must have {socket} or {port}, not both"))
    elif "socket" not in used and "port" not in used:
        found.append(
            ("argv", "must have {socket} (a Unix socket, the better way) or {port} where the server is to listen")
        )
    elif "port" in used and not {"key_file", "key"} & used:
        found.append(("argv", _NO_KEY))
    return found


_CAUSES = (
    CauseMark(
        match=r"out of memory|OutOfMemory|bad_alloc|MemoryError|Cannot allocate memory", reason=Reason.OUT_OF_MEMORY
    ),
    CauseMark(
        match=r"ModuleNotFoundError|command not found|cannot open shared object file", reason=Reason.SETUP_FAILED
    ),
)

ADAPTER = Command()
