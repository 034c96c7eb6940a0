# SPDX-License-Identifier: Apache-2.0
"""Read the few top-level fields of a JSON body, with the places where bytes are spliced; the rest is not touched."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from mmap import mmap
from typing import Any, Literal, cast

import msgspec

from firstkit.core.errors import InvalidRequest

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
_CLOSING = re.compile(_WS + rb"\}")
_VALUE = re.compile(_WS + b":" + _WS + b"(" + _STRING + b")", re.DOTALL)

_GUARDED = ("model", "stream", "stream_options", "n", "best_of")
"""Fields that decide something here and must not be given twice, or gateway and engine could read different ones."""
_QUOTED = frozenset(b'"%b"' % name.encode() for name in _GUARDED)
_ESCAPED = re.compile(rb'"[a-z_]{0,13}+\\u00[567]')
"""A string that begins like a field's name and goes on with a letter written as an escape, which no encoder does."""
_SUSPICIOUS = re.compile(rb'"(?:(model|stream|stream_options|n|best_of)"|[a-z_]{0,13}+\\u00[567])')
"""Either, in one pass: in the long bodies there are, quotes are far between."""
_SMALL = 4 * 1024
_MOST = ("max_tokens", "max_completion_tokens", "max_output_tokens")
"""How the three APIs bound an answer. Read to foresee how long it may take: nothing is refused for it here."""
_DIGITS = 9

_BOMS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

USAGE_SPLICE = b'"stream_options":{"include_usage":true},'


class Read:
    """What was read of a body; the places of splices are looked for when they are needed (`body` is kept till then)."""

    __slots__ = ("choices", "gives_stream_options", "max_tokens", "model", "places", "stream")

    def __init__(
        self, *, model: str, stream: bool, choices: int, gives_stream_options: bool, max_tokens: int | None = None
    ) -> None:
        self.model = model
        self.stream = stream
        self.choices = choices
        self.gives_stream_options = gives_stream_options
        self.max_tokens = max_tokens
        self.places: Places | None = None


