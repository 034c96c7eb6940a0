# SPDX-License-Identifier: Apache-2.0
"""Read and judge the head of a client's request: llhttp's grammar, then what httptools leaves to us."""

from __future__ import annotations

import re

import httptools

from firstkit.core.errors import FirstError, InvalidRequest, TooLarge
from firstkit.dataplane.routes import PLAIN, Target, read_target

HEADERS_LIMIT = 128
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,15})\r\n")
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=\-]+)(?::[0-9]{0,5})?")
_ONCE = frozenset(
    {
        b"host",
        b"content-length",
        b"content-type",
        b"authorization",
        b"x-api-key",
        b"expect",
        b"origin",
        b"x-first-max-wait",
        b"x-request-id",
    }
)
_KEPT = _ONCE | {b"transfer-encoding", b"connection", b"upgrade", b"content-encoding"}
"""Headers that decide something here; looked up by name."""


class Prepared:
    """What follows from a head alone, worked out once: a client that keeps its connection sends the same one again.

    `digest` is what the caller's credential is looked up by (None: there is no credential, or `refusal` says what is
    wrong with the head); `forwarded` are the header lines that go on to an engine.
    """

    __slots__ = ("client_id", "credential", "digest", "forwarded", "max_wait_s", "refusal")

    def __init__(self) -> None:
        self.refusal: FirstError | None = None
        self.credential: str | None = None
        self.digest = b""
        self.forwarded = b""
        self.max_wait_s: float | None = None
        self.client_id = ""


class Head:
    """One request's head. `headers` are all of them, names in lower case; `named` holds those that decide something."""

    __slots__ = (
        "chunked",
        "headers",
        "keep_alive",
        "length",
        "method",
        "minor",
        "named",
        "prepared",
        "target",
        "upgrade",
    )

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.named: dict[bytes, bytes] = {}
        self.method = ""
        self.minor = 1
        self.target: Target = PLAIN[b"/tokenize"]
        self.length: int | None = None
        self.chunked = False
        self.keep_alive = True
        self.upgrade = False
        self.prepared: Prepared | None = None

    @property
    def has_body(self) -> bool:
        """Tell whether a body follows."""
        return self.chunked or bool(self.length)

    def get(self, name: bytes) -> bytes:
        """Return a deciding header's value, b"" when there is none."""
        return self.named.get(name, b"")


class HeadReader:
    """Reads the heads of one connection, one after the other.

    The last one is remembered without its Content-Length: most clients send the same head with every request, so it is
    parsed and judged once. The same `Head` comes back with another length; the one before has been answered by then.
    """

    __slots__ = ("_key", "_last", "_raw")

    def __init__(self) -> None:
        self._key: bytes = b""
        self._raw: bytes = b""
        self._last: Head | None = None

    def read(self, raw: bytes) -> Head:
        """Read one head, which must be complete and end in its empty line; raises FirstError."""
        if raw == self._raw and self._last is not None:
            return self._last
        match = _LENGTH.search(raw)
        if match is None:
            return read_head(raw)
        start, end = match.span(1)
        key = raw[:start] + raw[end:]
        last = self._last
        if last is not None and key == self._key:
            last.length = int(match[1])
            self._raw = raw
            return last
        head = read_head(raw)
        if head.length == int(match[1]):
            self._key, self._raw, self._last = key, raw, head
        return head


class _Collector:
    """What httptools calls back while it reads one head."""

    __slots__ = ("complete", "head", "stray", "url")

    def __init__(self) -> None:
        self.head = Head()
        self.url = b""
        self.complete = False
        self.stray = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        head = self.head
        name = name.lower()
        value = value.strip(b" \t")
        head.headers.append((name, value))
        if name in _KEPT:
            named = head.named
            if name not in named:
                named[name] = value
            elif name in _ONCE:
                raise _Refused(f"The header {name.decode()} is given twice.")
            else:
                named[name] += b", " + value

    def on_headers_complete(self) -> None:
        self.stray = self.complete
        self.complete = True

    def on_body(self, body: bytes) -> None:  # noqa: ARG002 — httptools' signature
        self.stray = True


