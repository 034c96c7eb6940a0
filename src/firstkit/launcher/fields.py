# SPDX-License-Identifier: Apache-2.0
"""A document's values, asked for by name and kind; what is not as it should be is refused in one sentence."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional, Tuple, cast

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


class JobRefused(Exception):
    """job.json cannot be followed; the message is one sentence that names the key."""


class Fields:
    """One JSON object, whose values are asked for by name and kind; every refusal names the full path of the key."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise JobRefused(f"{path or 'the document'} must be an object.")
        self._values = cast("Dict[str, Any]", value)
        self._path = path

    def at(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def raw(self, key: str) -> Any:
        return self._values.get(key)

    def names(self) -> List[str]:
        return list(self._values)

    def text(self, key: str, default: Optional[str] = None) -> str:
        value = self._values.get(key, default)
        if not isinstance(value, str) or "\0" in value:
            raise JobRefused(f"{self.at(key)} must be a text.")
        return value

    def maybe_text(self, key: str) -> Optional[str]:
        return None if self._values.get(key) is None else self.text(key)

    def name(self, key: str) -> str:
        value = self.text(key)
        if not _NAME.match(value):
            raise JobRefused(f"{self.at(key)} must be a name of letters, digits, '.', '_' and '-', not {value[:80]!r}.")
        return value

    def path(self, key: str) -> str:
        value = self.text(key)
        if not value.startswith("/") or any(character <= " " or character == "\x7f" for character in value):
            raise JobRefused(f"{self.at(key)} must be an HTTP path that begins with '/'.")
        return value

    def number(self, key: str, default: Optional[float] = None, *, least: float = 0.0) -> float:
        value = self._values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= 2**53:
            raise JobRefused(f"{self.at(key)} must be a number of {least:g} or more.")
        return float(value)

    def maybe_number(self, key: str) -> Optional[float]:
        return None if self._values.get(key) is None else self.number(key)

    def items(self, key: str) -> List[Any]:
        value = self._values.get(key, [])
        if not isinstance(value, list):
            raise JobRefused(f"{self.at(key)} must be a list.")
        return cast("List[Any]", value)

    def texts(self, key: str) -> Tuple[str, ...]:
        values = self.items(key)
        if not all(isinstance(value, str) and "\0" not in value for value in values):
            raise JobRefused(f"{self.at(key)} must be a list of texts.")
        return tuple(values)

    def paths(self, key: str) -> Tuple[str, ...]:
        return tuple(Fields({key: value}, self._path).path(key) for value in self.texts(key))

    def objects(self, key: str) -> List[Fields]:
        return [Fields(value, f"{self.at(key)}[{number}]") for number, value in enumerate(self.items(key))]

    def object(self, key: str) -> Fields:
        return Fields(self._values.get(key), self.at(key))

    def choice(self, key: str, choices: Tuple[str, ...], default: Optional[str] = None) -> str:
        value = self.text(key, default)
        if value not in choices:
            raise JobRefused(f"{self.at(key)} must be one of {', '.join(choices)}, not {value[:80]!r}.")
        return value
