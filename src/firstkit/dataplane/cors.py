# SPDX-License-Identifier: Apache-2.0
"""Cross-origin requests of browsers (WHATWG Fetch, section 3.2): origins from the settings, no cookies."""

from __future__ import annotations

from firstkit.dataplane.head import Head

ALLOWED_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
MAX_AGE_S = 600
EXPOSED = (
    b"x-request-id, x-first-cluster, x-first-instance, retry-after, x-ratelimit-limit-requests, "
    b"x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, "
    b"x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)
RESPONSE_HEADERS = frozenset(
    {
        b"access-control-allow-origin",
        b"access-control-allow-methods",
        b"access-control-allow-headers",
        b"access-control-allow-credentials",
        b"access-control-expose-headers",
        b"access-control-max-age",
    }
)
"""The gateway alone sets these; an upstream's are dropped."""


def allowed(origin: bytes, origins: tuple[str, ...]) -> bool:
    """Tell whether an origin may read answers."""
    return bool(origins) and ("*" in origins or origin.decode("latin-1") in origins)


def lines(head: Head | None, origins: tuple[str, ...]) -> bytes:
    """Write the header lines for an answer; b"" when the request does not come from another origin's page."""
    if head is None or not origins:
        return b""
    origin = head.named.get(b"origin")
    if origin is None or not allowed(origin, origins):
        return b"vary: origin\r\n" if origin is not None else b""
    return (
        b"access-control-allow-origin: "
        + origin
        + b"\r\nvary: origin\r\naccess-control-expose-headers: "
        + EXPOSED
        + b"\r\n"
    )


def is_preflight(head: Head) -> bool:
    """Tell whether a browser asks whether it may send a request."""
    return (
        head.method == "OPTIONS"
        and b"origin" in head.named
        and any(name == b"access-control-request-method" for name, _ in head.headers)
    )


def preflight(head: Head, origins: tuple[str, ...]) -> bytes:
    """Write the header lines that answer a preflight."""
    origin = head.named[b"origin"]
    if not allowed(origin, origins):
        return b"vary: origin\r\n"
    asked = next((value for name, value in head.headers if name == b"access-control-request-headers"), b"")
    result = (
        b"access-control-allow-origin: " + origin + b"\r\nvary: origin, access-control-request-headers\r\n"
        b"access-control-allow-methods: " + ALLOWED_METHODS + b"\r\n"
        b"access-control-max-age: %d\r\n" % MAX_AGE_S
    )
    return result + (b"access-control-allow-headers: " + asked + b"\r\n" if asked else b"")
