# SPDX-License-Identifier: Apache-2.0
"""Run `transformers serve` on a Unix socket, under its model's public name, with errors logged without their text."""

from __future__ import annotations

import argparse
import functools
import importlib
import logging
import os
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Link the weights under their name, turn the server to the socket, and hand over to transformers' own command."""
    parser = argparse.ArgumentParser(description="Run `transformers serve` on a Unix socket.")
    parser.add_argument("--socket", required=True, help="where to listen")
    parser.add_argument("--model", required=True, help="the folder with the weights")
    parser.add_argument("--name", required=True, help="the name under which it is served")
    parser.add_argument("--drain-s", type=int, default=20, help="seconds that running requests get after SIGTERM")
    parser.add_argument("rest", nargs="*", help="arguments of transformers serve, after --")
    options = parser.parse_args()
    link(Path(options.model), options.name)
    os.write(1, b"first: importing transformers\n")
    uvicorn: Any = importlib.import_module("uvicorn")
    command: Any = importlib.import_module("transformers.cli.transformers")
    # The command knows --host and --port only, but makes its server from whatever uvicorn.Config is.
    uvicorn.Config = functools.partial(configured, uvicorn.Config, options.socket, options.drain_s)
    sys.argv = ["transformers", "serve", options.name, *options.rest]
    command.main()


def link(model: Path, name: str) -> None:
    """Make the weights' folder reachable by the public name, relative to the working directory."""
    place = Path(name)
    if place.is_absolute() or ".." in place.parts:
        sys.exit(f"first: {name} cannot be the name of a folder")
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_symlink():
        place.symlink_to(model)


def configured(config: Any, path: str, drain_s: int, app: Any, **_given: Any) -> Any:
    """Make uvicorn's configuration: our socket instead of host and port, no access log, a bounded drain."""
    made = config(app, uds=path, log_level="info", access_log=False, timeout_graceful_shutdown=drain_s)
    logging.getLogger("uvicorn.error").addFilter(without_text)
    return made


def without_text(record: logging.LogRecord) -> bool:
    """Reduce a logged exception to its type and place: its text may hold part of a request."""
    if record.exc_info and record.exc_info[1] is not None:
        frames: list[str] = []
        trace = record.exc_info[2]
        while trace is not None:
            code = trace.tb_frame.f_code
            frames.append(f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}")
            trace = trace.tb_next
        record.msg = f"{record.exc_info[1].__class__.__name__} in {' < '.join(reversed(frames[-5:]))}"
        record.args, record.exc_info, record.exc_text = None, None, None
    return True


if __name__ == "__main__":
    main()
