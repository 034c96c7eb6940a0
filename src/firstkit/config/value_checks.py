# SPDX-License-Identifier: Apache-2.0
"""Checks of the values handed on to engines: secrets that do not belong here, words that YAML 1.1 read otherwise."""

from __future__ import annotations

import re
from math import isfinite

from firstkit.config.document import LEADING_ZERO, OLD_BOOL, Path, ScalarNode, scalars
from firstkit.config.drafts import Draft
from firstkit.config.report import Report

_SECRET = re.compile(
    r"(?i)(^|[-_])(api[-_]?keys?|access[-_]?key|secret([-_]?key)?|token|password|passwd|credentials?)$"
)


def check_values(report: Report, draft: Draft) -> None:
    """Check every value below `args` and `env` of every engine."""
    for name in draft.deployments:
        for part in ("args", "env"):
            base: Path = ("deployments", name, "engine", part)
            node = report.node(base)
            if node is None:
                continue
            for path, scalar in scalars(node, base):
                if (part, path[-1]) != ("args", "api-key"):  # each engine's adapter says why it sets its own
                    _check_secret(report, path, scalar)
                _check_word(report, path, scalar, is_argument=part == "args")


def _check_secret(report: Report, path: Path, scalar: ScalarNode) -> None:
    """Refuse what looks like a secret; the value itself is never repeated."""
    key = str(path[-1])
    if not _SECRET.search(key) or not isinstance(scalar.value, str) or not scalar.value or scalar.value.startswith("/"):
        return
    report.add(
        path,
        f"`{key}` looks like a secret, and this file holds none",
        expected="a file that holds it, readable by no other user",
        hint=f'export it in `setup`, such as: export {key.upper().replace("-", "_")}="$(cat /path/of/the/file)"',
        key=True,
    )


def _check_word(report: Report, path: Path, scalar: ScalarNode, *, is_argument: bool) -> None:
    if isinstance(scalar.value, float) and not isfinite(scalar.value):
        report.add(path, f"`{scalar.text}` is no number that an engine takes", expected="a finite number")
    if not scalar.plain:
        return
    if is_argument and isinstance(scalar.value, str) and OLD_BOOL.fullmatch(scalar.text):
        meant = "true" if scalar.text.lower() in {"yes", "on", "y"} else "false"
        hint = f'write {meant}, or "{scalar.text}" if the word is meant'
        report.warn(path, f"`{scalar.text}` is a word here, no truth value (YAML 1.2)", hint=hint)
    if isinstance(scalar.value, int) and LEADING_ZERO.fullmatch(scalar.text):
        hint = f'write {scalar.value}, or "{scalar.text}" if the zero is meant'
        report.warn(path, f"`{scalar.text}` is the number {scalar.value}", hint=hint)
