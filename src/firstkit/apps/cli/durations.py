# SPDX-License-Identifier: Apache-2.0
"""Durations on the command line."""

from __future__ import annotations

import click

from firstkit.core.units import parse_duration_s


class Duration(click.ParamType[float]):
    """A duration as people write it (30s, 15m, 2h), in seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        try:
            return parse_duration_s(value if isinstance(value, (str, int, float)) else str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
