# SPDX-License-Identifier: Apache-2.0
"""Read the few top-level fields of a JSON request body, with the places where bytes are spliced; the rest is not touched."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from dataclasses import dataclass
from mmap import mmap
from typing import Any, cast

import msgspec

from firstkit.core.errors import InvalidRequest
from firstkit.core.request import Peek

Buffer = bytes | mmap
"""A body in memory, or one that was spilled to a file."""

_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_DEPTH = 62


def _nested(depth: int) -> bytes:
    pattern = rb'(?:[^\[\]{}"]++|' + _STRING + rb")*+"
    for _ in range(depth):
        pattern = rb'(?:[^\[\]{}"]++|' + _STRING + rb"|[\[{]" + pattern + rb"[\]}])*+"
    return pattern


_WS = rb"[ \t\r\n]*+"
_MEMBER = re.compile(
    _WS + b"(" + _STRING + b")" + _WS + b":" + _WS
    + b"(?:" + _STRING + rb"|[\[{]" + _nested(_DEPTH) + rb"[\]}]|[^ \t\r\n,\[\]{}" + b'"]++)' + _WS + b"([,}])",
    re.DOTALL,
)  # fmt: skip
"""One member of the top-level object: key, any value up to a depth, and what follows. Possessive: linear time."""
_OPENING = re.compile(_WS + rb"\{")
_VALUE = re.compile(_WS + b":" + _WS + b"(" + _STRING + b")", re.DOTALL)

_GUARDED = ("model", "stream", "stream_options", "n", "best_of")
"""Fields that decide something here and must not be given twice, or gateway and engine could read different ones."""
_SUSPICIOUS = tuple(b'"%b"' % name.encode() for name in _GUARDED)
_LETTER_ESCAPES = (b"\\u006", b"\\u007", b"\\u005f", b"\\u005F")
"""Letters of our field names written as escapes, which no encoder does by itself."""

_BOMS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

USAGE_SPLICE = b'"stream_options":{"include_usage":true},'


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What was read: the fields, and where the object opens (splices go right behind it)."""

    peek: Peek
    opening: int
    gives_stream_options: bool


