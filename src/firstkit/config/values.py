# SPDX-License-Identifier: Apache-2.0
"""Values that are written as text: durations, sizes, addresses, ranges of ports, names."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, PlainValidator, WithJsonSchema

from firstkit.core.ids import NAME
from firstkit.core.nearest import nearest
from firstkit.core.settings import Listen
from firstkit.core.units import parse_duration_s, parse_size_bytes

NEVER = "never"
MAX_SOCKET_PATH = 107
"""Longest path of a Unix socket, in bytes (unix(7): sun_path holds 108 with the closing NUL)."""
_UNITS = ("milliseconds", "seconds", "minutes", "hours", "days", "ms", "sec", "min", "hrs")
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """How a type is called in the reference, and how its default is written there."""

    name: str
    write: Callable[[Any], str] = str
    none: str = ""
    """What is written for None."""


def _given(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    return "a list" if isinstance(value, list) else "a mapping" if isinstance(value, dict) else str(value)


def _duration(value: object) -> float:
    if not isinstance(value, (int, float, str)) or isinstance(value, bool):
        raise ValueError(f"{_given(value)} is no duration; write for example 30s, 15m, 2h, 1h30m or 12:00:00")  # noqa: TRY004 pydantic takes this one alone
    try:
        seconds = parse_duration_s(value)
    except ValueError as error:
        match = re.fullmatch(r"\s*([\d.]+)\s*([A-Za-z]+)\s*", str(value))
        meant = nearest(match[2], _UNITS, most=1) if match else ()
        raise ValueError(
            f"{error}; did you mean `{match[1]}{_SHORT[meant[0]]}`?" if match and meant else str(error)
        ) from None
    if seconds > _LONGEST_S:
        raise ValueError(f"{_given(value)} is longer than ten years")
    return seconds


_SHORT = {
    "milliseconds": "ms",
    "ms": "ms",
    "seconds": "s",
    "sec": "s",
    "minutes": "m",
    "min": "m",
    "hours": "h",
    "hrs": "h",
    "days": "d",
}
_LONGEST_S = 10 * 366 * 86400.0


def _positive_duration(value: object) -> float:
    seconds = _duration(value)
    if seconds == 0:
        raise ValueError("must be longer than 0")
    return seconds


def _duration_or_never(value: object) -> float | None:
    if value == NEVER:
        return None
    seconds = _duration(value)
    if seconds == 0:
        raise ValueError(f"must be longer than 0; write a duration such as 10m, or {NEVER}")
    return seconds


def _size(value: object) -> int:
    if not isinstance(value, (int, str)) or isinstance(value, bool):
        raise ValueError(f"{_given(value)} is no size; write for example 64MB, 512KiB or 2G")  # noqa: TRY004 pydantic takes this one alone
    return parse_size_bytes(value)


def write_duration(seconds: float | None) -> str:
    """Write a duration as it may stand in the file: exactly, in its largest units."""
    if seconds is None:
        return NEVER
    if seconds != int(seconds):
        return f"{seconds:g}s"
    rest, text = int(seconds), ""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def write_size(count: int) -> str:
    """Write a size as it may stand in the file: exactly, in the largest unit that divides it."""
    for base, units in ((1000, ("TB", "GB", "MB", "kB")), (1024, ("TiB", "GiB", "MiB", "KiB"))):
        for power, unit in enumerate(units):
            length = base ** (4 - power)
            if count and count % length == 0:
                return f"{count // length}{unit}"
    return str(count)


_DURATION_SCHEMA = WithJsonSchema(
    {
        "anyOf": [{"type": "number", "minimum": 0}, {"type": "string"}],
        "description": "a duration: seconds, or 30s, 15m, 2h, 1h30m, 12:00:00",
    },
)
_WRITE_DURATION = PlainSerializer(write_duration, return_type=str, when_used="json")
Duration = Annotated[
    float, PlainValidator(_duration), _DURATION_SCHEMA, _WRITE_DURATION, Shown(name="duration", write=write_duration)
]
PositiveDuration = Annotated[
    float,
    PlainValidator(_positive_duration),
    _DURATION_SCHEMA,
    _WRITE_DURATION,
    Shown(name="duration", write=write_duration),
]
DurationOrNever = Annotated[
    float | None,
    PlainValidator(_duration_or_never),
    _DURATION_SCHEMA,
    _WRITE_DURATION,
    Shown(name=f"duration or `{NEVER}`", write=write_duration, none=NEVER),
]
Size = Annotated[
    int,
    PlainValidator(_size),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}],
            "description": "a size: bytes, or 64MB (10^6), 64MiB (2^20), 2G",
        },
    ),
    PlainSerializer(write_size, return_type=str, when_used="json"),
    Shown(name="size", write=write_size),
]

# ---------------------------------------------------------------------------------------------------------- addresses

_LISTEN_EXPECTED = "write an address and a port, such as 127.0.0.1:8000, or unix:/path/of/a/socket"


def parse_listen(value: object) -> Listen:
    """Read `host:port`, `[v6]:port` or `unix:/path`; raises ValueError with a sentence."""
    if isinstance(value, Listen):
        return value
    if not isinstance(value, str):
        port = isinstance(value, int) and not isinstance(value, bool)
        meant = f"; did you mean `127.0.0.1:{value}`?" if port else ""
        problem = f"{_given(value)} is no address to listen on; {_LISTEN_EXPECTED}{meant}"
        raise ValueError(problem)  # noqa: TRY004 pydantic takes this one alone
    text = value.strip()
    if text.startswith("unix:"):
        return _unix(text.removeprefix("unix:").removeprefix("//"))
    if text.startswith("/"):
        raise ValueError(f"{text} is a path; write unix:{text} for a Unix socket")
    if "://" in text:
        raise ValueError(f"{text} is a URL; {_LISTEN_EXPECTED}")
    host, colon, port = text.rpartition(":")
    if not colon and _HOST_NAME.fullmatch(text):
        meant = f"127.0.0.1:{text}" if text.isdigit() else f"{text}:8000"
        raise ValueError(f"{text!r} is no address to listen on; {_LISTEN_EXPECTED}; did you mean `{meant}`?")
    if not colon or not re.fullmatch(r"\d{1,5}", port) or int(port) > 65535:
        raise ValueError(f"{text!r} is no address to listen on; {_LISTEN_EXPECTED}")
    if not host:
        raise ValueError(
            f"{text!r} names no address; write 127.0.0.1{text} for this machine alone, 0.0.0.0{text} for all"
        )
    return Listen(host=read_host(host), port=int(port))


def _unix(path: str) -> Listen:
    if not path.startswith("/"):
        raise ValueError(f"unix:{path} needs an absolute path")
    if len(path.encode()) > MAX_SOCKET_PATH:
        raise ValueError(f"the socket's path is longer than the {MAX_SOCKET_PATH} bytes that Linux allows")
    return Listen(host="", port=0, path=path)


def read_host(text: str) -> str:
    """Read a host's name or address, IPv6 in brackets; returned without them."""
    if text.startswith("[") and text.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            raise ValueError(f"{text} is no IPv6 address") from None
    if ":" in text:
        raise ValueError(f"{text} holds several colons; write an IPv6 address in brackets, such as [::1]:8000")
    if re.fullmatch(r"[\d.]+", text):
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError:
            raise ValueError(f"{text} is no IPv4 address") from None
    if not _HOST_NAME.fullmatch(text):
        raise ValueError(f"{text!r} is no host name")
    return text


