# SPDX-License-Identifier: Apache-2.0
"""The options by which a command is told which installation is meant, and the client made from them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from firstkit.adapters.clients.target import DEFAULT_DATA, Asked, Target, operator_target, public_target
from firstkit.config.environment import read_environment

if TYPE_CHECKING:
    from firstkit.adapters.clients.http import Client

CONTROLLER_SILENT_S = 15.0
"""A controller that has given no sign of life for so long is taken for dead."""

_F = TypeVar("_F", bound=Callable[..., Any])


def connected(function: _F) -> _F:
    """Add --url, --key-file and --data; the command gets them as `asked`."""

    @click.option("--url", default=None, help="Base URL of the service.  [env: FIRST_BASE_URL, OPENAI_BASE_URL]")
    @click.option(
        "--key-file",
        type=click.Path(path_type=Path, dir_okay=False),
        default=None,
        help="File with the API key.  [env: FIRST_API_KEY, OPENAI_API_KEY hold the key itself]",
    )
    @click.option(
        "--data",
        type=click.Path(path_type=Path, file_okay=False),
        default=None,
        help="State folder of a service on this machine.  [env: FIRST_DATA; default: .first]",
    )
    @wraps(function)
    def wrapped(*args: Any, url: str | None, key_file: Path | None, data: Path | None, **options: Any) -> Any:
        return function(*args, asked=Asked(url=url, key_file=key_file, data=data), **options)

    return wrapped  # type: ignore[return-value]


def public(asked: Asked) -> Target:
    """Find the service as its users reach it."""
    return public_target(asked, read_environment())


def state_folder(asked: Asked) -> Path:
    """Say which state folder is meant."""
    return asked.data or Path(read_environment().get("FIRST_DATA") or DEFAULT_DATA)


def use(asked: Asked) -> Client:
    """Reach the service as its users do."""
    from firstkit.adapters.clients.http import Client

    return Client(public(asked))


def operate(asked: Asked) -> Client:
    """Reach the service as its operators do: by the admin socket where there is one."""
    from firstkit.adapters.clients.http import Client

    return Client(operator_target(asked, read_environment()))


def controller_acts(health: dict[str, Any]) -> bool:
    """Tell from the service's health whether there is a controller that carries out what it is asked."""
    silent_s = health["controller_silent_s"]
    return silent_s is not None and silent_s < CONTROLLER_SILENT_S
