# SPDX-License-Identifier: Apache-2.0
"""Find the fields that matter in a multipart form (RFC 7578); file parts are skipped by searching for the boundary."""

from __future__ import annotations

import re
from dataclasses import dataclass

from firstkit.core.errors import InvalidRequest
from firstkit.dataplane.peek import Buffer, Peeker, Places, Read

_BOUNDARY = re.compile(
    rb'multipart/form-data\s*(?:;[^;"]*)*?;\s*boundary=(?:"([^"\r\n]{1,70})"|([^\s;"]{1,70}))\s*(?:;.*)?', re.IGNORECASE
)
_DISPOSITION = re.compile(rb"\r\ncontent-disposition:[ \t]*form-data[ \t]*;([^\r\n]*)\r\n", re.IGNORECASE)
_NAME = re.compile(rb'(?:^|;)[ \t]*name[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))', re.IGNORECASE)
_PART_HEAD_LIMIT = 8 * 1024
_PARTS_LIMIT = 1000
_FIELD_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field that is no file: its name, and where its value lies."""

    name: str
    span: tuple[int, int]


def read_form(body: Buffer, content_type: bytes, peeker: Peeker) -> Read:
    """Read the model, `stream` and `n` of a form; raises InvalidRequest."""
    fields = _fields(body, content_type)
    peeker.check_names(field.name for field in fields)
    values: dict[str, Field] = {}
    for field in fields:
        if field.name in {"model", "stream", "n"}:
            if field.name in values:
                raise InvalidRequest(
                    f"The field {field.name} is given twice.", code="ambiguous_field", param=field.name
                )
            values[field.name] = field
    model = values.get("model")
    if model is None or model.span[0] == model.span[1]:
        raise InvalidRequest(
            "The form field model is missing: name the model to use.", code="missing_model", param="model"
        )
    try:
        name = bytes(body[slice(*model.span)]).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest("The form field model is not UTF-8.", code="invalid_encoding", param="model") from None
    stream = bytes(body[slice(*values["stream"].span)]).strip().lower() if "stream" in values else b"false"
    choices = _number(bytes(body[slice(*values["n"].span)])) if "n" in values else 1
    peeker.check_choices(choices)
    streams = stream in {b"true", b"1", b"on", b"yes", b"t", b"y"}
    read = Read(model=name, stream=streams, choices=choices, gives_stream_options=True)
    read.places = Places(model=model.span, opening=0)
    return read


def _number(text: bytes) -> int:
    text = text.strip()
    if not text.isdigit() or len(text) > 9:
        raise InvalidRequest("The form field n must be a number.", code="invalid_type", param="n")
    return int(text)


def _fields(body: Buffer, content_type: bytes) -> list[Field]:
    """List the fields in order."""
    match = _BOUNDARY.fullmatch(content_type.strip())
    if match is None:
        raise InvalidRequest(
            "This route takes a multipart form: Content-Type multipart/form-data with a boundary.",
            code="unsupported_media_type",
        )
    if not len(body):
        raise InvalidRequest("The body is empty; a multipart form was expected.", code="invalid_form")
    delimiter = b"--" + (match[1] or match[2])
    if bytes(body[: len(delimiter)]) != delimiter:
        raise InvalidRequest("The form does not begin with its boundary.", code="invalid_form")
    found: list[Field] = []
    at = len(delimiter)
    for _ in range(_PARTS_LIMIT):
        if bytes(body[at : at + 2]) == b"--":
            return found
        head_end = body.find(b"\r\n\r\n", at, at + _PART_HEAD_LIMIT)
        end = body.find(b"\r\n" + delimiter, max(at, head_end + 2)) if head_end >= 0 else -1
        if bytes(body[at : at + 2]) != b"\r\n" or end < 0:
            raise InvalidRequest("The form is cut off or has a part without end.", code="invalid_form")
        field = _field(bytes(body[at : head_end + 2]), head_end + 4, end)
        if field is not None:
            found.append(field)
        at = end + 2 + len(delimiter)
    raise InvalidRequest(f"The form has more than {_PARTS_LIMIT} parts.", code="invalid_form")


def _field(head: bytes, start: int, end: int) -> Field | None:
    dispositions = _DISPOSITION.findall(head)
    if len(dispositions) != 1:
        raise InvalidRequest("A part of the form does not say which field it is.", code="invalid_form")
    names = _NAME.findall(dispositions[0])
    if len(names) != 1:
        raise InvalidRequest("A part of the form does not name its field, or names two.", code="invalid_form")
    name = (names[0][0] or names[0][1]).decode("utf-8", errors="replace")
    if name in {"model", "stream", "n"}:
        if b"filename" in dispositions[0].lower() or end - start > _FIELD_LIMIT:
            raise InvalidRequest(f"The form field {name} must be plain text.", code="invalid_form", param=name)
        if b"content-transfer-encoding" in head.lower():
            raise InvalidRequest("Content-Transfer-Encoding is not allowed in a form.", code="invalid_form", param=name)
    return Field(name=name, span=(start, max(start, end)))