def write_listen(listen: Listen) -> str:
    """Write an address as it may stand in the file."""
    if listen.path:
        return f"unix:{listen.path}"
    return f"[{listen.host}]:{listen.port}" if ":" in listen.host else f"{listen.host}:{listen.port}"


def _write_address(value: Listen | str) -> str:
    return value if isinstance(value, str) else write_listen(value)


def _admin(value: object) -> Listen | str:
    if value == "unix" or value == "none":  # noqa: PLR1714 a list is no member of a set
        return str(value)
    try:
        return parse_listen(value)
    except ValueError as error:
        raise ValueError(f"{error}; or `unix` for a socket in the state folder, `none` for nothing") from None


_LISTEN_SCHEMA = WithJsonSchema({"type": "string", "pattern": r"^(unix:/.+|.+:\d{1,5})$"})
WRITE_LISTEN = PlainSerializer(_write_address, return_type=str, when_used="json")
Address = Annotated[
    Listen, PlainValidator(parse_listen), _LISTEN_SCHEMA, WRITE_LISTEN, Shown(name="address", write=write_listen)
]

AdminAddress = Annotated[
    Listen | str,
    PlainValidator(_admin),
    WithJsonSchema({"type": "string", "pattern": r"^(unix|none|unix:/.+|.+:\d{1,5})$"}),
    WRITE_LISTEN,
    Shown(name="address, `unix` or `none`", write=_write_address),
]


