# SPDX-License-Identifier: Apache-2.0
"""Records of core to JSON and back: what a newer version added is ignored, what an older one lacked is the default."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any, Generic, TypeVar, cast

import msgspec

from firstkit.core.errors import InternalError
from firstkit.core.instance.record import Instance
from firstkit.core.job.record import Job
from firstkit.core.principal import Principal
from firstkit.core.request import AttemptRecord
from firstkit.core.topology import ModelStatus, Route, Snapshot
from firstkit.ports.store import Demand, StartRow

_T = TypeVar("_T")
_BIGGEST = 2**63 - 1
_ENCODER = msgspec.json.Encoder(order="deterministic")


class Form(Generic[_T]):
    """How one kind of record is written as JSON and read again."""

    def __init__(self, kind: Any) -> None:
        self._name = str(getattr(kind, "__name__", kind))
        self._decoder: msgspec.json.Decoder[_T] = msgspec.json.Decoder(kind)

    def dump(self, record: _T) -> str:
        """Write one record as JSON text."""
        return self.dump_bytes(record).decode()

    def dump_bytes(self, record: _T) -> bytes:
        """Write one record as JSON bytes; half a character (of a header that is not UTF-8) becomes a question mark."""
        try:
            return _ENCODER.encode(record)
        except UnicodeEncodeError:
            return _ENCODER.encode(_printable(msgspec.to_builtins(record)))

    def load(self, text: str | bytes) -> _T:
        """Read a record; InternalError when it is none (a damaged row, or a word this version does not know)."""
        try:
            return self._decoder.decode(text)
        except msgspec.MsgspecError as error:
            raise InternalError(
                f"the store holds a {self._name} that this version cannot read ({error}); update firstkit here",
                code="store_unreadable",
            ) from error


JOB: Form[Job] = Form(Job)
INSTANCE: Form[Instance] = Form(Instance)
SNAPSHOT: Form[Snapshot] = Form(Snapshot)
PRINCIPAL: Form[Principal] = Form(Principal)
ATTEMPT: Form[AttemptRecord] = Form(AttemptRecord)
START: Form[StartRow] = Form(StartRow)
DEMAND: Form[tuple[Demand, ...]] = Form(tuple[Demand, ...])
NUMBERS: Form[dict[str, int]] = Form(dict[str, int])
_ROUTE: Form[Route] = Form(Route)
_STATUS: Form[ModelStatus] = Form(ModelStatus)
_FIELDS: Form[dict[str, msgspec.Raw]] = Form(dict[str, msgspec.Raw])
_ITEMS: Form[list[msgspec.Raw]] = Form(list[msgspec.Raw])


def load_snapshot(document: bytes) -> Snapshot:
    """Read a snapshot; routes and models that this version cannot read (a reason added since) are left out.

    A gateway is updated after the controller, and should not stop at the first new word.
    """
    try:
        return SNAPSHOT.load(document)
    except InternalError:
        fields = _FIELDS.load(document)
        routes, models = fields.pop("routes", None), fields.pop("models", None)
        rest = SNAPSHOT.load(_ENCODER.encode(fields))
        return replace(rest, routes=_readable(_ROUTE, routes), models=_readable(_STATUS, models))


def _readable(form: Form[_T], items: msgspec.Raw | None) -> tuple[_T, ...]:
    found: list[_T] = []
    for item in _ITEMS.load(bytes(items)) if items is not None else ():
        with contextlib.suppress(InternalError):
            found.append(form.load(bytes(item)))
    return tuple(found)


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value).items()
        return {_printable(key): _printable(item) for key, item in items}
    if isinstance(value, list | tuple):
        return [_printable(item) for item in cast("list[Any]", value)]
    return value


def column_text(text: str) -> str:
    """Make a text fit for a column: PostgreSQL stores no NUL, and a client may write one into a model's name."""
    if text.isascii() and "\x00" not in text:
        return text
    return text.encode(errors="replace").decode().replace("\x00", "\ufffd")


def column_count(count: int | None) -> int | None:
    """Make a count fit for a 64-bit column, whatever an engine claims."""
    return None if count is None else max(0, min(count, _BIGGEST))
