# SPDX-License-Identifier: Apache-2.0
"""What firstkit must know of an engine's software; one adapter of a few dozen lines for each, found by entry point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from firstkit.core.catalog import Deployment
from firstkit.core.reasons import Reason
from firstkit.core.topology import Address

Mistake = tuple[str, str]
"""What is wrong in a configuration: the key below the place that is checked, and a sentence that follows the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressMark:
    """A log line that tells how far loading has come: a named group `percent` moves between `start` and `end`."""

    match: str
    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseMark:
    """A log line that tells why an engine ended."""

    match: str
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTraits:
    """What an engine's software can do, as found by running it; data, the same for all its deployments.

    `paths` are the inference paths that may be relayed (exactly, `/v1/chat/completions`). `aborts_streams` and
    `aborts_unary`: whether a closed connection ends the work within a moment. `drains`: whether requests in flight
    finish
    after the stop signal. `usage_on_request`: `stream_options.include_usage` may be spliced into chat and completions
    without changing other chunks. `checks_model`: it refuses a wrong model name itself. `multipart`: paths whose model
    is a form field.
    """

    kind: str
    paths: frozenset[str]
    aborts_streams: bool = True
    aborts_unary: bool = True
    drains: bool = True
    usage_on_request: bool = True
    checks_model: bool = True
    reserved: frozenset[str] = frozenset()
    option_names: frozenset[str] = frozenset()
    """Keys below `engine` in the configuration that only this kind knows (`url`, `argv`, …); any other is an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """How the launcher starts one engine.

    Becomes the `engine` object of job.json (placeholders as documented there).
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    listen: str
    health_path: str
    serves_path: str | None
    serves_name: str | None
    start_timeout_s: float
    stop_grace_s: float
    needs_key: bool = False
    guarded: tuple[str, ...] = ()
    stop_signal: str = "TERM"
    progress: tuple[ProgressMark, ...] = ()
    causes: tuple[CauseMark, ...] = ()
    files: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    """Folders or files whose weights must be whole; formats that are not known are not judged."""
    gpu_memory: float = 0.8
    """The share of each GPU's memory that must be free before it starts."""
    shm_bytes: int = 0
    disk_bytes: int = 16 * 1024**2
    """Room that it needs in /dev/shm, and in its caches and temporary folder."""
    put: Mapping[str, bytes] | None = None
    """Small files of ours that must lie in the instance's folder ({dir}), by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalSpec:
    """Where an engine that is already running answers.

    `key_file` holds its key (empty: none), to be read by whoever composes and sent as `Authorization: Bearer`. It is up
    when `health_path` answers 200; paths are below the address's `base_path`. `health_path` may itself need the key.
    """

    address: Address
    key_file: str = ""
    health_path: str = "/v1/models"
    serves_path: str | None = "/v1/models"
    serves_name: str | None = None


class Engine(Protocol):
    """One engine's adapter. Pure: builds values, starts nothing, reads nothing."""

    traits: EngineTraits

    def check(self, deployment: Deployment) -> list[Mistake]:
        """List what is wrong with a deployment's `engine` for this kind, by key below `engine`."""
        ...

    def launch(self, deployment: Deployment) -> LaunchSpec:
        """Build how to start one instance; only for deployments that `check` found nothing wrong with.

        An engine that is never launched raises ConfigError.
        """
        ...

    def external(self, deployment: Deployment) -> ExternalSpec | None:
        """Say where an engine of this deployment already runs; None for the kinds that are launched."""
        ...

    def served_name(self, deployment: Deployment) -> str:
        """Say what this engine calls the model, for `Route.served_name` and `models_info`."""
        ...

    def paths(self, deployment: Deployment) -> frozenset[str]:
        """List the inference paths this deployment serves (a chat model has no embeddings, …).

        Within `traits.paths`.
        """
        ...

    def retryable(self, status: int, body_start: bytes) -> bool:
        """Tell whether an error answer means that another instance may do better (vLLM answers 500 while it drains)."""
        ...

    def models_info(self, body: bytes, served_name: str) -> Mapping[str, Any]:
        """Read `max_model_len` and the like from the engine's own model listing; {} when it does not say."""
        ...
