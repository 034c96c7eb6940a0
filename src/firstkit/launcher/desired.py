# SPDX-License-Identifier: Apache-2.0
"""The `desired` document: read from an answer of /control or from desired.json, the higher version wins."""

from __future__ import annotations

import json
import os
from typing import Dict, NamedTuple, Optional, Tuple

from .documents import ADDRESS, check_schema
from .fields import Fields, JobRefused

DESIRED = "desired.json"
MAX_BYTES = 1024 * 1024
SERVE = "serve"
DRAIN = "drain"
STOP = "stop"


class Want(NamedTuple):
    """What is asked of one instance. `within_s` counts from the moment the document arrived."""

    want: str
    within_s: Optional[float]


class Desired(NamedTuple):
    """What is asked of the job. An instance that is not named goes on as before.

    `gateways` (host:port) are where to report and to park from now on; none: where it was said before.
    """

    version: int
    instances: Dict[str, Want]
    stop_job: bool
    gateways: Tuple[str, ...] = ()


def parse_desired(data: bytes, job: str) -> Desired:
    """Read the document; raise `JobRefused` with a sentence if it is not one for this job."""
    try:
        fields = Fields(json.loads(data.decode("utf-8")), "")
    except (ValueError, RecursionError) as error:
        raise JobRefused(f"it is not JSON: {error}.") from error
    check_schema(fields.raw("schema"))
    if fields.text("job") != job:
        raise JobRefused(f"it is for the job {fields.text('job')[:80]}.")
    instances = fields.object("instances")
    wants = {name: instances.object(name) for name in instances.names()}
    return Desired(
        version=int(fields.number("version")),
        instances={
            name: Want(each.choice("want", (SERVE, DRAIN, STOP)), each.maybe_number("within_s"))
            for name, each in wants.items()
        },
        stop_job=fields.raw("stop_job") is True,
        gateways=tuple(text for text in fields.texts("gateways") if ADDRESS.match(text)),
    )


class DesiredFile:
    """desired.json in the run directory, looked at without opening it unless it has changed."""

    def __init__(self, run_dir: str) -> None:
        self.path = os.path.join(run_dir, DESIRED)
        self._seen: Optional[Tuple[int, int, int]] = None

    def poll(self) -> Optional[bytes]:
        """Give the content if the file was written since the last look, else None."""
        try:
            state = os.stat(self.path)
            seen = (state.st_mtime_ns, state.st_size, state.st_ino)
            if seen == self._seen:
                return None
            with open(self.path, "rb") as file:
                data = file.read(MAX_BYTES)
        except OSError:
            return None
        self._seen = seen
        return data
