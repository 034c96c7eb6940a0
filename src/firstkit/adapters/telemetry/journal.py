# SPDX-License-Identifier: Apache-2.0
"""Structured log lines: one event a line with its facts, as text for people or as JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TextIO

_MARK = "first_facts"


class Journal:
    """Log events of one process part; facts are names, numbers and reasons, never content."""

    def __init__(self, part: str) -> None:
        self._log = logging.getLogger(f"firstkit.{part}")

    def __call__(self, event: str, **facts: object) -> None:
        """Write one line."""
        self._log.info(event, extra={_MARK: facts})


class LineFormatter(logging.Formatter):
    """`2026-11-24T22:10:05.123Z INFO controller planned deployment=demo reason=DEMAND`, or the same as JSON."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """Write a record as one line; line breaks inside become visible."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        facts: dict[str, object] = getattr(record, _MARK, {})
        event = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            facts = {**facts, "error": self.formatException(record.exc_info)}
        if self._as_json:
            line = {"at": at, "level": record.levelname, "part": record.name, "event": event, **facts}
            return json.dumps(line, default=str)
        words = " ".join(f"{name}={_word(value)}" for name, value in facts.items())
        return f"{at} {record.levelname} {record.name.removeprefix('firstkit.')} {event} {words}".rstrip().replace(
            "\n", "\\n"
        )


def _word(value: object) -> str:
    text = str(value)
    return json.dumps(text) if not text or any(mark in text for mark in ' "=\n') else text


def start_logging(*, level: str = "INFO", as_json: bool = False, stream: TextIO | None = None) -> None:
    """Send this process's log lines to standard error."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LineFormatter(as_json=as_json))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("firstkit").setLevel(level)
