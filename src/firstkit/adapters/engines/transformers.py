# SPDX-License-Identifier: Apache-2.0
"""transformers serve: any architecture that transformers knows, one request at a time; served by a program of ours."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from firstkit.adapters.engines.options import (
    Options,
    argument_mistakes,
    flag_name,
    flags,
    option_mistakes,
    program,
    read_options,
    serving,
    venv_mistakes,
    weights_mistakes,
)
from firstkit.adapters.engines.vocabulary import CHAT, COMPLETIONS, RESERVED, RESPONSES, TRANSCRIPTIONS
from firstkit.core.catalog import Deployment
from firstkit.core.reasons import Reason
from firstkit.ports.engine import CauseMark, EngineTraits, ExternalSpec, LaunchSpec, Mistake, ProgressMark

PROGRAM = "serve_transformers.py"
DRAIN_S = 20
_SOCKET = "firstkit has it listen on a Unix socket that only the gateway reaches"
_OWNED = {
    "host": _SOCKET,
    "port": _SOCKET,
    "enable-cors": "the gateway answers browsers",
    "force-model": "it is `engine.model`",
    "model-timeout": "the weights stay loaded as long as the instance lives",
    "log-level": "more than firstkit lets it log may hold prompts",
}
_ONE_AT_A_TIME = "transformers answers one request at a time: set scaling.in_flight to 1, or args.continuous-batching"
_DEFAULT_PATHS = frozenset({CHAT, COMPLETIONS, RESPONSES})


class TransformersOptions(Options):
    """Keys of `engine` for transformers serve."""

    venv: str | None = None
    """A virtual environment with transformers[serving]; without one the launcher's own Python must have it."""


class Transformers:
    """It lists no models, knows its model by the folder it was started with, and says `…@main` in its answers.

    So the program links the weights under the public name in the engine's own folder and has it start with that.
    Its streams end without `[DONE]`, and their last chunk always has the usage. Unknown fields are refused with 422.
    """

    traits = EngineTraits(
        kind="transformers",
        paths=_DEFAULT_PATHS | {TRANSCRIPTIONS},
        aborts_unary=False,
        usage_on_request=False,
        # a whole generation config, as JSON in a text
        reserved=RESERVED | {"generation_config"},
        option_names=frozenset(TransformersOptions.model_fields),
    )

    def check(self, deployment: Deployment) -> list[Mistake]:
        found = option_mistakes(TransformersOptions, deployment, self.traits.paths)
        if not found:
            found += venv_mistakes(read_options(TransformersOptions, deployment).venv)
        found += weights_mistakes(deployment, "the folder with config.json and the weights")
        found += argument_mistakes(deployment.engine.args, _OWNED)
        if any(character in deployment.model for character in "@:"):
            found.append(
                ("kind", f"transformers cannot serve a model whose name has @ or : in it, as {deployment.model}")
            )
        batching = any(
            flag_name(key) == "continuous-batching" and value is True for key, value in deployment.engine.args.items()
        )
        if deployment.scaling.in_flight > 1 and not batching:
            found.append(("kind", _ONE_AT_A_TIME))
        return found

    def launch(self, deployment: Deployment) -> LaunchSpec:
        venv = read_options(TransformersOptions, deployment).venv
        engine = deployment.engine
        argv = [program(venv, "python") if venv else "{python}", f"{{dir}}/{PROGRAM}", "--socket", "{socket}"]
        argv += ["--model", engine.model, "--name", self.served_name(deployment), "--drain-s", str(DRAIN_S), "--"]
        return LaunchSpec(
            argv=(*argv, *flags(engine.args)),
            env=engine.env,
            listen="unix",
            health_path="/health",
            serves_path=None,
            serves_name=None,
            start_timeout_s=engine.start_timeout_s,
            stop_grace_s=DRAIN_S + 5.0,
            progress=_PROGRESS,
            causes=_CAUSES,
            files=(f"{engine.model.rstrip('/')}/config.json",),
            weights=(engine.model,),
            put={PROGRAM: (files("firstkit.adapters.engines") / "programs" / PROGRAM).read_bytes()},
        )

    def external(self, deployment: Deployment) -> ExternalSpec | None:
        return None

    def served_name(self, deployment: Deployment) -> str:
        return deployment.model

    def paths(self, deployment: Deployment) -> frozenset[str]:
        return serving(read_options(TransformersOptions, deployment), _DEFAULT_PATHS)

    def retryable(self, status: int, body_start: bytes) -> bool:
        """Take 503: the thread that batches has died."""
        return status == 503

    def models_info(self, body: bytes, served_name: str) -> Mapping[str, Any]:
        """Find nothing: it lists what lies in a cache."""
        return {}


_PROGRESS = (
    ProgressMark(match=r"^first: importing", start=0.05, end=0.05, text="starting Python"),
    ProgressMark(match=r"^Loading .*@main", start=0.3, end=0.3, text="loading weights"),
    ProgressMark(
        match=r"Loading (?:weights|checkpoint shards):\s+(?P<percent>\d+)%", start=0.3, end=0.9, text="loading weights"
    ),
    ProgressMark(match=r"Application startup complete", start=1.0, end=1.0, text="listening"),
)
_CAUSES = (
    CauseMark(match=r"[Oo]ut of memory|OutOfMemoryError|MemoryError|bad_alloc", reason=Reason.OUT_OF_MEMORY),
    CauseMark(match=r"SafetensorError|does not appear to have a file named", reason=Reason.WEIGHTS_MISSING),
    CauseMark(match=r"ModuleNotFoundError|ImportError|No such option", reason=Reason.SETUP_FAILED),
)

ADAPTER = Transformers()