class _Refused(Exception):
    """Raised through httptools, which hands it on as the context of its own error."""


def bad(message: str, code: str = "invalid_http") -> InvalidRequest:
    """Build the error for a head that does not keep to HTTP."""
    return InvalidRequest(message, code=code)


def read_head(raw: bytes) -> Head:
    """Read one head, which must be complete and end in its empty line; raises FirstError."""
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        context = error.__context__
        raise bad(str(context) if isinstance(context, _Refused) else f"This is not HTTP/1.1: {error}.") from None
    if not collector.complete or collector.stray:
        raise bad("The request's head cannot be read.")
    head = collector.head
    method = parser.get_method()
    version = parser.get_http_version()
    url = collector.url
    if not raw.startswith(b"%b %b HTTP/1." % (method, url)):
        if version not in {"1.1", "1.0"}:
            raise bad(f"HTTP/{version} is not spoken here; HTTP/1.1 is.", "version_not_supported")
        raise bad("The request line must be method, target and version, each after one space.")
    head.method = method.decode("ascii")
    head.minor = 1 if version == "1.1" else 0
    _judge(head)
    head.target = target = PLAIN.get(url) or read_target(url)
    if target.authority is not None and target.authority.lower() != head.get(b"host").lower() and head.minor:
        raise bad("The host of the request target is not the one of the Host header.")
    return head


def _judge(head: Head) -> None:
    """Check what httptools leaves to us, and work out body and connection."""
    named = head.named
    if len(head.headers) > HEADERS_LIMIT:
        raise TooLarge(f"More than {HEADERS_LIMIT} headers.", code="head_too_large")
    if head.method not in METHODS:
        raise bad(f"The method {head.method} is not known here.", "method_not_known")
    host = named.get(b"host")
    if host is None:
        if head.minor:
            raise bad("The Host header is missing.")
    elif not _HOST.fullmatch(host):
        raise bad("The Host header cannot be read.")
    length = named.get(b"content-length")
    if length is not None:
        if not length.isdigit() or len(length) > 15:
            raise bad("Content-Length must be a number.")
        head.length = int(length)
    coding = named.get(b"transfer-encoding")
    if coding is not None:
        _judge_coding(head, coding)
    connection = named.get(b"connection")
    if connection is not None:
        tokens = {token.strip().lower() for token in connection.split(b",")}
        head.keep_alive = bool(head.minor) and b"close" not in tokens
        head.upgrade = b"upgrade" in tokens and b"upgrade" in named and bool(head.minor)
    else:
        head.keep_alive = bool(head.minor)


def _judge_coding(head: Head, coding: bytes) -> None:
    if not head.minor:
        raise bad("Transfer-Encoding does not exist in HTTP/1.0.")
    if head.length is not None:
        raise bad("Content-Length and Transfer-Encoding exclude each other.")
    if coding.lower() != b"chunked":
        raise bad("The only transfer coding here is chunked.", "transfer_encoding_not_supported")
    head.chunked = True


def head_end(buffer: bytes, limit: int) -> int:
    """Find where the head at the start of the buffer ends; 0 when it is unfinished. Raises FirstError early."""
    end = buffer.find(b"\r\n\r\n", 0, limit + 4)
    if end >= 0:
        return end + 4
    if len(buffer) > limit:
        raise TooLarge(f"The request's head is longer than {limit} bytes.", code="head_too_large")
    if not 65 <= buffer[0] <= 90:
        raise bad("This is not HTTP/1.1: a request begins with its method.")
    at = buffer.find(b"\n")
    if at > 0 and buffer[at - 1] != 13:
        raise bad("A line of the head ends in LF alone; HTTP/1.1 asks for CR LF.")
    return 0