class Peeker:
    """Reads bodies; made once for a set of reserved fields."""

    def __init__(self, *, reserved: Iterable[str], choices_limit: int) -> None:
        self._reserved = tuple(sorted(set(reserved) - set(_GUARDED)))
        self._choices_limit = choices_limit
        unset = msgspec.UnsetType
        fields: list[tuple[str, Any, Any]] = [
            ("model", str | unset, msgspec.UNSET),
            ("stream", bool | None, None),
            ("n", int | None, None),
            ("best_of", int | None, None),
            ("stream_options", msgspec.Raw | unset, msgspec.UNSET),
            ("max_tokens", msgspec.Raw | unset, msgspec.UNSET),
            ("max_completion_tokens", msgspec.Raw | unset, msgspec.UNSET),
            ("max_output_tokens", msgspec.Raw | unset, msgspec.UNSET),
        ]
        renamed = {f"reserved_{index}": name for index, name in enumerate(self._reserved)}
        fields += [(field, msgspec.Raw | unset, msgspec.UNSET) for field in renamed]
        shape = msgspec.defstruct("RequestFields", fields, rename=renamed)
        self._decoder = msgspec.json.Decoder(shape)
        self._reserved_fields = tuple(renamed.items())

    def read(self, body: Buffer) -> Read:
        """Read a body; raises InvalidRequest with what is wrong."""
        try:
            found: Any = self._decoder.decode(body)
        except msgspec.ValidationError as error:
            raise _wrong_type(str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _not_json(body, error) from None
        _check_text(body)
        if found.model is msgspec.UNSET or not found.model:
            raise InvalidRequest("The field model is missing: name the model to use.", code="missing_model", param="model")
        for field, name in self._reserved_fields:
            if getattr(found, field) is not msgspec.UNSET:
                raise reserved_field(name)
        choices = max(1 if found.n is None else found.n, 1 if found.best_of is None else found.best_of)
        self.check_choices(choices)
        opening = _OPENING.match(body)
        if opening is None:
            raise InvalidRequest("The body must be a JSON object.", code="invalid_json")
        if _may_repeat(body):
            _refuse_repeated(body, opening.end())
        peek = Peek(
            model=found.model,
            model_span=_model_span(body),
            stream=found.stream is True,
            include_usage=_include_usage(found.stream_options),
            max_tokens=_limit(found.max_completion_tokens, found.max_tokens, found.max_output_tokens),
            choices=choices,
        )
        given = found.stream_options is not msgspec.UNSET
        return Read(peek=peek, opening=opening.end(), gives_stream_options=given)

    def check_choices(self, choices: int) -> None:
        """Refuse more answers to one request than are allowed."""
        if choices > self._choices_limit:
            raise InvalidRequest(
                f"n and best_of may be {self._choices_limit} at most here.", code="too_many_choices", param="n"
            )

    def check_names(self, names: Iterable[str]) -> None:
        """Refuse reserved fields among the names of a form's fields."""
        for name in names:
            if name in self._reserved:
                raise reserved_field(name)


def reserved_field(name: str) -> InvalidRequest:
    """Build the error for a field that is not the client's to set."""
    return InvalidRequest(
        f"The field {name} is set by the service and cannot be given in a request.", code="reserved_field", param=name
    )


def _wrong_type(message: str) -> InvalidRequest:
    match = re.search(r"\$\.(\w+)", message)
    param = match[1] if match else None
    what = message.partition(" - at ")[0]
    if param is None:
        return InvalidRequest("The body must be a JSON object.", code="invalid_json")
    return InvalidRequest(f"The field {param} has the wrong type: {what[:1].lower()}{what[1:]}.", code="invalid_type", param=param)


def _not_json(body: Buffer, error: Exception) -> InvalidRequest:
    start = bytes(body[:4])
    if start.startswith(_BOMS):
        return InvalidRequest("The body begins with a byte order mark; send plain UTF-8.", code="invalid_encoding")
    if b"\0" in start:
        return InvalidRequest("The body is UTF-16 or UTF-32; send UTF-8.", code="invalid_encoding")
    if isinstance(error, UnicodeDecodeError):
        return InvalidRequest("The body is not UTF-8.", code="invalid_encoding")
    if isinstance(error, RecursionError):
        return InvalidRequest("The body is nested too deeply.", code="invalid_json")
    if not start:
        return InvalidRequest("The body is empty; a JSON object was expected.", code="invalid_json")
    return InvalidRequest(f"The body is not JSON: {error}.", code="invalid_json")


def _check_text(body: Buffer) -> None:
    """Refuse what is not UTF-8: an engine would guess another encoding, or fail late."""
    try:
        if isinstance(body, bytes):
            if not body.isascii():
                codecs.utf_8_decode(body, "strict", True)
            return
        decoder = codecs.getincrementaldecoder("utf-8")("strict")
        for at in range(0, len(body), 1 << 20):
            decoder.decode(body[at : at + (1 << 20)])
        decoder.decode(b"", True)
    except UnicodeDecodeError:
        raise InvalidRequest("The body is not UTF-8.", code="invalid_encoding") from None


def _may_repeat(body: Buffer) -> bool:
    """Tell quickly whether a guarded field could be there twice; the answer no is certain, yes is not."""
    find = body.find
    for quoted in _SUSPICIOUS:
        at = find(quoted)
        if at >= 0 and find(quoted, at + len(quoted)) >= 0:
            return True
    return any(find(escape) >= 0 for escape in _LETTER_ESCAPES) if find(b"\\u00") >= 0 else False


def _refuse_repeated(body: Buffer, at: int) -> None:
    """Walk the top-level object and refuse a guarded field that is given twice or whose name is spelt with escapes."""
    seen: set[bytes] = set()
    while (match := _MEMBER.match(body, at)) is not None:
        key = match[1]
        if b"\\" in key:
            name = cast("str", msgspec.json.decode(key))
            if name in _GUARDED:
                raise InvalidRequest(f"The name of the field {name} is written with escapes.", code="ambiguous_field", param=name)
        elif key in _SUSPICIOUS:
            if key in seen:
                name = key[1:-1].decode()
                raise InvalidRequest(f"The field {name} is given twice.", code="ambiguous_field", param=name)
            seen.add(key)
        at = match.end()
        if match[2] == b"}":
            return
    if body[at : at + 1] != b"}" and not re.compile(_WS + b"}").match(body, at):
        raise InvalidRequest(f"The body is nested more than {_DEPTH} levels deep.", code="invalid_json")


def _model_span(body: Buffer) -> tuple[int, int]:
    """Find the model's string among the top-level members (by now it is certain that there is exactly one)."""
    at = body.find(b'"model"')
    match = _VALUE.match(body, at + 7)
    if match is not None and body.find(b'"model"', at + 7) < 0:
        return match.span(1)
    opening = _OPENING.match(body)
    position = opening.end() if opening else 0
    while (member := _MEMBER.match(body, position)) is not None:
        if member[1] == b'"model"' and (value := _VALUE.match(body, member.end(1))) is not None:
            return value.span(1)
        position = member.end()
    raise InvalidRequest("The field model cannot be found in the body.", code="invalid_json", param="model")


def _include_usage(raw: Any) -> bool | None:
    if raw is msgspec.UNSET:
        return None
    try:
        options = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return None
    return bool(cast("dict[str, Any]", options).get("include_usage")) if isinstance(options, dict) else None


def _limit(*given: Any) -> int | None:
    for raw in given:
        if raw is not msgspec.UNSET:
            try:
                value = msgspec.json.decode(raw, type=int)
            except (msgspec.DecodeError, msgspec.ValidationError):
                continue
            if value >= 0:
                return value
    return None
