# SPDX-License-Identifier: Apache-2.0
"""JSON of the documents between controller and launcher: job.json, status, desired (schema 1).

A reader takes this schema and the one before it, since a running job carries last month's launcher. Unknown keys are
ignored.
"""

from __future__ import annotations

import json
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from firstkit.core.control import Desired, JobDocument, Status
from firstkit.core.errors import InvalidRequest

SCHEMA = 1
OLDEST = 1
_STATUS: TypeAdapter[Status] = TypeAdapter(Status)
_JOB: TypeAdapter[JobDocument] = TypeAdapter(JobDocument)
_DESIRED: TypeAdapter[Desired] = TypeAdapter(Desired)


class JsonDocuments:
    """Implements `ControlDocuments`."""

    def read_status(self, data: bytes) -> Status:
        """Read a status; see `decode_status`."""
        return decode_status(data)

    def write_job(self, job: JobDocument) -> bytes:
        """Write job.json; `start` and `end` of a progress mark are called `from` and `to` there."""
        document = _JOB.dump_python(job, mode="json")
        for instance in document["instances"]:
            marks = instance["engine"]["progress"]
            instance["engine"]["progress"] = [
                {"match": mark["match"], "from": mark["start"], "to": mark["end"], "text": mark["text"]}
                for mark in marks
            ]
        return _line(document)

    def write_desired(self, desired: Desired) -> bytes:
        """Write the desired document."""
        return _line(_DESIRED.dump_python(desired, mode="json"))


def decode_status(data: bytes) -> Status:
    """Read a status; raises InvalidRequest with a sentence that names the first thing wrong, never its content."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidRequest("status: not JSON", code="invalid_status") from None
    schema = cast("dict[str, Any]", document).get("schema") if isinstance(document, dict) else None
    if not isinstance(schema, int) or not OLDEST <= schema <= SCHEMA:
        raise InvalidRequest(
            f"status: schema {schema!r} is not one this version reads ({OLDEST} to {SCHEMA})", code="invalid_status"
        )
    try:
        status = _STATUS.validate_python(document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise InvalidRequest(f"status: {where}: {first['msg']}", code="invalid_status") from None
    if not 0 <= status.seq < 2**63:
        raise InvalidRequest("status: seq: no count of reports", code="invalid_status")
    return status


def _line(document: dict[str, Any]) -> bytes:
    """Write a document as one line."""
    return json.dumps({"schema": SCHEMA, **document}, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