class Places:
    """Where bytes are spliced: the model's value (quotes included in JSON), and right behind the object's opening."""

    __slots__ = ("model", "opening")

    def __init__(self, *, model: tuple[int, int], opening: int) -> None:
        self.model = model
        self.opening = opening


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
            *((name, msgspec.Raw | unset, msgspec.UNSET) for name in _MOST),
        ]
        # a reserved field may have no value at all, so that the decoder itself refuses it
        renamed = {f"reserved_{index}": name for index, name in enumerate(self._reserved)}
        fields += [(field, Literal["\0"] | unset, msgspec.UNSET) for field in renamed]
        shape = msgspec.defstruct("RequestFields", fields, rename=renamed)
        self._decode = msgspec.json.Decoder(shape).decode

    def read(self, body: Buffer) -> Read:
        """Read a body; raises InvalidRequest with what is wrong."""
        try:
            found: Any = self._decode(body)
        except msgspec.ValidationError as error:
            raise self._wrong_type(str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _not_json(body, error) from None
        if not (isinstance(body, bytes) and body.isascii()):
            _check_text(body)
        model = found.model
        if model is msgspec.UNSET or not model:
            raise InvalidRequest(
                "The field model is missing: name the model to use.", code="missing_model", param="model"
            )
        choices = found.n or 1
        if found.best_of is not None and found.best_of > choices:
            choices = found.best_of
        if choices > self._choices_limit:
            self.check_choices(choices)
        if _may_repeat(body):
            _refuse_repeated(body)
        read = Read(
            max_tokens=_most_tokens(found.max_tokens, found.max_completion_tokens, found.max_output_tokens),
            model=model,
            stream=found.stream is True,
            choices=choices,
            gives_stream_options=found.stream_options is not msgspec.UNSET,
        )
        if not isinstance(body, bytes):
            read.places = find_places(body)  # a spilled body is read in a thread, so all at once
        return read

    def _wrong_type(self, message: str) -> InvalidRequest:
        match = re.search(r"\$\.(\w+)", message)
        param = match[1] if match else None
        what = message.partition(" - at ")[0]
        if param is None:
            return InvalidRequest("The body must be a JSON object.", code="invalid_json")
        if param in self._reserved:
            return reserved_field(param)
        return InvalidRequest(
            f"The field {param} has the wrong type: {what[:1].lower()}{what[1:]}.", code="invalid_type", param=param
        )

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


def _most_tokens(*given: Any) -> int | None:
    """Read how many tokens are asked for at most; what is no number is the engine's to refuse."""
    most: int | None = None
    for raw in given:
        if raw is not msgspec.UNSET and len(raw) <= _DIGITS and (text := bytes(raw)).isdigit():
            most = int(text) if most is None else min(most, int(text))
    return most


def find_places(body: Buffer) -> Places:
    """Find where to splice in a body that `Peeker.read` has accepted."""
    opening = _OPENING.match(body)
    if opening is None:
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json")
    at = body.find(b'"model"')
    value = _VALUE.match(body, at + 7)
    if value is not None and body.find(b'"model"', at + 7) < 0:
        return Places(model=value.span(1), opening=opening.end())
    position = opening.end()
    while (member := _MEMBER.match(body, position)) is not None:
        if member[1] == b'"model"' and (value := _VALUE.match(body, member.end(1))) is not None:
            return Places(model=value.span(1), opening=opening.end())
        position = member.end()
    raise InvalidRequest("The field model cannot be found in the body.", code="invalid_json", param="model")


def reserved_field(name: str) -> InvalidRequest:
    """Build the error for a field that is not the client's to set."""
    return InvalidRequest(
        f"The field {name} is set by the service and cannot be given in a request.", code="reserved_field", param=name
    )


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
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    try:
        for at in range(0, len(body), 1 << 20):
            decoder.decode(body[at : at + (1 << 20)])
        decoder.decode(b"", True)
    except UnicodeDecodeError:
        raise InvalidRequest("The body is not UTF-8.", code="invalid_encoding") from None


def _may_repeat(body: Buffer) -> bool:
    """Tell quickly whether a guarded field could be there twice; the answer no is certain, yes is not."""
    if len(body) < _SMALL and isinstance(body, bytes):
        count = body.count
        return (
            count(b'"model"') > 1
            or count(b'"stream"') > 1
            or count(b'"n"') > 1
            or count(b'"stream_options"') > 1
            or count(b'"best_of"') > 1
            or (body.find(b"\\u00") >= 0 and _ESCAPED.search(body) is not None)
        )
    seen: set[bytes] = set()
    for match in _SUSPICIOUS.finditer(body):
        found = match[1]
        if found is None or found in seen:
            return True
        seen.add(found)
    return False


def _refuse_repeated(body: Buffer) -> None:
    """Walk the top-level object and refuse a guarded field that is given twice or whose name is spelt with escapes."""
    opening = _OPENING.match(body)
    at = opening.end() if opening is not None else 0
    seen: set[bytes] = set()
    while (match := _MEMBER.match(body, at)) is not None:
        key = match[1]
        if b"\\" in key:
            name = cast("str", msgspec.json.decode(key))
            if name in _GUARDED:
                raise InvalidRequest(
                    f"The name of the field {name} is written with escapes.", code="ambiguous_field", param=name
                )
        elif key in _QUOTED:
            if key in seen:
                name = key[1:-1].decode()
                raise InvalidRequest(f"The field {name} is given twice.", code="ambiguous_field", param=name)
            seen.add(key)
        at = match.end()
        if match[2] == b"}":
            return
    if _CLOSING.match(body, at) is None:
        raise InvalidRequest(f"The body is nested more than {_DEPTH} levels deep.", code="invalid_json")