def _ports(value: object) -> tuple[int, int]:
    expected = "write the first and the last port, such as 42000-42099"
    if not isinstance(value, str) or not (match := re.fullmatch(r"\s*(\d{1,6})\s*-\s*(\d{1,6})\s*", value)):
        raise ValueError(f"{_given(value)} is no range of ports; {expected}")
    first, last = int(match[1]), int(match[2])
    if first > last:
        raise ValueError(f"the range {first}-{last} is reversed; did you mean `{last}-{first}`?")
    if first < 1024 or last > 65535:
        raise ValueError(f"the range {first}-{last} leaves the ports that a user may take, 1024-65535")
    return first, last


Ports = Annotated[
    tuple[int, int],
    PlainValidator(_ports),
    WithJsonSchema({"type": "string", "pattern": r"^\d+-\d+$"}),
    Shown(name="range of ports", write=lambda ports: f"{ports[0]}-{ports[1]}"),
]


def _origin(value: str) -> str:
    if value == "*":
        return value
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError(f"{value!r} is no origin; write for example https://chat.example.org") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None:
        raise ValueError(f"{value!r} is no origin; write for example https://chat.example.org")
    bare = f"{parts.scheme}://{parts.hostname}" + (f":{port}" if port is not None else "")
    if value.lower() != bare:
        raise ValueError(f"{value!r} is more than an origin; did you mean `{bare}`?")
    return bare


Origin = Annotated[str, AfterValidator(_origin)]


def _bind(value: str) -> str:
    source, *rest = value.split(":")
    mode = rest.pop() if rest and rest[-1] in {"ro", "rw"} else "ro"
    target = rest.pop() if rest else source
    paths = (source, target)
    if rest or not all(path.startswith("/") and path != "/" and "," not in path for path in paths):
        raise ValueError(
            f"{value!r} is no bind; write /path, /path:/inside or either with :rw behind it to be written to"
        )
    return f"{source}:{target}:{mode}"


Bind = Annotated[str, AfterValidator(_bind)]

# -------------------------------------------------------------------------------------------------------------- names

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]*(/[A-Za-z0-9][A-Za-z0-9._:@+-]*)*")


def _name(value: str) -> str:
    if NAME.fullmatch(value):
        return value
    tame = re.sub(r"[^a-z0-9-]+", "-", value.lower()).strip("-").lstrip("0123456789-")[:63]
    hint = f"; did you mean `{tame}`?" if NAME.fullmatch(tame) else ""
    raise ValueError(
        f"{value!r} is no name; it may hold small letters, digits and hyphens, a letter first, up to 63{hint}"
    )


def _model_name(value: str) -> str:
    if not _MODEL_NAME.fullmatch(value) or len(value) > 200:
        raise ValueError(
            f"{value!r} is no model name; it may hold letters, digits and . _ - : @ + in parts joined by /"
        )
    return value


Name = Annotated[str, AfterValidator(_name)]
ModelName = Annotated[str, AfterValidator(_model_name)]


def _site_word(value: str) -> str:
    if not value or value.startswith("-") or not value.isprintable() or re.search(r"[\s\"'\\]", value):
        raise ValueError(f"{value!r} is no word for a scheduler; it holds no spaces or quotes, and no hyphen in front")
    return value


def _site_option(value: str) -> str:
    if not value.isprintable():
        raise ValueError(f"{value!r} is more than one line; write each option as an entry of its own")
    if not re.match(r"--?[A-Za-z]", value):
        raise ValueError(f"{value!r} is no option; write it as on the scheduler's own command line, hyphens included")
    return value


SiteWord = Annotated[str, AfterValidator(_site_word)]
"""A name that a scheduler knows: a partition, an account, a feature."""
SiteOption = Annotated[str, AfterValidator(_site_option)]
"""One whole option for a scheduler, such as `--licenses=matlab` or `-l filesystems=home`."""


def _empty_for_nothing(value: object) -> object:
    return {} if value is None else value


EmptyForNothing = BeforeValidator(_empty_for_nothing)
"""Takes `key:` with nothing behind it for an empty mapping."""


def _no_list_for_nothing(value: object) -> object:
    return [] if value is None else value


NoListForNothing = BeforeValidator(_no_list_for_nothing)
"""Takes `key:` with nothing behind it for an empty list."""
