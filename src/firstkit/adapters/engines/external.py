# SPDX-License-Identifier: Apache-2.0
"""An engine that is already running somewhere, given by its URL and the file that holds its key."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from firstkit.adapters.engines.listing import models_info
from firstkit.adapters.engines.options import Options, option_mistakes, read_options, serving
from firstkit.adapters.engines.vocabulary import (
    CHAT,
    COMPLETIONS,
    INFERENCE_PATHS,
    RESERVED,
)
from firstkit.core.catalog import Deployment
from firstkit.core.errors import ConfigError
from firstkit.core.topology import Address, AddressKind
from firstkit.ports.engine import EngineTraits, ExternalSpec, LaunchSpec, Mistake


class ExternalOptions(Options):
    """Keys of `engine` for one that is already running. `model` is what it calls the model, where that differs."""

    url: str = ""
    """`http://…`, `https://…` or `unix:/path`; a path in it goes before every path, less a `/v1` at its end."""
    key_file: str = ""
    """The file with its key, sent as `Authorization: Bearer`."""
    health: str | None = None
    """A path that answers 200 while it is well; by default its model listing."""
    lists_models: bool = True
    """Whether `/v1/models` of it lists the name."""


class External:
    """Nothing is launched: the address is the whole of it. Of its software nothing is known, so little is promised."""

    traits = EngineTraits(
        kind="external",
        paths=INFERENCE_PATHS,
        aborts_unary=False,
        usage_on_request=False,
        checks_model=False,
        reserved=RESERVED,
        option_names=frozenset(ExternalOptions.model_fields),
    )

    def check(self, deployment: Deployment) -> list[Mistake]:
        found = option_mistakes(ExternalOptions, deployment, self.traits.paths)
        engine = deployment.engine
        if not found:
            options = read_options(ExternalOptions, deployment)
            found += [("url", sentence) for sentence in _wrong_url(options.url)]
            if options.key_file and not posixpath.isabs(options.key_file):
                found.append(("key_file", f"must be an absolute path, not {options.key_file}"))
            if options.health is not None and not options.health.startswith("/"):
                found.append(("health", "must be a path that begins with /"))
        found += [
            (key, "means nothing for an engine that is already running")
            for key, given in (
                ("args", engine.args),
                ("env", engine.env),
                ("setup", engine.setup),
                ("container", engine.container),
            )
            if given
        ]
        return found

    def launch(self, deployment: Deployment) -> LaunchSpec:
        raise ConfigError(f"The deployment {deployment.name} is already running; there is nothing to launch.")

    def external(self, deployment: Deployment) -> ExternalSpec | None:
        options = read_options(ExternalOptions, deployment)
        serves = "/v1/models" if options.lists_models else None
        return ExternalSpec(
            address=parse_address(options.url),
            key_file=options.key_file,
            health_path=options.health or "/v1/models",
            serves_path=serves,
            serves_name=self.served_name(deployment) if serves else None,
        )

    def served_name(self, deployment: Deployment) -> str:
        return deployment.engine.model or deployment.model

    def paths(self, deployment: Deployment) -> frozenset[str]:
        return serving(read_options(ExternalOptions, deployment), frozenset({CHAT, COMPLETIONS}))

    def retryable(self, status: int, body_start: bytes) -> bool:
        """Take 502 to 504, which what stands before it (a proxy, a load balancer) says, as its being away."""
        return status in {502, 503, 504}

    def models_info(self, body: bytes, served_name: str) -> Mapping[str, Any]:
        return models_info(body, served_name)


def parse_address(url: str) -> Address:
    """Turn a URL that `check` accepted into an address."""
    if url.startswith("unix:"):
        return Address(kind=AddressKind.UNIX, path=_unix_path(url))
    parts = urlsplit(url)
    host = parts.hostname or ""
    base = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    if parts.scheme == "https":
        return Address(kind=AddressKind.TLS, host=host, port=parts.port or 443, server_name=host, base_path=base)
    return Address(kind=AddressKind.TCP, host=host, port=parts.port or 80, base_path=base)


def _unix_path(url: str) -> str:
    path = url.removeprefix("unix:")
    return "/" + path.lstrip("/") if path.startswith("//") else path


def _wrong_url(url: str) -> list[str]:
    if not url:
        return ["is required: where the engine answers, such as http://127.0.0.1:8080"]
    if url.startswith("unix:"):
        path = _unix_path(url)
        if not posixpath.isabs(path):
            return [f"must name an absolute path after unix:, not {path}"]
        return [f"is {len(path.encode())} bytes long; a socket's path may have 107"] if len(path.encode()) > 107 else []
    if any(character.isspace() or ord(character) < 0x20 for character in url):
        return ["must not contain spaces or control characters"]
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return [f"cannot be read: {error}"]
    return _wrong_parts(parts, port)


def _wrong_parts(parts: SplitResult, port: int | None) -> list[str]:
    if parts.scheme not in {"http", "https"}:
        return ["must begin with http://, https:// or unix:"]
    if not parts.hostname or port == 0:
        return ["must name a host and, if any, a port from 1 to 65535"]
    if parts.username is not None or parts.password is not None:
        return ["must not hold a credential; put the key into a file and name it in `key_file`"]
    if parts.query or parts.fragment:
        return ["must not have a query or a fragment"]
    return []


ADAPTER = External()
