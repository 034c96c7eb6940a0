# SPDX-License-Identifier: Apache-2.0
"""The project's only reader of the environment, and the list of what is read there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One environment variable: what it is for, and the key of the file that it stands in for, if any."""

    name: str
    about: str
    key: tuple[str, ...] = ()


VARIABLES: tuple[Variable, ...] = (
    Variable(name="FIRST_LISTEN", about="where the gateway listens, instead of the file's", key=("gateway", "listen")),
    Variable(name="FIRST_STORE", about="the database's URL, instead of the file's", key=("store",)),
    Variable(name="FIRST_DATA", about="the state folder"),
    Variable(name="FIRST_CONFIG", about="the configuration file, where no --config is given"),
    Variable(name="FIRST_BASE_URL", about="client commands: the gateway's base URL"),
    Variable(name="FIRST_API_KEY", about="client commands: the API key"),
    Variable(name="OPENAI_BASE_URL", about="client commands: the base URL, where FIRST_BASE_URL is not set"),
    Variable(name="OPENAI_API_KEY", about="client commands: the API key, where FIRST_API_KEY is not set"),
)
"""Everything that firstkit itself reads from the environment."""


def read_environment() -> Mapping[str, str]:
    """Take the variables of `VARIABLES` that are set and not empty, once, for whoever composes a process."""
    return {variable.name: value for variable in VARIABLES if (value := os.environ.get(variable.name))}
