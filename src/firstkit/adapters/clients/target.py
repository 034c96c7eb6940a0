# SPDX-License-Identifier: Apache-2.0
"""Which installation a command means, and with which key: from options, the environment and the state folder."""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from firstkit.core.errors import ConfigError

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_DATA = Path(".first")
KEY_FILE = "api-key"
ADMIN_SOCKET = Path("run/admin.sock")
API_SOCKET = Path("run/api.sock")
ADDRESS_FILE = Path("run/public.json")
"""What a gateway leaves of where it listens: {"base_url": "http://…"}."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where to send requests. `socket` is a Unix socket to go through; `named` tells how the URL was found.

    `key` is not shown by repr.
    """

    base_url: str
    named: str
    key: str | None = field(default=None, repr=False)
    key_from: str = ""
    socket: Path | None = None

    @property
    def loopback(self) -> bool:
        """Tell whether requests stay on this machine, where no proxy may get between."""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or self.socket is not None

    @property
    def openai_url(self) -> str:
        """Return the URL that OpenAI clients want: with /v1 at the end."""
        return f"{self.base_url}/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the command line says: `url`, `key_file` and `data` where they were given there."""

    url: str | None = None
    key_file: Path | None = None
    data: Path | None = None


def public_target(asked: Asked, environ: Mapping[str, str]) -> Target:
    """Find the public URL and the caller's key.

    A key is never sent where it was not meant to go: one from OPENAI_API_KEY goes to OPENAI_BASE_URL, or anywhere when
    it is one of ours; one from a state folder goes to the service of that folder, or to this machine.
    """
    data = asked.data or Path(environ.get("FIRST_DATA") or DEFAULT_DATA)
    url, named = _public_url(asked, environ, data)
    base_url = _clean(url, named)
    key, key_from = _key(asked, environ, data=data, named=named, base_url=base_url)
    return Target(base_url=base_url, named=named, key=key, key_from=key_from)


def operator_target(asked: Asked, environ: Mapping[str, str]) -> Target:
    """Find the admin socket of a state folder, or else the URL that was given, with a key."""
    data = asked.data or Path(environ.get("FIRST_DATA") or DEFAULT_DATA)
    url_given = asked.url is not None or (
        asked.data is None and "FIRST_DATA" not in environ and "FIRST_BASE_URL" in environ
    )
    admin = data / ADMIN_SOCKET
    if not url_given and (admin.exists() or asked.data is not None):
        return Target(base_url="http://firstkit", named=f"the state folder {data}", socket=admin)
    return public_target(asked, environ)


def _public_url(asked: Asked, environ: Mapping[str, str], data: Path) -> tuple[str, str]:
    if asked.url:
        return asked.url, "--url"
    left = None if asked.data is None else _left_address(data)
    if left is not None:
        return left, f"the state folder {data}"
    for name in ("FIRST_BASE_URL", "OPENAI_BASE_URL"):
        if environ.get(name):
            return environ[name], name
    left = _left_address(data)
    return (left, f"the state folder {data}") if left is not None else (DEFAULT_URL, "the default")


def _left_address(data: Path) -> str | None:
    """Read where the service of a state folder listens; None when it does not run.

    A port that it has left may be somebody else's by now, who must not be sent its key.
    """
    try:
        url = json.loads((data / ADDRESS_FILE).read_text())["base_url"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    alive = any(listens(data / name) for name in (ADMIN_SOCKET, API_SOCKET))
    return url if alive and isinstance(url, str) and url else None


def listens(path: Path) -> bool:
    """Tell whether somebody listens at a Unix socket."""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            probe.connect(str(path))
    except OSError:
        return False
    return True


def _clean(url: str, named: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError(f"{url!r} ({named}) is no base URL; write for example {DEFAULT_URL}")
    if parts.username or parts.password:
        raise ConfigError(f"the base URL ({named}) holds a password; give the key in FIRST_API_KEY instead")
    path = parts.path.rstrip("/").removesuffix("/v1")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _key(asked: Asked, environ: Mapping[str, str], *, data: Path, named: str, base_url: str) -> tuple[str | None, str]:
    if asked.key_file is not None:
        try:
            return _usable(asked.key_file.read_text().strip(), f"--key-file {asked.key_file}")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the key file {asked.key_file} cannot be read: {error}") from error
    if environ.get("FIRST_API_KEY"):
        return _usable(environ["FIRST_API_KEY"].strip(), "FIRST_API_KEY")
    other = environ.get("OPENAI_API_KEY", "").strip()
    if other and (named == "OPENAI_BASE_URL" or (other.startswith("fk-") and named != "the default")):
        return _usable(other, "OPENAI_API_KEY")
    local = Target(base_url=base_url, named=named).loopback or named.startswith("the state folder")
    file = data / KEY_FILE
    if local and named != "OPENAI_BASE_URL":
        try:
            return _usable(file.read_text().strip(), str(file))
        except (OSError, UnicodeDecodeError):
            pass
    return _usable(other, "OPENAI_API_KEY") if other.startswith("fk-") else (None, "")


def _usable(key: str, key_from: str) -> tuple[str, str]:
    """Refuse what cannot stand in a header, without ever showing it."""
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"what {key_from} holds is no API key; ask an operator for one (`first keys create NAME`)")
    return key, key_from
