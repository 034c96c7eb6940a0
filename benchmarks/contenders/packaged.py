# SPDX-License-Identifier: Apache-2.0
"""Gateways from PyPI, each in an environment of its own (`python -m benchmarks.environments`)."""

from __future__ import annotations

import json
from importlib.metadata import Distribution, distributions
from pathlib import Path

from benchmarks.contenders import ENVIRONMENTS, KEY, Running, Site
from benchmarks.processes import Process, free_port
from benchmarks.target import Target, completes

READY_DEADLINE_S = 120


def program(environment: str, name: str) -> Path:
    """Give the path of a program in a contender's environment."""
    return ENVIRONMENTS / environment / "bin" / name


def missing(environment: str, name: str) -> str:
    """Say what is needed before the contender can start."""
    return (
        ""
        if program(environment, name).exists()
        else f"{environment} is not installed: python -m benchmarks.environments {environment}"
    )


def version(environment: str) -> str:
    """Read the installed version of the distribution that bears the environment's name."""
    paths = [str(path) for path in (ENVIRONMENTS / environment / "lib").glob("python3*/site-packages")]
    found: list[Distribution] = [d for d in distributions(path=paths) if d.metadata["Name"] == environment]
    return found[0].version if found else "unknown"


class VllmRouter:
    """The vLLM project's router in Rust, with its cheapest policy and without keys: what it can leave out, it may."""

    name = "vllm-router"
    skips: frozenset[str] = frozenset()

    def missing(self) -> str:
        return missing(self.name, "vllm-router")

    def start(self, site: Site) -> Running:
        folder, port = site.own(self.name), free_port()
        workers = [f"http://127.0.0.1:{p}" for p in site.ports]
        argv = [
            str(program(self.name, "vllm-router")),
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--worker-urls",
            *workers,
        ]
        argv += [
            "--policy",
            "round_robin",
            "--log-level",
            "warning",
            "--max-concurrent-requests",
            "4096",
            "--prometheus-port",
            str(free_port()),
        ]
        return _serve(self.name, argv, site, port, folder, notes="round robin, no key, log level warning")


class Smg:
    """The Shepherd Model Gateway in Rust, likewise."""

    name = "smg"
    skips: frozenset[str] = frozenset()

    def missing(self) -> str:
        return missing(self.name, "smg")

    def start(self, site: Site) -> Running:
        folder, port = site.own(self.name), free_port()
        workers = [f"http://127.0.0.1:{p}" for p in site.ports]
        argv = [
            str(program(self.name, "smg")),
            "launch",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--worker-urls",
            *workers,
        ]
        argv += [
            "--policy",
            "round_robin",
            "--log-level",
            "warn",
            "--max-concurrent-requests",
            "4096",
            "--prometheus-port",
            str(free_port()),
        ]
        return _serve(self.name, argv, site, port, folder, notes="round robin, no key, log level warn")


class LiteLlm:
    """LiteLLM's proxy with its key check, one worker, no database."""

    name = "litellm"
    skips = frozenset({"stream-crowd", "stream-unaligned"})  # at a millisecond a chunk it would fall behind for minutes

    def missing(self) -> str:
        return missing(self.name, "litellm")

    def start(self, site: Site) -> Running:
        folder, port = site.own(self.name), free_port()
        entry = {"model": f"openai/{site.model}", "api_key": "none"}
        models = [
            {"model_name": site.model, "litellm_params": {**entry, "api_base": f"http://127.0.0.1:{p}/v1"}}
            for p in site.ports
        ]
        settings = {
            "model_list": models,
            "litellm_settings": {"telemetry": False, "num_retries": 0},
            "router_settings": {"routing_strategy": "simple-shuffle"},
            "general_settings": {"master_key": KEY, "disable_spend_logs": True},
        }
        path = folder / "config.yaml"
        path.write_text(json.dumps(settings))
        argv = [str(program(self.name, "litellm")), "--host", "127.0.0.1", "--port", str(port), "--config", str(path)]
        env = {
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "NO_DOCS": "True",
        }
        return _serve(
            self.name, argv, site, port, folder, notes="master key, simple shuffle, one worker, no database", env=env
        )


def _serve(
    name: str, argv: list[str], site: Site, port: int, folder: Path, *, notes: str, env: dict[str, str] | None = None
) -> Running:
    process = Process.start(name, argv, folder=folder, env=env)
    target = Target(roots=(process.pid,), port=port, key=KEY, model=site.model)
    took = process.wait_until(lambda: completes(target), "a completion", deadline_s=READY_DEADLINE_S)
    return Running(
        version=version(name), processes=[process], targets={"tcp": target}, notes=notes, ready_s={"tcp": took}
    )
